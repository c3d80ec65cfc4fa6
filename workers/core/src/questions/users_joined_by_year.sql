SELECT join_year, count(*) AS number_users_joined
FROM users
WHERE join_year BETWEEN 2015 AND 2020
GROUP BY join_year
ORDER BY join_year
