-- import::insert
-- New rows only, so nothing is locked: sessions as they are to be, with all that belongs to them.
WITH new AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1) AS s (id uuid, old_id text, fingerprint text, old_state text, name text,
        pool text, platform text, region text, owner text, labels jsonb, spec text, desired_state text,
        state text, observed_generation bigint, resource_domain text, platform_resource_id text,
        platform_metadata text, endpoint json, idle_timeout_seconds double precision,
        max_duration_seconds double precision, delete_data boolean, failure json, termination_reason text,
        created_at timestamptz, queued_at timestamptz, started_at timestamptz, first_started_at timestamptz,
        ended_at timestamptz, last_activity_at timestamptz, check_at timestamptz)
), told AS (
    INSERT INTO events (kind, at, pool, owner, session_id, lease_epoch, generation, actor_type, actor_name, to_value, data)
    SELECT 'session.created', now(), n.pool, n.owner, n.id, 0, 1, 'system', 'lessor import', n.state,
        jsonb_build_object('source', $2::text, 'old_id', n.old_id, 'old_state', n.old_state)
    FROM new n ORDER BY n.queued_at
    RETURNING batch
), waiting AS (
    INSERT INTO event_inbox (batch) SELECT t.batch FROM told t
), noted AS (
    INSERT INTO imported_sessions (source, old_id, session_id, version, fingerprint, imported_at)
    SELECT $2, n.old_id, n.id, 1, n.fingerprint, now() FROM new n
), used AS (
    INSERT INTO session_activity (session_id, last_activity_at)
    SELECT n.id, n.last_activity_at FROM new n WHERE n.last_activity_at IS NOT NULL
), limited AS (
    INSERT INTO limit_checks (session_id, check_at)
    SELECT n.id, n.check_at FROM new n WHERE n.check_at IS NOT NULL
)
INSERT INTO sessions (id, name, agent_pool, platform, region, owner, labels, spec, desired_state, state,
    observed_generation, resource_domain, platform_resource_id, platform_metadata, endpoint, restart,
    idle_timeout_seconds, max_duration_seconds, delete_data, failure, termination_reason, created_at,
    updated_at, queued_at, started_at, first_started_at, ended_at)
SELECT id, name, pool, platform, region, owner, labels, spec::json, desired_state, state,
    observed_generation, resource_domain, platform_resource_id, platform_metadata::json, endpoint, 'on_failure',
    idle_timeout_seconds, max_duration_seconds, delete_data, failure, termination_reason, created_at,
    now(), queued_at, started_at, first_started_at, ended_at
FROM new
