DROP VIEW event_history;
DROP FUNCTION sequence_events;
-- What has no position yet follows what has one.
INSERT INTO events (id, kind, at, pool, owner, session_id, agent, incarnation, lease_epoch, generation,
    actor_type, actor_name, from_value, to_value, reason, data)
SELECT (SELECT last_position FROM event_head) + row_number() OVER (ORDER BY i.id), i.kind, i.at, i.pool, i.owner,
    i.session_id, i.agent, i.incarnation, i.lease_epoch, i.generation, i.actor_type, i.actor_name, i.from_value,
    i.to_value, i.reason, i.data
FROM event_inbox i;
DROP TABLE event_inbox, event_head, event_floor;
ALTER TABLE events DROP CONSTRAINT events_id_check, DROP COLUMN owner;
ALTER TABLE events ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY;
SELECT setval(pg_get_serial_sequence('events', 'id'), (SELECT coalesce(max(id), 0) + 1 FROM events), false);
COMMENT ON TABLE events IS 'What happened, written in the transaction in which it happened';
COMMENT ON COLUMN events.id IS 'Its number; within a session in the order of the changes, since the session''s row was locked';
