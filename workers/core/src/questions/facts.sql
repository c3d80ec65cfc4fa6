-- What every question starts from: each pin with where, when and by whom it was posted. Years are those of the UTC timestamps; 50+
-- means 51 and over, and younger or unknown ages have no group.
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
