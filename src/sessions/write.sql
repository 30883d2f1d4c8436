-- sessions::write
-- Writes changed sessions with all that belongs to the change, in one statement. The rows are
-- locked by this transaction; the guard is there so that a mistake in that cannot pass unseen. Which
-- columns are written is said in `shape.rs`: all that may change, or the few that change mostly.
WITH changed AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1) AS c ({columns})
), written AS (
    UPDATE sessions s SET
        {set}
    FROM changed c
    WHERE s.id = c.id
        AND s.version = c.was_version
        AND s.lease_epoch = c.was_lease_epoch
        AND s.assigned_agent_id IS NOT DISTINCT FROM c.was_agent
    RETURNING s.id
), counted AS (
    UPDATE agents a SET
        slots_used = a.slots_used + e.slots,
        offers_lapsed = CASE WHEN e.accepted THEN 0 ELSE a.offers_lapsed + e.lapsed END,
        passed_over_until = CASE
            WHEN e.accepted THEN NULL
            WHEN a.offers_lapsed + e.lapsed >= 3 AND e.lapsed > 0 THEN now() + make_interval(
                secs => least(p.backoff_max_seconds,
                    p.backoff_initial_seconds * power(2, least(30, a.offers_lapsed + e.lapsed - 3))))
            ELSE a.passed_over_until END
    FROM json_to_recordset($2) AS e (agent text, slots integer, lapsed integer, accepted boolean), pools p
    WHERE a.name = e.agent AND p.name = a.pool
        AND (e.slots <> 0 OR e.lapsed > 0 OR (e.accepted AND a.offers_lapsed > 0))
), told AS (
    INSERT INTO event_inbox (kind, at, pool, owner, session_id, agent, incarnation, lease_epoch, generation,
        actor_type, actor_name, from_value, to_value, reason, data)
    SELECT kind, at, pool, owner, session_id, agent, incarnation, lease_epoch, generation,
        actor_type, actor_name, from_value, to_value, reason, data
    FROM ROWS FROM (json_to_recordset($3) AS (kind text, at timestamptz, pool text, owner text,
        session_id uuid, agent text, incarnation bigint, lease_epoch bigint, generation bigint, actor_type text,
        actor_name text, from_value text, to_value text, reason text, data jsonb)) WITH ORDINALITY AS e
    ORDER BY ordinality
), opened AS (
    INSERT INTO lease_ledger (session_id, lease_epoch, agent, incarnation, action, offered_at, accepted_at)
    SELECT * FROM json_to_recordset($4) AS l (session_id uuid, lease_epoch bigint, agent text,
        incarnation bigint, action text, offered_at timestamptz, accepted_at timestamptz)
), forgotten AS (
    -- Given to it anew, it is not lost to it any more.
    DELETE FROM lost_holds l USING json_to_recordset($4) AS o (session_id uuid, agent text)
    WHERE l.agent = o.agent AND l.session_id = o.session_id
), closed AS (
    UPDATE lease_ledger l SET
        accepted_at = coalesce(c.accepted_at, l.accepted_at),
        ended_at = c.ended_at,
        end_reason = c.end_reason
    FROM json_to_recordset($5) AS c (session_id uuid, lease_epoch bigint, accepted_at timestamptz,
        ended_at timestamptz, end_reason text)
    WHERE l.session_id = c.session_id AND l.lease_epoch = c.lease_epoch
), left_over AS (
    INSERT INTO leftovers (pool, resource_domain, session_id, attempt, platform_resource_id,
        platform_metadata, reason)
    SELECT pool, resource_domain, session_id, attempt, platform_resource_id, platform_metadata::json, reason
    FROM json_to_recordset($6) AS l (pool text, resource_domain text, session_id uuid,
        attempt integer, platform_resource_id text, platform_metadata text, reason text)
), lost AS (
    INSERT INTO lost_holds (agent, incarnation, session_id, lease_epoch, lease_expires_at)
    SELECT * FROM json_to_recordset($7) AS l (agent text, incarnation bigint, session_id uuid,
        lease_epoch bigint, lease_expires_at timestamptz)
    ON CONFLICT (agent, session_id) DO UPDATE SET incarnation = excluded.incarnation,
        lease_epoch = excluded.lease_epoch, lease_expires_at = excluded.lease_expires_at
), limited AS (
    -- A limit begins to run, or runs sooner. The row is written in any case, and so locked: a look
    -- that has it in hand is waited for.
    INSERT INTO limit_checks AS l (session_id, check_at)
    SELECT id, check_at FROM changed WHERE check_at IS NOT NULL ORDER BY id
    ON CONFLICT (session_id) DO UPDATE SET check_at = least(l.check_at, excluded.check_at)
)
SELECT count(*) AS written,
    -- Commands go with the hold: they are looked at after this, in the same transaction.
    ARRAY (SELECT c.id FROM changed c WHERE
        (SELECT true FROM commands m WHERE m.session_id = c.id AND m.open LIMIT 1)) AS with_commands
FROM written
