-- upkeep::delete_ended
-- Sessions that ended long ago, and what belongs to them. Their events stay for the stream, for as
-- long as events are kept.
WITH old AS MATERIALIZED (
    SELECT s.id FROM sessions s JOIN pools p ON p.name = s.agent_pool
    WHERE s.state = 'terminated' AND s.ended_at < now() - make_interval(secs => p.keep_ended_seconds)
    ORDER BY s.ended_at LIMIT 500 FOR UPDATE OF s SKIP LOCKED
), ledger AS (
    DELETE FROM lease_ledger l USING old o WHERE l.session_id = o.id
), activity AS (
    DELETE FROM session_activity a USING old o WHERE a.session_id = o.id
), gone AS (
    DELETE FROM sessions s USING old o WHERE s.id = o.id RETURNING s.id, s.agent_pool, s.owner
), told AS (
    INSERT INTO events (kind, at, pool, owner, session_id, actor_type, actor_name)
    SELECT 'session.deleted', now(), g.agent_pool, g.owner, g.id, 'system', 'retention' FROM gone g
    RETURNING batch
), waiting AS (
    INSERT INTO event_inbox (batch) SELECT t.batch FROM told t
)
SELECT count(*) AS deleted FROM gone
