-- upkeep::delete_ended
WITH old AS MATERIALIZED (
    SELECT s.id FROM sessions s JOIN pools p ON p.name = s.agent_pool
    WHERE s.state = 'terminated' AND s.ended_at < now() - make_interval(secs => p.keep_ended_seconds)
    ORDER BY s.ended_at LIMIT 500 FOR UPDATE OF s SKIP LOCKED
), history AS (
    DELETE FROM events e USING old o WHERE e.session_id = o.id
), ledger AS (
    DELETE FROM lease_ledger l USING old o WHERE l.session_id = o.id
), activity AS (
    DELETE FROM session_activity a USING old o WHERE a.session_id = o.id
), gone AS (
    DELETE FROM sessions s USING old o WHERE s.id = o.id RETURNING s.id, s.agent_pool
), told AS (
    INSERT INTO events (kind, at, pool, session_id, actor_type, actor_name)
    SELECT 'session.deleted', now(), g.agent_pool, g.id, 'system', 'retention' FROM gone g
)
SELECT count(*) AS deleted FROM gone
