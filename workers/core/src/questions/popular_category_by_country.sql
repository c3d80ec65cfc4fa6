, counts AS (
    SELECT country, category, count(*) AS category_count
    FROM posts
    WHERE country IS NOT NULL AND category IS NOT NULL
    GROUP BY country, category
),
ranked AS (
    SELECT *, row_number() OVER (
        PARTITION BY country ORDER BY category_count DESC, category
    ) AS ranking
    FROM counts
)
SELECT country, category, category_count FROM ranked WHERE ranking = 1 ORDER BY country
