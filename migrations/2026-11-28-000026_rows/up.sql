-- What the hot statements are given: rows of these types, as one array for each kind, in PostgreSQL's binary form.
-- Reading an event from JSON takes 10 us, from such an array 2.
--
-- A server that runs says to PostgreSQL which columns it sends, so none of these is ever altered: where a column is
-- added, a type with another name is, and the old one goes when no server that knows it is left.
CREATE TYPE arg_event AS (
    kind text, at timestamptz, pool text, owner text, session_id uuid, agent text, incarnation bigint,
    lease_epoch bigint, generation bigint, actor_type text, actor_name text, from_value text, to_value text,
    reason text, data jsonb
);
COMMENT ON TYPE arg_event IS 'An event that is to be written; its columns are those of events.';

CREATE TYPE arg_new_session AS (
    id uuid, name text, agent_pool text, asked_platform text, asked_region text, owner text, labels jsonb,
    priority integer, spec json, desired_state text, state text, attempt integer, not_before timestamptz,
    held_back_until timestamptz, restart text, start_timeout_seconds double precision,
    terminate_timeout_seconds double precision, idle_timeout_seconds double precision, idle_action text,
    max_duration_seconds double precision, grace_seconds double precision, delete_data boolean, requires jsonb,
    prefers jsonb, lease_epoch bigint, assigned_agent_id text, assigned_incarnation bigint, assigned_action text,
    offered_until timestamptz, deliver_at timestamptz, deliveries integer
);
COMMENT ON TYPE arg_new_session IS
    'A session that is to be made; its platform and region are those of its pool, which must be the asked ones.';

CREATE TYPE arg_session AS (
    id uuid, was_version bigint, was_lease_epoch bigint, was_agent text, agent_pool text, labels jsonb,
    priority integer, desired_state text, state text, generation bigint, observed_generation bigint,
    lease_epoch bigint, assigned_agent_id text, assigned_incarnation bigint, assigned_action text,
    offered_until timestamptz, deliver_at timestamptz, deliveries integer, resource_domain text,
    platform_resource_id text, platform_metadata json, endpoint json, attempt integer, attempts_used integer,
    not_before timestamptz, held_back_until timestamptz, domain_lost boolean, offers_lapsed integer,
    avoid_agent text, avoid_until timestamptz, phase_deadline_at timestamptz,
    start_timeout_seconds double precision, terminate_timeout_seconds double precision,
    idle_timeout_seconds double precision, grace_seconds double precision, delete_data boolean, failure json,
    termination_reason text, updated_at timestamptz, queued_at timestamptz, started_at timestamptz,
    first_started_at timestamptz, ended_at timestamptz, version bigint, handing_over boolean, reserved_for text,
    reserved_until timestamptz, start_domain text, migrating_from_pool text, migrating_from_domain text,
    start_metadata json, stopping_attempt integer, stopping_lease_until timestamptz, check_at timestamptz
);
COMMENT ON TYPE arg_session IS
    'A session that has changed, with what it was when it was locked and when its limits are to be looked at.';

CREATE TYPE arg_session_few AS (
    id uuid, was_version bigint, was_lease_epoch bigint, was_agent text, state text, observed_generation bigint,
    lease_epoch bigint, assigned_agent_id text, assigned_incarnation bigint, assigned_action text,
    offered_until timestamptz, deliver_at timestamptz, deliveries integer, resource_domain text,
    platform_resource_id text, platform_metadata json, endpoint json, offers_lapsed integer,
    phase_deadline_at timestamptz, updated_at timestamptz, started_at timestamptz, first_started_at timestamptz,
    version bigint, check_at timestamptz
);
COMMENT ON TYPE arg_session_few IS
    'A session of which no more has changed than claims and reports change of most; without metadata it has what it had.';

CREATE TYPE arg_agent AS (agent text, slots integer, lapsed integer, accepted boolean);
COMMENT ON TYPE arg_agent IS 'What becomes of the counters of an agent.';

CREATE TYPE arg_ledger_opened AS (
    session_id uuid, lease_epoch bigint, agent text, incarnation bigint, action text, offered_at timestamptz,
    accepted_at timestamptz
);
COMMENT ON TYPE arg_ledger_opened IS 'A line of lease_ledger that begins.';

CREATE TYPE arg_ledger_changed AS (
    session_id uuid, lease_epoch bigint, accepted_at timestamptz, ended_at timestamptz, end_reason text
);
COMMENT ON TYPE arg_ledger_changed IS 'A line of lease_ledger that is accepted or ends.';

CREATE TYPE arg_leftover AS (
    pool text, resource_domain text, session_id uuid, attempt integer, platform_resource_id text,
    platform_metadata json, reason text
);
COMMENT ON TYPE arg_leftover IS 'A resource that no session wants any more.';

CREATE TYPE arg_lost_hold AS (
    agent text, incarnation bigint, session_id uuid, lease_epoch bigint, lease_expires_at timestamptz
);
COMMENT ON TYPE arg_lost_hold IS 'A hold that was taken from a live agent.';
