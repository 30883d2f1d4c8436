-- import::update
-- Rows that have changed there and that nobody has touched here. Agents hold none of them.
WITH changed AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1) AS s (id uuid, old_id text, fingerprint text, old_state text, was_version bigint,
        pool text, platform text, region text, owner text, labels jsonb, spec text, desired_state text,
        state text, observed_generation bigint, resource_domain text, platform_resource_id text,
        platform_metadata text, endpoint json, idle_timeout_seconds double precision,
        max_duration_seconds double precision, delete_data boolean, failure json, termination_reason text,
        started_at timestamptz, first_started_at timestamptz,
        ended_at timestamptz, last_activity_at timestamptz, check_at timestamptz)
), locked AS MATERIALIZED (
    SELECT s.id, s.state AS was_state, s.desired_state AS was_desired FROM sessions s JOIN changed c ON c.id = s.id
    WHERE s.version = c.was_version AND s.lease_epoch = 0 AND s.assigned_agent_id IS NULL
    ORDER BY s.id FOR NO KEY UPDATE OF s
), written AS (
    UPDATE sessions s SET
        agent_pool = c.pool, platform = c.platform, region = c.region, owner = c.owner, labels = c.labels,
        spec = c.spec::json, desired_state = c.desired_state, state = c.state,
        generation = s.generation + (c.desired_state <> l.was_desired)::int,
        observed_generation = CASE WHEN c.observed_generation = 1 THEN s.generation + (c.desired_state <> l.was_desired)::int
            ELSE least(s.observed_generation, s.generation + (c.desired_state <> l.was_desired)::int - 1) END,
        resource_domain = c.resource_domain, platform_resource_id = c.platform_resource_id,
        platform_metadata = c.platform_metadata::json, endpoint = c.endpoint,
        idle_timeout_seconds = c.idle_timeout_seconds, max_duration_seconds = c.max_duration_seconds,
        delete_data = c.delete_data, failure = c.failure, termination_reason = c.termination_reason,
        held_back_until = NULL, not_before = NULL, domain_lost = false,
        updated_at = now(), queued_at = now(), started_at = coalesce(s.started_at, c.started_at),
        first_started_at = coalesce(s.first_started_at, c.first_started_at),
        ended_at = c.ended_at, version = s.version + 1
    FROM changed c JOIN locked l ON l.id = c.id
    WHERE s.id = c.id
    RETURNING s.id, s.version, s.generation, l.was_state, c.old_id, c.fingerprint, c.pool, c.owner, c.state, c.old_state,
        c.last_activity_at, c.check_at
), told AS (
    INSERT INTO events (kind, at, pool, owner, session_id, lease_epoch, generation, actor_type, actor_name, from_value,
        to_value, reason, data)
    SELECT 'session.state_changed', now(), w.pool, w.owner, w.id, 0, w.generation, 'system', 'lessor import', w.was_state,
        w.state, 'changed_in_source', jsonb_build_object('source', $2::text, 'old_id', w.old_id, 'old_state', w.old_state)
    FROM written w
    RETURNING batch
), waiting AS (
    INSERT INTO event_inbox (batch) SELECT t.batch FROM told t
), noted AS (
    UPDATE imported_sessions i SET version = w.version, fingerprint = w.fingerprint, imported_at = now()
    FROM written w WHERE i.source = $2 AND i.old_id = w.old_id
), used AS (
    INSERT INTO session_activity AS a (session_id, last_activity_at)
    SELECT w.id, w.last_activity_at FROM written w WHERE w.last_activity_at IS NOT NULL ORDER BY w.id
    ON CONFLICT (session_id) DO UPDATE SET last_activity_at = greatest(a.last_activity_at, excluded.last_activity_at)
), limited AS (
    INSERT INTO limit_checks AS l (session_id, check_at)
    SELECT w.id, w.check_at FROM written w WHERE w.check_at IS NOT NULL ORDER BY w.id
    ON CONFLICT (session_id) DO UPDATE SET check_at = least(l.check_at, excluded.check_at)
)
SELECT w.old_id FROM written w
