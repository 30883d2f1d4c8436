-- claims::before_new
-- What a new session of a pool may have to wait behind: whether any start waits there, and which of
-- these owners have a limit, so that their sessions are counted by a round.
SELECT (SELECT true FROM sessions s WHERE s.agent_pool = $1 AND s.pool_work = 'start'
        ORDER BY s.requires_key, s.owner_key, s.queue_rank, s.queued_at LIMIT 1) IS NOT NULL AS starts_wait,
    ARRAY (SELECT o.owner FROM pool_owners o
        WHERE o.pool = $1 AND o.owner = ANY ($2) AND o.max_running IS NOT NULL) AS limited,
    (SELECT f.lease_epoch_floor FROM fences f) AS epoch_floor
