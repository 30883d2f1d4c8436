-- sessions::write
-- Writes changed sessions with all that belongs to the change, in one statement. The rows are
-- locked by this transaction; the guard is there so that a mistake in that cannot pass unseen. Which
-- columns are written is said in `shape.rs`: all that may change, or the few that change mostly.
-- What it is given are arrays of rows (`store/rows.rs`), behind a subquery each, so that the planner expects as many
-- of them whatever is bound: planning this anew takes as long as running it.
-- What a batch names is found by `key = ANY (ARRAY[it])`, or by a look for each of it: by a plain `key = it`, a
-- plan from when a table was known to be empty walks over all of it, for each of the batch.
WITH changed AS MATERIALIZED (
    SELECT * FROM unnest((SELECT $1::{row}[])) AS c
), written AS (
    UPDATE sessions s SET
        {set}
    FROM changed c CROSS JOIN LATERAL (
        -- With what it is to be as, so that no condition joins a session to anything but its own place: by one
        -- beside `c`, all sessions are joined to all changes first, as long as the table seems to be small.
        SELECT x.ctid AS place, c.was_version, c.was_lease_epoch, c.was_agent
        FROM sessions x WHERE x.id >= c.id AND x.id <= c.id ORDER BY x.id DESC LIMIT 1
    ) f
    WHERE s.ctid = f.place
        -- No equalities, by which it could be joined: most sessions have the same ones.
        AND s.version = ANY (ARRAY[f.was_version])
        AND s.lease_epoch = ANY (ARRAY[f.was_lease_epoch])
        AND s.assigned_agent_id IS NOT DISTINCT FROM f.was_agent
    RETURNING s.id
), effects AS MATERIALIZED (
    -- With the newest version of each agent, found from there back: while an old transaction is open anywhere,
    -- each change of its counters leaves one for good.
    SELECT e.*, f.place
    FROM unnest((SELECT $2::arg_agent[])) AS e
    CROSS JOIN LATERAL (
        SELECT b.ctid AS place FROM agents b
        WHERE b.name >= e.agent AND b.name <= e.agent
        ORDER BY b.name DESC LIMIT 1
    ) f
), counted AS (
    {count}
), told AS (
    -- Written where they stay, as one batch, which waits for its positions.
    INSERT INTO events (batch, ordinal, kind, at, pool, owner, session_id, agent, incarnation, lease_epoch, generation,
        actor_type, actor_name, from_value, to_value, reason, data)
    SELECT (SELECT nextval('events_batch_seq')), ordinality - 1,
        kind, at, pool, owner, session_id, agent, incarnation, lease_epoch, generation,
        actor_type, actor_name, from_value, to_value, reason, data
    FROM unnest((SELECT $3::arg_event[])) WITH ORDINALITY AS e
    RETURNING batch
), waiting AS (
    INSERT INTO event_inbox (batch, events) SELECT min(t.batch), count(*) FROM told t HAVING count(*) > 0
), begun AS MATERIALIZED (
    SELECT * FROM unnest((SELECT $4::arg_ledger_opened[])) AS l
), opened AS (
    INSERT INTO lease_ledger (session_id, lease_epoch, agent, incarnation, action, offered_at, accepted_at)
    SELECT * FROM begun
), forgotten AS (
    -- Given to it anew, it is not lost to it any more.
    DELETE FROM lost_holds l USING begun o
    WHERE l.agent = ANY (ARRAY[o.agent]) AND l.session_id = ANY (ARRAY[o.session_id])
), closed AS (
    UPDATE lease_ledger l SET
        accepted_at = coalesce(c.accepted_at, l.accepted_at),
        ended_at = c.ended_at,
        end_reason = c.end_reason
    FROM unnest((SELECT $5::arg_ledger_changed[])) AS c
    WHERE l.session_id = ANY (ARRAY[c.session_id]) AND l.lease_epoch = ANY (ARRAY[c.lease_epoch])
), left_over AS (
    INSERT INTO leftovers (pool, resource_domain, session_id, attempt, platform_resource_id,
        platform_metadata, reason)
    SELECT * FROM unnest((SELECT $6::arg_leftover[])) AS l
), lost AS (
    INSERT INTO lost_holds (agent, incarnation, session_id, lease_epoch, lease_expires_at)
    SELECT * FROM unnest((SELECT $7::arg_lost_hold[])) AS l
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
        (SELECT true FROM commands m WHERE m.session_id >= c.id AND m.session_id <= c.id AND m.open
            ORDER BY m.session_id LIMIT 1)) AS with_commands,
    -- Whose version somebody else has replaced since this statement began, who had not locked them.
    ARRAY (SELECT e.agent FROM effects e
        WHERE (e.slots <> 0 OR e.lapsed > 0 OR e.accepted) AND e.agent NOT IN (SELECT n.name FROM counted n)) AS uncounted
FROM written
