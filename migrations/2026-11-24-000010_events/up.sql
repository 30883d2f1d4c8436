-- Events get dense positions in the order in which they were committed. Writers put them into
-- `event_inbox`; what is committed there is moved to `events` by `sequence_events`, one at a time.

CREATE TABLE event_inbox (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        text NOT NULL,
    at          timestamptz NOT NULL,
    pool        text COLLATE "C" NOT NULL,
    owner       text COLLATE "C",
    session_id  uuid,
    agent       text COLLATE "C",
    incarnation bigint,
    lease_epoch bigint,
    generation  bigint,
    actor_type  text NOT NULL CHECK (actor_type IN ('system', 'agent', 'user', 'token')),
    actor_name  text NOT NULL,
    from_value  text,
    to_value    text,
    reason      text,
    data        jsonb NOT NULL DEFAULT '{}',
    CHECK (owner IS NULL OR session_id IS NOT NULL)
) WITH (
    -- It is emptied as fast as it is filled, and scanned from its end: a vacuum costs little and
    -- must not wait for a share of the table.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 10000,
    autovacuum_vacuum_cost_delay = 0
);
COMMENT ON TABLE event_inbox IS 'Events that have no position yet, written in the transaction in which they happened';
COMMENT ON COLUMN event_inbox.id IS 'Within a session in the order of the changes, since the session''s row is locked when it is drawn; no position';
COMMENT ON COLUMN event_inbox.kind IS 'What happened';
COMMENT ON COLUMN event_inbox.at IS 'When';
COMMENT ON COLUMN event_inbox.pool IS 'In which pool';
COMMENT ON COLUMN event_inbox.owner IS 'The owner of the session; for filters, and not shown';
COMMENT ON COLUMN event_inbox.session_id IS 'To which session';
COMMENT ON COLUMN event_inbox.agent IS 'With which agent';
COMMENT ON COLUMN event_inbox.incarnation IS 'Which run of it';
COMMENT ON COLUMN event_inbox.lease_epoch IS 'Under which lease epoch';
COMMENT ON COLUMN event_inbox.generation IS 'At which generation';
COMMENT ON COLUMN event_inbox.actor_type IS 'What kind of actor caused it';
COMMENT ON COLUMN event_inbox.actor_name IS 'Which actor';
COMMENT ON COLUMN event_inbox.from_value IS 'What it was before';
COMMENT ON COLUMN event_inbox.to_value IS 'What it became';
COMMENT ON COLUMN event_inbox.reason IS 'Why';
COMMENT ON COLUMN event_inbox.data IS 'What else belongs to it';

-- What there is already is numbered anew, without the holes that the old numbers had.
CREATE TABLE positioned_events (
    id          bigint PRIMARY KEY CHECK (id > 0),
    kind        text NOT NULL,
    at          timestamptz NOT NULL,
    pool        text COLLATE "C" NOT NULL,
    owner       text COLLATE "C",
    session_id  uuid,
    agent       text COLLATE "C",
    incarnation bigint,
    lease_epoch bigint,
    generation  bigint,
    actor_type  text NOT NULL CHECK (actor_type IN ('system', 'agent', 'user', 'token')),
    actor_name  text NOT NULL,
    from_value  text,
    to_value    text,
    reason      text,
    data        jsonb NOT NULL DEFAULT '{}',
    CHECK (owner IS NULL OR session_id IS NOT NULL)
);
INSERT INTO positioned_events (id, kind, at, pool, owner, session_id, agent, incarnation, lease_epoch, generation,
    actor_type, actor_name, from_value, to_value, reason, data)
SELECT row_number() OVER (ORDER BY e.id), e.kind, e.at, e.pool, s.owner, e.session_id, e.agent, e.incarnation,
    e.lease_epoch, e.generation, e.actor_type, e.actor_name, e.from_value, e.to_value, e.reason, e.data
