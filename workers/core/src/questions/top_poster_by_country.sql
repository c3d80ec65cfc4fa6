, posters AS (
    SELECT country, poster_name, follower_count
    FROM posts
    WHERE country IS NOT NULL AND poster_name IS NOT NULL AND follower_count IS NOT NULL
),
tops AS (
    SELECT country, max(follower_count) AS follower_count FROM posters GROUP BY country
)
SELECT tops.country, min(posters.poster_name) AS poster_name, tops.follower_count
FROM tops JOIN posters
    ON posters.country = tops.country AND posters.follower_count = tops.follower_count
GROUP BY tops.country, tops.follower_count
ORDER BY country
