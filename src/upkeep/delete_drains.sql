-- upkeep::delete_drains
-- Drains that have been over for a week, and commands that have been for as long as the pool keeps
-- ended sessions.
WITH old AS MATERIALIZED (
    SELECT d.id FROM drains d
    WHERE d.status <> 'in_progress' AND d.finished_at < now() - interval '7 days'
    ORDER BY d.finished_at LIMIT 100 FOR UPDATE OF d SKIP LOCKED
), drains_gone AS (
    DELETE FROM drains d USING old o WHERE d.id = o.id RETURNING 1
), done AS MATERIALIZED (
    SELECT c.id FROM commands c
    JOIN sessions s ON s.id = c.session_id JOIN pools p ON p.name = s.agent_pool
    WHERE c.finished_at < now() - make_interval(secs => p.keep_ended_seconds)
    ORDER BY c.finished_at LIMIT 500 FOR UPDATE OF c SKIP LOCKED
), commands_gone AS (
    DELETE FROM commands c USING done o WHERE c.id = o.id RETURNING 1
)
SELECT (SELECT count(*) FROM drains_gone) * 5 + (SELECT count(*) FROM commands_gone) AS deleted
