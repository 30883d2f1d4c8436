-- claims::pick_start
-- The heads of some queues of starts: sessions that any agent of the pool may start, by selector and
-- owner. The limit is a literal, since a parameter would make the planner expect a tenth of the
-- table; the order is by columns that only the queues' index has.
SELECT {columns}
FROM unnest($2, $3) AS q (requires_key, owner_key)
CROSS JOIN LATERAL (
    SELECT x.* FROM sessions x
    WHERE x.agent_pool = $1 AND x.pool_work = 'start'
        AND x.requires_key = q.requires_key AND x.owner_key = q.owner_key
        AND NOT coalesce(x.avoid_until > now() AND x.avoid_agent = ALL ($4), false)
        AND x.id <> ALL ($5)
    ORDER BY x.queue_rank, x.queued_at
    LIMIT {limit}
    FOR UPDATE SKIP LOCKED
) s
