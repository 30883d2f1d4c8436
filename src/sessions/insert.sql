-- sessions::insert
-- New sessions with their first events, each in the pool that it names. One whose pool is not there, or
-- not on its platform and in its region, is left out; none is inserted if that leaves fewer than $4. The
-- times are the transaction's. Some are offered already, to agents that this transaction has locked: $5
-- begins their ledgers, $6 says how many slots that takes. Nothing else of what `write.sql` writes can
-- be in a session that is new. Names are written in their order, so that two batches wait for each other
-- in turn.
-- What it is given are arrays, as in `write.sql`. Moments are said as if it were another time now; `offered_until`
-- by how long after `deliver_at` it is. Of one that is offered by this very statement, `may` says whether it is done.
WITH homes AS MATERIALIZED (
    SELECT p.* FROM unnest((SELECT $3::text[])) AS n
    CROSS JOIN LATERAL (
        SELECT p.name, p.platform, p.region, p.accept_timeout_seconds FROM pools p
        WHERE p.name >= n COLLATE "C" AND p.name <= n COLLATE "C" ORDER BY p.name LIMIT 1
    ) p
), asked AS MATERIALIZED (
    SELECT s.*, h.platform AS home_platform, h.region AS home_region,
        h.accept_timeout_seconds AS home_accepts_in
    FROM unnest((SELECT $1::arg_new_session[])) WITH ORDINALITY AS s
    JOIN homes h ON h.name = s.agent_pool AND h.platform = coalesce(s.asked_platform, h.platform)
        AND h.region IS NOT DISTINCT FROM coalesce(s.asked_region, h.region)
){may}, made AS (
    INSERT INTO sessions (id, name, agent_pool, platform, region, owner, labels, priority, spec,
        desired_state, state, attempt, not_before, held_back_until, restart, start_timeout_seconds,
        terminate_timeout_seconds, idle_timeout_seconds, idle_action, max_duration_seconds, grace_seconds,
        delete_data, requires, prefers, lease_epoch, assigned_agent_id, assigned_incarnation,
        assigned_action, offered_until, deliver_at, deliveries, created_at, updated_at, queued_at)
    SELECT id, name, agent_pool, home_platform, home_region, owner, labels, priority, spec,
        desired_state, state, attempt, not_before, held_back_until, restart, start_timeout_seconds,
        terminate_timeout_seconds, idle_timeout_seconds, idle_action, max_duration_seconds, grace_seconds,
        delete_data, requires, prefers, lease_epoch, assigned_agent_id, assigned_incarnation,
        assigned_action, now() + (offered_until - deliver_at), CASE WHEN deliver_at IS NOT NULL THEN now() END,
        deliveries, now(), now(), now() + (ordinality - 1) * interval '1 microsecond'
    FROM asked
    WHERE {enough}
    ORDER BY name, ordinality
    {conflict}
    RETURNING id, platform, region
), told AS (
    -- As in `write.sql`; numbered without those of sessions that were left out.
    INSERT INTO events (batch, ordinal, kind, at, pool, owner, session_id, agent, incarnation, lease_epoch, generation,
        actor_type, actor_name, from_value, to_value, reason, data)
    SELECT (SELECT nextval('events_batch_seq')), row_number() OVER (ORDER BY e.ordinality) - 1,
        e.kind, now(), e.pool, e.owner, e.session_id, e.agent, e.incarnation, e.lease_epoch, e.generation,
        e.actor_type, e.actor_name, e.from_value, e.to_value, e.reason, e.data
    FROM unnest((SELECT $2::arg_event[])) WITH ORDINALITY AS e
    -- Not a join, which would compare each with each.
    WHERE (e.session_id IN (SELECT m.id FROM made m)) IS TRUE
    RETURNING batch
), waiting AS (
    INSERT INTO event_inbox (batch, events) SELECT min(t.batch), count(*) FROM told t HAVING count(*) > 0
), opened AS (
    INSERT INTO lease_ledger (session_id, lease_epoch, agent, incarnation, action, offered_at, accepted_at)
    SELECT l.session_id, l.lease_epoch, l.agent, l.incarnation, l.action, now(), l.accepted_at
    FROM unnest((SELECT $5::arg_ledger_opened[])) AS l
    WHERE {given}
), counted AS (
    UPDATE agents a SET slots_used = a.slots_used + t.slots
    FROM unnest((SELECT $6::arg_agent[])) AS t
    -- By an index or not at all, as in `write.sql`.
    WHERE a.name = ANY (ARRAY[t.agent]) AND {given}
)
SELECT m.id, m.platform, m.region, now() AS now{more}
