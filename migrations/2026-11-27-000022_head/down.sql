CREATE OR REPLACE FUNCTION sequence_events(from_id bigint DEFAULT 0, OUT had_turn boolean, OUT moved bigint, OUT drawn bigint,
    OUT own_xid bigint, OUT oldest_xid bigint) LANGUAGE plpgsql
    -- By the index: with few statistics, or with those of an empty inbox, all of it would be read.
    SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
DECLARE
    newest bigint;
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
    SELECT last_position INTO newest FROM event_head FOR UPDATE SKIP LOCKED;
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
    UPDATE event_head SET last_position = newest + moved WHERE moved > 0;
END
$$;
