-- claims::pick_start
-- Sessions that any agent of the pool may start. The limit is a literal, since a parameter would
-- make the planner expect a tenth of the table; the order is by columns that only the queue's
-- index has.
SELECT {columns} FROM sessions s
WHERE s.agent_pool = $1 AND s.pool_work = 'start'
    AND NOT coalesce(s.avoid_until > now() AND s.avoid_agent = ALL ($2), false)
ORDER BY s.queue_rank, s.queued_at
LIMIT {limit}
FOR UPDATE SKIP LOCKED
