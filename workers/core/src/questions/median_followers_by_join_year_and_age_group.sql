-- Exact median without collecting a group in memory: count each value, sum the counts in value
-- order, and average the one or two values at the middle positions.
, followed AS (
    SELECT join_year, age_group, follower_count FROM posts
    WHERE join_year BETWEEN 2015 AND 2020 AND age_group IS NOT NULL AND follower_count IS NOT NULL
),
counts AS (
    SELECT join_year, age_group, follower_count, count(*) AS pins
    FROM followed
    GROUP BY join_year, age_group, follower_count
),
running AS (
    SELECT join_year, age_group, follower_count, pins,
        sum(pins) OVER (
            PARTITION BY join_year, age_group ORDER BY follower_count ROWS UNBOUNDED PRECEDING
        ) AS upto
    FROM counts
),
totals AS (
    SELECT join_year, age_group, count(*) AS total FROM followed GROUP BY join_year, age_group
)
SELECT
    totals.join_year, totals.age_group, avg(CAST(follower_count AS DOUBLE)) AS median_follower_count
FROM totals JOIN running
    ON running.join_year = totals.join_year AND running.age_group = totals.age_group
WHERE upto >= (total + 1) / 2 AND upto - pins < total / 2 + 1
GROUP BY totals.join_year, totals.age_group
ORDER BY join_year, age_group
