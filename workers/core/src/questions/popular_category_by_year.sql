, counts AS (
    SELECT post_year, category, count(*) AS category_count
    FROM posts
    WHERE post_year BETWEEN 2018 AND 2022 AND category IS NOT NULL
    GROUP BY post_year, category
),
ranked AS (
    SELECT *, row_number() OVER (
        PARTITION BY post_year ORDER BY category_count DESC, category
    ) AS ranking
    FROM counts
)
SELECT post_year, category, category_count FROM ranked WHERE ranking = 1 ORDER BY post_year
