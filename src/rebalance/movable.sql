-- rebalance::movable
-- What may be moved away from these agents, of each the newest 10,000: it runs, is wanted so, and is
-- neither in a move nor otherwise handed over. If the second parameter says so, also nothing that a
-- rebalance which began by itself has moved in the last 10 minutes.
SELECT a.name AS agent, s.id, s.lease_epoch, s.since
FROM unnest($1) AS a (name)
CROSS JOIN LATERAL (
    SELECT x.id, x.lease_epoch, coalesce(x.started_at, x.created_at) AS since
    FROM sessions x
    WHERE x.assigned_agent_id = a.name AND x.offered_until IS NULL
        AND x.state = 'running' AND x.desired_state = 'running' AND NOT x.handing_over
        AND NOT EXISTS (SELECT FROM rebalance_moves m WHERE m.session_id = x.id AND m.done_at IS NULL)
        AND NOT ($2 AND EXISTS (SELECT FROM rebalance_moves m JOIN rebalances r ON r.id = m.rebalance_id
            WHERE m.session_id = x.id AND m.state = 'moved' AND r.automatic
                AND m.done_at > now() - interval '10 minutes'))
    ORDER BY since DESC, x.id DESC
    LIMIT 10000
) s
LIMIT 200000
