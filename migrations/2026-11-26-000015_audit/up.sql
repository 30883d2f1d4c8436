-- The audit: each change that somebody asks for, written before it is begun.

CREATE TABLE audit (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        text NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor_type  text NOT NULL CHECK (actor_type IN ('system', 'agent', 'user', 'token')),
    actor_name  text NOT NULL,
    token_id    uuid,
    tenant      text COLLATE "C",
    from_address text,
    method      text NOT NULL,
    path        text NOT NULL,
    request_id  text NOT NULL,
    status      integer,
    finished_at timestamptz,
    CHECK ((status IS NULL) = (finished_at IS NULL))
);
CREATE INDEX audit_by_time ON audit (at);
COMMENT ON TABLE audit IS 'Each change that somebody asked for: written before it is begun, completed when it was answered';
COMMENT ON COLUMN audit.id IS 'Its number; numbers rise and may have holes';
COMMENT ON COLUMN audit.kind IS 'audit. and the operation';
COMMENT ON COLUMN audit.at IS 'When it was begun';
COMMENT ON COLUMN audit.actor_type IS 'What kind of caller';
COMMENT ON COLUMN audit.actor_name IS 'Which caller';
COMMENT ON COLUMN audit.token_id IS 'The token that came with the call; null for the admin token of the settings';
COMMENT ON COLUMN audit.tenant IS 'The tenant of that token';
COMMENT ON COLUMN audit.from_address IS 'The address that the call came from';
COMMENT ON COLUMN audit.method IS 'The method';
COMMENT ON COLUMN audit.path IS 'The path, without its query';
COMMENT ON COLUMN audit.request_id IS 'The request''s id, as in the log';
COMMENT ON COLUMN audit.status IS 'The status of the answer; null while it is under way, and for ever if the server ended before it could say';
COMMENT ON COLUMN audit.finished_at IS 'When it was answered';

-- Nothing that is written here changes, but for how it ended, once.
CREATE FUNCTION an_entry_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status IS NOT NULL OR (to_jsonb(NEW) - 'status' - 'finished_at') <> (to_jsonb(OLD) - 'status' - 'finished_at') THEN
        RAISE EXCEPTION 'an entry of the audit cannot be changed';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION an_entry_stays IS 'Refuses to change an entry of the audit, but for how it ended, once';
CREATE TRIGGER audit_stays BEFORE UPDATE ON audit FOR EACH ROW EXECUTE FUNCTION an_entry_stays();
