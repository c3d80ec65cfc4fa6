, joined AS (
    SELECT CAST(date_part('year', date_joined) AS INT) AS join_year FROM "user"
)
SELECT join_year, count(*) AS number_users_joined
FROM joined
WHERE join_year BETWEEN 2015 AND 2020
GROUP BY join_year
ORDER BY join_year
