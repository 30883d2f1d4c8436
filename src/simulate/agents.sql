-- simulate::agents
-- The agents of a pool, 20,000 at most: as many as are planned for.
SELECT a.name, a.resource_domain, a.live, a.scheduling = 'active' AS active, a.capacity, a.slots_used, a.labels
FROM agents a
WHERE a.pool = $1
ORDER BY a.name
LIMIT 20000
