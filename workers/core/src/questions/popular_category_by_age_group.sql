, counts AS (
    SELECT age_group, category, count(*) AS category_count
    FROM posts
    WHERE age_group IS NOT NULL AND category IS NOT NULL
    GROUP BY age_group, category
),
ranked AS (
    SELECT *, row_number() OVER (
        PARTITION BY age_group ORDER BY category_count DESC, category
    ) AS ranking
    FROM counts
)
SELECT age_group, category, category_count FROM ranked WHERE ranking = 1 ORDER BY age_group
