SELECT join_year, median(CAST(follower_count AS DOUBLE)) AS median_follower_count
FROM pin JOIN users ON pin.index_id = users.ind
WHERE join_year BETWEEN 2015 AND 2020 AND follower_count IS NOT NULL
GROUP BY join_year
ORDER BY join_year
