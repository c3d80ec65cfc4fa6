SELECT join_year, age_group, median(CAST(follower_count AS DOUBLE)) AS median_follower_count
FROM pin JOIN users ON pin.index_id = users.ind
WHERE join_year BETWEEN 2015 AND 2020 AND age_group IS NOT NULL AND follower_count IS NOT NULL
GROUP BY join_year, age_group
ORDER BY join_year, age_group
