-- sessions::insert
WITH told AS (
    INSERT INTO event_inbox (kind, at, pool, owner, session_id, generation, lease_epoch, actor_type, actor_name, to_value, data)
    SELECT kind, at, pool, owner, session_id, generation, lease_epoch, actor_type, actor_name, to_value, data
    FROM json_to_recordset($2) AS e (kind text, at timestamptz, pool text, owner text, session_id uuid,
        generation bigint, lease_epoch bigint, actor_type text, actor_name text, to_value text, data jsonb)
)
INSERT INTO sessions (id, name, agent_pool, platform, region, owner, labels, priority, spec,
    desired_state, state, attempt, not_before, held_back_until, restart, start_timeout_seconds,
    terminate_timeout_seconds, idle_timeout_seconds, idle_action, max_duration_seconds, grace_seconds, delete_data,
    created_at, updated_at, queued_at, requires, prefers)
SELECT id, name, agent_pool, platform, region, owner, labels, priority, spec_text::json,
    desired_state, state, attempt, not_before, held_back_until, restart, start_timeout_seconds,
    terminate_timeout_seconds, idle_timeout_seconds, idle_action, max_duration_seconds, grace_seconds, delete_data,
    created_at, updated_at, queued_at, requires, prefers
FROM json_to_recordset($1) AS s (id uuid, name text, agent_pool text, platform text, region text,
    owner text, labels jsonb, priority integer, spec_text text, desired_state text, state text,
    attempt integer, not_before timestamptz, held_back_until timestamptz, restart text,
    start_timeout_seconds double precision, terminate_timeout_seconds double precision,
    idle_timeout_seconds double precision, idle_action text, max_duration_seconds double precision,
    grace_seconds double precision, delete_data boolean, created_at timestamptz,
    updated_at timestamptz, queued_at timestamptz, requires jsonb, prefers jsonb)
