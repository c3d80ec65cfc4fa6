, places AS (
    SELECT
        country, poster_name, follower_count,
        row_number() OVER (PARTITION BY country ORDER BY follower_count DESC, poster_name) AS place
    FROM pin JOIN geos ON pin.index_id = geos.ind
    WHERE country IS NOT NULL AND poster_name IS NOT NULL AND follower_count IS NOT NULL
)
SELECT country, poster_name, follower_count FROM places WHERE place = 1 ORDER BY country
