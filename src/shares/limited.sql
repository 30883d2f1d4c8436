-- shares::limited
-- Which of these places are one of a limited number: pool by pool.
SELECT DISTINCT p.pool FROM unnest($1, $2) AS p (pool, owner)
JOIN pool_owners o ON o.pool = p.pool AND o.owner = p.owner AND o.max_running IS NOT NULL
