-- commands::write
-- Writes changed commands with their events, in one statement. Their sessions' rows are locked by
-- this transaction; the guard is there so that a mistake in that cannot pass unseen.
WITH changed AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1) AS c (
        id uuid, was_status text, status text, lease_epoch bigint, agent text, result text, failure json,
        delivered_at timestamptz, finished_at timestamptz, holder text, deliver_at timestamptz,
        deliveries integer)
), written AS (
    UPDATE commands m SET
        status = c.status, lease_epoch = c.lease_epoch, agent = c.agent, result = c.result::json,
        failure = c.failure, delivered_at = c.delivered_at, finished_at = c.finished_at,
        holder = c.holder, deliver_at = c.deliver_at, deliveries = c.deliveries
    FROM changed c
    WHERE m.id = c.id AND m.status = c.was_status
    RETURNING m.id
), told AS (
    INSERT INTO events (kind, at, pool, owner, session_id, agent, incarnation, lease_epoch, generation,
        actor_type, actor_name, from_value, to_value, reason, data)
    SELECT kind, at, pool, owner, session_id, agent, incarnation, lease_epoch, generation,
        actor_type, actor_name, from_value, to_value, reason, data
    FROM unnest((SELECT $2::arg_event[])) WITH ORDINALITY AS e
    ORDER BY ordinality
    RETURNING batch
), waiting AS (
    INSERT INTO event_inbox (batch) SELECT t.batch FROM told t
)
SELECT count(*) AS written FROM written
