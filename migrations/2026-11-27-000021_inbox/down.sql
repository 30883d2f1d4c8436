DROP FUNCTION sequence_events(bigint);
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
