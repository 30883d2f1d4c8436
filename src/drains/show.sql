-- drains::show
SELECT d.agent, d.pool, d.status, d.reason, d.started_by, d.force, d.started_at, d.deadline_at,
    d.finished_at, p.on_lost, clock_timestamp() >= d.deadline_at AS is_late,
    p.brake_since IS NOT NULL OR EXISTS (SELECT FROM pool_silence q WHERE q.pool = p.name AND q.holds) AS is_braked,
    ARRAY (SELECT x.agent FROM drain_agents x
        JOIN agents a ON a.name = x.agent AND a.created_at = x.agent_since
        WHERE x.drain_id = d.id ORDER BY x.agent) AS agents,
    EXISTS (SELECT FROM drain_agents x WHERE x.drain_id = d.id) AS has_members,
    greatest(d.deadline_at, d.acted_at) AS grace_from,
    (SELECT count(*) FROM drain_sessions s WHERE s.drain_id = d.id) AS total,
    (SELECT count(*) FROM drain_sessions s WHERE s.drain_id = d.id AND s.outcome = 'handed_over') AS handed_over,
    (SELECT count(*) FROM drain_sessions s WHERE s.drain_id = d.id AND s.outcome IS NULL) AS remaining,
    EXISTS (SELECT FROM drain_agents x WHERE x.drain_id = d.id AND NOT EXISTS (
        SELECT FROM agents a WHERE a.pool = d.pool AND a.resource_domain = x.resource_domain
            AND a.live AND a.scheduling = 'active')) AS last_of_domain
FROM drains d JOIN pools p ON p.name = d.pool
WHERE d.id = $1
