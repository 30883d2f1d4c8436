-- rebalance::begin
WITH begun AS (
    INSERT INTO rebalances (id, pool, status, automatic, max_parallel, started_by, started_at)
    VALUES ($1, $2, 'in_progress', $3, $4, $5, now())
    RETURNING id
)
INSERT INTO rebalance_moves (rebalance_id, place, session_id, lease_epoch, from_agent, to_agent, reason)
SELECT b.id, m.place, m.session_id, m.lease_epoch, m.from_agent, m.to_agent, m.reason
FROM begun b, json_to_recordset($6) AS m (place integer, session_id uuid, lease_epoch bigint,
    from_agent text, to_agent text, reason text)
