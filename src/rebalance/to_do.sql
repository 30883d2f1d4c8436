-- rebalance::to_do
-- Moves about which something is to be done now: those on their way for longer than the second
-- parameter in seconds, or whose target has gone before the holder has let go; those that the target
-- did not claim in time, so that others are told; and the next ones of the plan, as long as no more
-- are on their way than the rebalance allows.
WITH moving AS MATERIALIZED (
    SELECT o.*, o.asked_at + make_interval(secs => $2) <= now() AS is_late
    FROM rebalance_moves o WHERE o.rebalance_id = $1 AND o.state = 'in_progress'
), next AS MATERIALIZED (
    SELECT o.*, false AS is_late
    FROM rebalance_moves o WHERE o.rebalance_id = $1 AND o.state = 'planned'
        AND (SELECT r.status = 'in_progress' FROM rebalances r WHERE r.id = $1)
    ORDER BY o.place
    LIMIT (SELECT greatest(0, r.max_parallel - (SELECT count(*) FROM moving)) FROM rebalances r WHERE r.id = $1)
)
SELECT o.place, o.session_id, o.lease_epoch, o.from_agent, o.to_agent, o.state, o.is_late,
    s.resource_domain,
    coalesce(t.can_take, false) AS can_take,
    coalesce(t.can_take AND t.takes, false) AS takes,
    coalesce(t.room, 0) AS room,
    coalesce(s.assigned_agent_id IS NULL AND s.reserved_until <= now(), false) AS is_open_to_all
FROM (SELECT * FROM moving UNION ALL SELECT * FROM next) o
LEFT JOIN sessions s ON s.id = o.session_id
LEFT JOIN LATERAL (
    SELECT a.live AND a.scheduling = 'active' AND a.pool = s.agent_pool
            AND a.resource_domain = s.resource_domain AS can_take,
        coalesce(a.passed_over_until <= now(), true) AS takes,
        a.capacity::bigint - a.slots_used - (SELECT count(*) FROM moving i JOIN sessions x ON x.id = i.session_id
            WHERE i.to_agent = a.name AND x.assigned_agent_id IS DISTINCT FROM a.name) AS room
    FROM agents a WHERE a.name = o.to_agent
) t ON true
WHERE o.state = 'planned' OR o.is_late
    OR (s.handing_over AND NOT coalesce(t.can_take, false))
    OR (s.assigned_agent_id IS NULL AND s.reserved_until <= now())
ORDER BY o.place
