-- claims::pick_start
-- The heads of some queues of starts: sessions that any agent of the pool may start, by selector and
-- owner. The limit is a literal, since a parameter would make the planner expect a tenth of the
-- table; the order is by columns that only the queues' index has. Each is read from where it goes on, as
-- far as that is known (`claims::watermark`): in ranges, each of which begins at a place of the index. Of one
-- queue no more are locked than $5.
SELECT {columns}
FROM json_to_recordset($2) AS q (key text, owner text, from_rank smallint, from_at timestamptz, to_rank smallint)
CROSS JOIN LATERAL (
    SELECT x.* FROM sessions x
    WHERE x.agent_pool = $1 AND x.pool_work = 'start'
        AND x.requires_key = q.key COLLATE "C" AND x.owner_key = q.owner COLLATE "C"
        AND (x.queue_rank, x.queued_at) >= (q.from_rank, q.from_at) AND x.queue_rank < q.to_rank
        AND NOT coalesce(x.avoid_until > now() AND x.avoid_agent = ALL ($3), false)
        AND x.id <> ALL ($4)
    ORDER BY x.queue_rank, x.queued_at
    LIMIT {limit}
    FOR UPDATE SKIP LOCKED
) s
LIMIT $5
