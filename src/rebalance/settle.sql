-- rebalance::settle
-- What became of the moves that are on their way. The ledger knows: whether the hold that was to be
-- given up was, and who was the first to have the session accepted after it.
UPDATE rebalance_moves m SET state = f.outcome, done_at = now()
FROM (
    SELECT o.place, CASE
        WHEN s.id IS NULL THEN 'skipped'
        -- Still held: the request stands, or somebody has taken it back or wants something else.
        WHEN l.end_reason IS NULL AND s.handing_over AND s.reserved_for = o.to_agent THEN NULL
        WHEN l.end_reason IS NULL OR l.end_reason <> 'released' THEN 'skipped'
        WHEN taker.agent = o.to_agent THEN 'moved'
        WHEN taker.agent IS NOT NULL THEN 'failed'
        WHEN s.state <> 'running' OR s.desired_state <> 'running' THEN 'skipped'
    END AS outcome
    FROM rebalance_moves o
    LEFT JOIN sessions s ON s.id = o.session_id
    LEFT JOIN lease_ledger l ON l.session_id = o.session_id AND l.lease_epoch = o.lease_epoch
    LEFT JOIN LATERAL (
        SELECT n.agent FROM lease_ledger n
        WHERE n.session_id = o.session_id AND n.lease_epoch > o.lease_epoch AND n.accepted_at IS NOT NULL
        ORDER BY n.lease_epoch LIMIT 1
    ) taker ON true
    WHERE o.rebalance_id = $1 AND o.state = 'in_progress'
) f
WHERE m.rebalance_id = $1 AND m.place = f.place AND m.state = 'in_progress' AND f.outcome IS NOT NULL
RETURNING m.state
