-- shares::waits
-- Whether anything waits to be started in a pool, where it is not known to be spent.
SELECT EXISTS (
        SELECT FROM json_to_recordset($2) AS k (from_key text, to_key text)
        CROSS JOIN LATERAL (SELECT FROM sessions s
            WHERE s.agent_pool = $1 AND s.pool_work = 'start'
                AND s.requires_key >= k.from_key COLLATE "C" AND s.requires_key < k.to_key COLLATE "C"
            ORDER BY s.requires_key, s.owner_key, s.queue_rank, s.queued_at LIMIT 1) x)
    OR EXISTS (
        SELECT FROM json_to_recordset($3) AS o (key text, from_owner text, to_owner text)
        CROSS JOIN LATERAL (SELECT FROM sessions s
            WHERE s.agent_pool = $1 AND s.pool_work = 'start' AND s.requires_key = o.key COLLATE "C"
                AND s.owner_key >= o.from_owner COLLATE "C" AND s.owner_key < o.to_owner COLLATE "C"
            ORDER BY s.requires_key, s.owner_key, s.queue_rank, s.queued_at LIMIT 1) x)
    OR EXISTS (
        SELECT FROM json_to_recordset($4) AS r (key text, owner text, from_rank smallint, from_at timestamptz,
            to_rank smallint)
        CROSS JOIN LATERAL (SELECT FROM sessions s
            WHERE s.agent_pool = $1 AND s.pool_work = 'start'
                AND s.requires_key = r.key COLLATE "C" AND s.owner_key = r.owner COLLATE "C"
                AND (s.queue_rank, s.queued_at) >= (r.from_rank, r.from_at) AND s.queue_rank < r.to_rank
            ORDER BY s.requires_key, s.owner_key, s.queue_rank, s.queued_at LIMIT 1) x)
    AS waits
