SELECT age_group, median(CAST(follower_count AS DOUBLE)) AS median_follower_count
FROM pin JOIN users ON pin.index_id = users.ind
WHERE age_group IS NOT NULL AND follower_count IS NOT NULL
GROUP BY age_group
ORDER BY age_group
