-- Exact median without collecting a group in memory: count each value, sum the counts in value
-- order, and average the one or two values at the middle positions.
, followed AS (
    SELECT join_year, follower_count FROM posts
    WHERE join_year BETWEEN 2015 AND 2020 AND follower_count IS NOT NULL
),
counts AS (
    SELECT join_year, follower_count, count(*) AS pins
    FROM followed
    GROUP BY join_year, follower_count
),
running AS (
    SELECT join_year, follower_count, pins,
        sum(pins) OVER (
            PARTITION BY join_year ORDER BY follower_count ROWS UNBOUNDED PRECEDING
        ) AS upto
    FROM counts
),
totals AS (
    SELECT join_year, count(*) AS total FROM followed GROUP BY join_year
)
SELECT totals.join_year, avg(CAST(follower_count AS DOUBLE)) AS median_follower_count
FROM totals JOIN running ON running.join_year = totals.join_year
WHERE upto >= (total + 1) / 2 AND upto - pins < total / 2 + 1
GROUP BY totals.join_year
ORDER BY join_year
