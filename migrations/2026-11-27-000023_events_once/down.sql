DROP VIEW event_history;
DROP FUNCTION sequence_events;
DROP TABLE event_inbox;
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
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 10000,
    autovacuum_vacuum_cost_delay = 0
);
INSERT INTO event_inbox (kind, at, pool, owner, session_id, agent, incarnation, lease_epoch, generation,
    actor_type, actor_name, from_value, to_value, reason, data)
SELECT e.kind, e.at, e.pool, e.owner, e.session_id, e.agent, e.incarnation, e.lease_epoch, e.generation,
    e.actor_type, e.actor_name, e.from_value, e.to_value, e.reason, e.data
FROM events e LEFT JOIN event_batches b ON b.batch = e.batch WHERE b.batch IS NULL ORDER BY e.batch, e.ordinal;
DELETE FROM events e WHERE NOT EXISTS (SELECT FROM event_batches b WHERE b.batch = e.batch);
ALTER TABLE events DROP CONSTRAINT events_pkey;
DROP INDEX events_by_session;
ALTER TABLE events ALTER COLUMN batch DROP IDENTITY;
UPDATE events e SET batch = b.first_position + e.ordinal FROM event_batches b WHERE b.batch = e.batch;
DROP TABLE event_batches;
ALTER TABLE events DROP COLUMN ordinal;
ALTER TABLE events RENAME COLUMN batch TO id;
ALTER TABLE events ADD CONSTRAINT events_id_check CHECK (id > 0), ADD PRIMARY KEY (id);
CREATE INDEX events_by_session ON events (session_id, id) WHERE session_id IS NOT NULL;
COMMENT ON TABLE events IS 'What happened, in the order of the stream, without holes from the oldest kept to the newest';
COMMENT ON COLUMN events.id IS 'Its position: dense, and within a session in the order of the commits';
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
CREATE VIEW event_history AS
    SELECT id AS position, NULL::bigint AS inbox_id, kind, at, pool, owner, session_id, agent, incarnation, lease_epoch,
        generation, actor_type, actor_name, from_value, to_value, reason, data FROM events
    UNION ALL
    SELECT NULL, id, kind, at, pool, owner, session_id, agent, incarnation, lease_epoch,
        generation, actor_type, actor_name, from_value, to_value, reason, data FROM event_inbox;
COMMENT ON VIEW event_history IS 'What happened, whether it has a position yet or not; in order by position, then inbox_id. For people with psql';
COMMENT ON COLUMN event_history.position IS 'Its position, once it has one';
COMMENT ON COLUMN event_history.inbox_id IS 'Its place among those that have none yet';
CREATE FUNCTION sequence_events(from_id bigint DEFAULT 0, OUT had_turn boolean, OUT moved bigint, OUT drawn bigint,
    OUT own_xid bigint, OUT oldest_xid bigint) LANGUAGE plpgsql
    -- By the index: with few statistics, or with those of an empty inbox, all of it would be read.
    SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
DECLARE
    newest bigint;
    place tid;
BEGIN
    had_turn := true;
    moved := 0;
    own_xid := 0;
    SELECT s.last_value INTO drawn FROM event_inbox_id_seq s;
    oldest_xid := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
    -- With nothing to do no lock is taken, and so nothing written.
    PERFORM i.id FROM event_inbox i WHERE i.id >= from_id ORDER BY i.id LIMIT 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT h.last_position, h.ctid INTO newest, place FROM event_head h
    WHERE h.one_row >= true ORDER BY h.one_row DESC LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        had_turn := false;
        RETURN;
    END IF;
    -- Given out now at the latest, and after `drawn` was read: whoever has drawn a number up to that has a lower
    -- one. What a snapshot calls xmax would not do: one past the highest that has ended.
    own_xid := pg_current_xact_id()::text::bigint;
    WITH taken AS (
        DELETE FROM event_inbox
        WHERE id = ANY (ARRAY (SELECT i.id FROM event_inbox i WHERE i.id >= from_id ORDER BY i.id LIMIT 1000))
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
    -- Nobody can have replaced what is locked.
    UPDATE event_head h SET last_position = newest + moved WHERE h.ctid = place AND moved > 0;
END
$$;
COMMENT ON FUNCTION sequence_events IS 'Gives the next positions to up to 1,000 committed events, the oldest first from a number of the inbox on, unless another transaction is doing so; says which number had been drawn last when it began, which transaction id it then got itself, and which was the oldest at work';
