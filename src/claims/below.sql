-- claims::below
-- When the oldest of the sessions was queued that can be started and should not be there: those below the
-- watermark.
SELECT min(x.queued_at) AS oldest
FROM json_to_recordset($2) AS g (key text, owner text, rank smallint, below timestamptz)
CROSS JOIN LATERAL (
    SELECT s.queued_at FROM sessions s
    WHERE s.agent_pool = $1 AND s.pool_work = 'start'
        AND s.requires_key = g.key COLLATE "C" AND s.owner_key = g.owner COLLATE "C"
        AND s.queue_rank = g.rank AND s.queued_at < g.below
    ORDER BY s.requires_key, s.owner_key, s.queue_rank, s.queued_at LIMIT 1
) x