FROM events e LEFT JOIN sessions s ON s.id = e.session_id;
DROP TABLE events;
ALTER TABLE positioned_events RENAME TO events;
ALTER INDEX positioned_events_pkey RENAME TO events_pkey;
ALTER TABLE events RENAME CONSTRAINT positioned_events_id_check TO events_id_check;
ALTER TABLE events RENAME CONSTRAINT positioned_events_actor_type_check TO events_actor_type_check;
ALTER TABLE events RENAME CONSTRAINT positioned_events_check TO events_check;
CREATE INDEX events_by_session ON events (session_id, id) WHERE session_id IS NOT NULL;
COMMENT ON TABLE events IS 'What happened, in the order of the stream, without holes from the oldest kept to the newest';
COMMENT ON COLUMN events.id IS 'Its position: dense, and within a session in the order of the commits';
COMMENT ON COLUMN events.kind IS 'What happened';
COMMENT ON COLUMN events.at IS 'When';
COMMENT ON COLUMN events.pool IS 'In which pool';
COMMENT ON COLUMN events.owner IS 'The owner of the session; for filters, and not shown';
COMMENT ON COLUMN events.session_id IS 'To which session';
COMMENT ON COLUMN events.agent IS 'With which agent';
COMMENT ON COLUMN events.incarnation IS 'Which run of it';
COMMENT ON COLUMN events.lease_epoch IS 'Under which lease epoch';
COMMENT ON COLUMN events.generation IS 'At which generation';
COMMENT ON COLUMN events.actor_type IS 'What kind of actor caused it';
COMMENT ON COLUMN events.actor_name IS 'Which actor';
COMMENT ON COLUMN events.from_value IS 'What it was before';
COMMENT ON COLUMN events.to_value IS 'What it became';
COMMENT ON COLUMN events.reason IS 'Why';
COMMENT ON COLUMN events.data IS 'What else belongs to it';

CREATE TABLE event_head (
    one_row       boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    last_position bigint NOT NULL CHECK (last_position >= 0)
) WITH (fillfactor = 10);
INSERT INTO event_head (last_position) SELECT coalesce(max(id), 0) FROM events;
COMMENT ON TABLE event_head IS 'Where the stream ends; who has locked its row gives positions';
COMMENT ON COLUMN event_head.one_row IS 'There is one row';
COMMENT ON COLUMN event_head.last_position IS 'The newest position that was given; it never falls';

CREATE TABLE event_floor (
    one_row        boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    first_position bigint NOT NULL CHECK (first_position > 0)
) WITH (fillfactor = 10);
INSERT INTO event_floor (first_position) VALUES (1);
COMMENT ON TABLE event_floor IS 'Where the stream begins; who has locked its row deletes what is past retention';
COMMENT ON COLUMN event_floor.one_row IS 'There is one row';
COMMENT ON COLUMN event_floor.first_position IS 'The position of the oldest event that is kept, or of the next one; it never falls';

-- A function, since its statements must not wait for the client between them: a server that stands
-- still in the middle would keep all others from giving positions. Each statement has a snapshot of
-- its own, so what is moved is looked at after the turn was had.
CREATE FUNCTION sequence_events(OUT had_turn boolean, OUT moved bigint, OUT newest bigint) LANGUAGE plpgsql AS $$
BEGIN
    had_turn := true;
    moved := 0;
    -- With nothing to do no lock is taken, and so nothing written.
    PERFORM i.id FROM event_inbox i ORDER BY i.id LIMIT 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT last_position INTO newest FROM event_head FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        had_turn := false;
        RETURN;
    END IF;
    WITH taken AS (
        DELETE FROM event_inbox WHERE id = ANY (ARRAY (SELECT i.id FROM event_inbox i ORDER BY i.id LIMIT 1000))
        RETURNING *
    ), placed AS (
        INSERT INTO events (id, kind, at, pool, owner, session_id, agent, incarnation, lease_epoch, generation,
            actor_type, actor_name, from_value, to_value, reason, data)
        SELECT newest + row_number() OVER (ORDER BY t.id), t.kind, t.at, t.pool, t.owner, t.session_id, t.agent,
            t.incarnation, t.lease_epoch, t.generation, t.actor_type, t.actor_name, t.from_value, t.to_value,
            t.reason, t.data
        FROM taken t ORDER BY t.id
        RETURNING 1
    )
    SELECT count(*) INTO moved FROM placed;
    newest := newest + moved;
    UPDATE event_head SET last_position = newest WHERE moved > 0;
END
$$;
COMMENT ON FUNCTION sequence_events IS 'Gives the next positions to up to 1,000 committed events, the oldest first, unless another transaction is doing so';

CREATE VIEW event_history AS
    SELECT id AS position, NULL::bigint AS inbox_id, kind, at, pool, owner, session_id, agent, incarnation, lease_epoch,
        generation, actor_type, actor_name, from_value, to_value, reason, data FROM events
    UNION ALL
    SELECT NULL, id, kind, at, pool, owner, session_id, agent, incarnation, lease_epoch,
        generation, actor_type, actor_name, from_value, to_value, reason, data FROM event_inbox;
COMMENT ON VIEW event_history IS 'What happened, whether it has a position yet or not; in order by position, then inbox_id. For people with psql';
COMMENT ON COLUMN event_history.position IS 'Its position, once it has one';
COMMENT ON COLUMN event_history.inbox_id IS 'Its place among those that have none yet';
