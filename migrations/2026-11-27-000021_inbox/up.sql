-- The sequencer begins where there may be something. What has got its position leaves a dead entry, which stays
-- for as long as a transaction is open anywhere that is older: after ten minutes of that, each step would walk over
-- all of them.
DROP FUNCTION sequence_events();
CREATE FUNCTION sequence_events(from_id bigint DEFAULT 0, OUT had_turn boolean, OUT moved bigint, OUT drawn bigint,
    OUT next_xid bigint, OUT oldest_xid bigint) LANGUAGE plpgsql
    -- By the index: with few statistics, or with those of an empty inbox, all of it would be read.
    SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
DECLARE
    newest bigint;
BEGIN
    had_turn := true;
    moved := 0;
    -- One after the other: whoever has drawn a number up to `drawn` has a transaction id below `next_xid`.
    SELECT s.last_value INTO drawn FROM event_inbox_id_seq s;
    SELECT pg_snapshot_xmax(s)::text::bigint, pg_snapshot_xmin(s)::text::bigint INTO next_xid, oldest_xid
    FROM pg_current_snapshot() s;
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
COMMENT ON FUNCTION sequence_events IS 'Gives the next positions to up to 1,000 committed events, the oldest first from a number of the inbox on, unless another transaction is doing so; says before that which number was drawn last, which transaction id is next, and which is the oldest at work';
