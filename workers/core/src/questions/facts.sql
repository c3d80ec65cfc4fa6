-- Shared by all questions: each pin with its place, time and poster. Years are in UTC. Age group
-- 50+ means 51 and over; ages under 18 and unknown ages have no group.
WITH posts AS (
    SELECT
        category, poster_name, follower_count, country,
        CAST(date_part('year', "timestamp") AS INT) AS post_year,
        CAST(date_part('year', date_joined) AS INT) AS join_year,
        CASE
            WHEN age BETWEEN 18 AND 24 THEN '18-24'
            WHEN age BETWEEN 25 AND 35 THEN '25-35'
            WHEN age BETWEEN 36 AND 50 THEN '36-50'
            WHEN age >= 51 THEN '50+'
        END AS age_group
    FROM facts
)
