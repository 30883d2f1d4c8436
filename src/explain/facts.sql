-- explain::facts
-- What is known of why these sessions wait. A place in a queue is counted along the queue's own
-- index, up to a limit; beyond it the count is one more than the limit.
SELECT s.id, now() AS now, s.requires_key, p.brake_since, d.lost_since, h.agent AS former_holder, h.end_reason, h.is_lost,
    o.max_running, r.deadline_at AS drain_deadline_at,
    EXISTS (SELECT FROM agents a
        WHERE a.pool = s.agent_pool AND a.resource_domain = s.resource_domain AND a.live) AS domain_live,
    CASE WHEN o.max_running IS NOT NULL THEN (SELECT count(*) FROM (
        SELECT FROM sessions x
        WHERE x.agent_pool = s.agent_pool AND x.owner_key = s.owner_key AND x.takes_place AND x.owner IS NOT NULL
        LIMIT {limit}) t) END AS running,
    CASE WHEN s.domain_work IS NOT NULL THEN (SELECT count(*) FROM (
        SELECT FROM sessions x
        WHERE x.agent_pool = s.agent_pool AND x.resource_domain = s.resource_domain
            AND x.domain_work = s.domain_work AND x.domain_work IS NOT NULL
            AND (x.queue_rank, x.queued_at) <= (s.queue_rank, s.queued_at)
            AND (x.queued_at <> s.queued_at OR x.queue_rank <> s.queue_rank OR x.id <= s.id)
        ORDER BY x.queue_rank, x.queued_at
        LIMIT {limit}) t) END AS domain_position,
    CASE WHEN s.pool_work = 'start' THEN (SELECT count(*) FROM (
        SELECT FROM sessions x
        WHERE x.agent_pool = s.agent_pool AND x.pool_work = 'start'
            AND x.requires_key = s.requires_key AND x.owner_key = s.owner_key
            AND (x.queue_rank, x.queued_at) <= (s.queue_rank, s.queued_at)
            AND (x.queued_at <> s.queued_at OR x.queue_rank <> s.queue_rank OR x.id <= s.id)
        ORDER BY x.queue_rank, x.queued_at
        LIMIT {limit}) t) END AS pool_position
FROM sessions s
JOIN pools p ON p.name = s.agent_pool
LEFT JOIN resource_domains d ON d.pool = s.agent_pool AND d.name = s.resource_domain
LEFT JOIN pool_owners o ON o.pool = s.agent_pool AND o.owner = s.owner
LEFT JOIN LATERAL (
    SELECT g.agent, g.end_reason, EXISTS (SELECT FROM lost_holds l WHERE l.agent = g.agent
        AND l.session_id = g.session_id AND l.lease_epoch = g.lease_epoch) AS is_lost
    FROM lease_ledger g
    WHERE g.session_id = s.id AND g.lease_epoch = s.lease_epoch AND s.held_back_until IS NOT NULL
) h ON true
LEFT JOIN LATERAL (
    SELECT n.deadline_at FROM drain_agents m JOIN drains n ON n.id = m.drain_id
    WHERE m.agent = s.assigned_agent_id AND n.status = 'in_progress'
    ORDER BY n.started_at LIMIT 1
) r ON true
WHERE s.id = ANY ($1)
