-- rebalance::members
-- The live agents of a pool that are not cordoned, with what they will hold once the moves on their
-- way are made.
WITH open AS MATERIALIZED (
    SELECT m.from_agent, m.to_agent, s.assigned_agent_id AS holder
    FROM rebalances r
    JOIN rebalance_moves m ON m.rebalance_id = r.id AND m.done_at IS NULL
    JOIN sessions s ON s.id = m.session_id
    WHERE r.pool = $1 AND r.finished_at IS NULL
)
SELECT a.name, a.resource_domain, a.capacity::bigint AS capacity,
    a.slots_used
        - (SELECT count(*) FROM open o WHERE o.from_agent = a.name AND o.holder = a.name)
        + (SELECT count(*) FROM open o WHERE o.to_agent = a.name AND o.holder IS DISTINCT FROM a.name)
        AS used,
    coalesce(a.passed_over_until <= now(), true) AS takes
FROM agents a
WHERE a.pool = $1 AND a.live AND a.scheduling = 'active'
ORDER BY a.resource_domain, a.name
