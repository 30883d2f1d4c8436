-- simulate::limits
-- The owners of a pool that have a limit, and how many of their sessions count against it.
SELECT o.owner, o.max_running, (SELECT count(*) FROM (
    SELECT FROM sessions s
    WHERE s.agent_pool = $1 AND s.owner_key = o.owner AND s.takes_place AND s.owner IS NOT NULL
    LIMIT 1000000) t) AS running
FROM pool_owners o
WHERE o.pool = $1 AND o.max_running IS NOT NULL
ORDER BY o.owner
LIMIT 10000
