-- import::rollback
-- Removes what an import brought in and nobody has touched since, but for its events, which streams may
-- have shown. What an agent is just being given is waited for, and is not untouched any more then.
WITH old AS MATERIALIZED (
    SELECT s.id FROM imported_sessions i JOIN sessions s ON s.id = i.session_id
    WHERE i.source = $1 AND s.version = i.version AND s.lease_epoch = 0 AND s.assigned_agent_id IS NULL
        AND NOT EXISTS (SELECT FROM commands c WHERE c.session_id = s.id)
    ORDER BY s.id FOR UPDATE OF s
), activity AS (
    DELETE FROM session_activity a USING old o WHERE a.session_id = o.id
), checks AS (
    DELETE FROM limit_checks l USING old o WHERE l.session_id = o.id
), notes AS (
    DELETE FROM imported_sessions i USING old o WHERE i.source = $1 AND i.session_id = o.id
), gone AS (
    DELETE FROM sessions s USING old o WHERE s.id = o.id RETURNING s.id, s.agent_pool, s.owner
), told AS (
    INSERT INTO events (kind, at, pool, owner, session_id, actor_type, actor_name, reason)
    SELECT 'session.deleted', now(), g.agent_pool, g.owner, g.id, 'system', 'lessor import', 'rolled_back' FROM gone g
    RETURNING batch
), waiting AS (
    INSERT INTO event_inbox (batch) SELECT t.batch FROM told t
)
SELECT count(*) AS removed FROM gone
