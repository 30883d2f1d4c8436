-- upkeep::delete_agents
-- Agents that never came back; the sessions they held were released when they expired. While a
-- brake is on, its pool's are what keeps it on. Their names are locked first, as by whoever registers.
WITH old AS MATERIALIZED (
    SELECT a.name FROM agent_names n JOIN agents a ON a.name = n.name JOIN pools p ON p.name = a.pool
    WHERE NOT a.live AND a.expired_at < now() - make_interval(secs => p.agent_retention_seconds)
        AND p.brake_since IS NULL
        AND NOT EXISTS (SELECT FROM sessions s WHERE s.assigned_agent_id = a.name)
    ORDER BY a.name LIMIT 500 FOR UPDATE OF n, a SKIP LOCKED
), gone AS (
    DELETE FROM agents a USING old o WHERE a.name = o.name RETURNING a.name, a.pool, a.incarnation
), forgotten AS (
    DELETE FROM lost_holds l USING gone g WHERE l.agent = g.name
), told AS (
    INSERT INTO events (kind, at, pool, agent, incarnation, actor_type, actor_name, reason)
    SELECT 'agent.deregistered', now(), g.pool, g.name, g.incarnation, 'system', 'retention', 'never_came_back'
    FROM gone g
    RETURNING batch
), waiting AS (
    INSERT INTO event_inbox (batch) SELECT t.batch FROM told t
)
SELECT count(*) AS deleted FROM gone
