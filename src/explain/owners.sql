-- explain::owners
-- How many other owners have something waiting with this selector: a walk over the index from one to
-- the next, however much each has, a hundred at most.
WITH RECURSIVE queue AS (
    (SELECT s.owner_key AS owner, 1 AS n FROM sessions s
        WHERE s.agent_pool = $1 AND s.pool_work = 'start' AND s.requires_key = $2
        ORDER BY s.requires_key, s.owner_key, s.queue_rank, s.queued_at LIMIT 1)
    UNION ALL
    SELECT x.owner_key, q.n + 1
    FROM queue q CROSS JOIN LATERAL (
        SELECT s.owner_key FROM sessions s
        WHERE s.agent_pool = $1 AND s.pool_work = 'start' AND s.requires_key = $2 AND s.owner_key > q.owner
        ORDER BY s.requires_key, s.owner_key, s.queue_rank, s.queued_at LIMIT 1
    ) x
    WHERE q.n < 101
)
SELECT count(*) AS others FROM queue q WHERE q.owner <> $3
