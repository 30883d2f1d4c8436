-- Lists: a page by any filter is found by an index, be the value rare or frequent.

CREATE INDEX sessions_by_state ON sessions (state, id);
CREATE INDEX sessions_by_desired_state ON sessions (desired_state, id);
CREATE INDEX sessions_by_domain ON sessions (resource_domain, id) WHERE resource_domain IS NOT NULL;
-- Lists that ask for times of creation are in their order.
CREATE INDEX sessions_by_creation ON sessions (created_at, id);

-- Labels stand here once more, in the order of lists. An index over the labels themselves would be written
-- by every claim and report; this is written when labels change.
CREATE TABLE session_labels (
    key         text COLLATE "C" NOT NULL,
    value       text COLLATE "C" NOT NULL,
    session_id  uuid NOT NULL,
    PRIMARY KEY (key, value, session_id)
);
COMMENT ON TABLE session_labels IS 'Which sessions have which label; kept by triggers of sessions, and read by lists';
COMMENT ON COLUMN session_labels.key IS 'The label''s key';
COMMENT ON COLUMN session_labels.value IS 'Its value';
COMMENT ON COLUMN session_labels.session_id IS 'The session';

INSERT INTO session_labels (key, value, session_id)
SELECT l.key, l.value, s.id FROM sessions s, jsonb_each_text(s.labels) l;

CREATE FUNCTION keep_session_labels() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM session_labels l USING jsonb_each_text(OLD.labels) o
        WHERE l.key = o.key COLLATE "C" AND l.value = o.value COLLATE "C" AND l.session_id = OLD.id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO session_labels (key, value, session_id)
        SELECT n.key, n.value, NEW.id FROM jsonb_each_text(NEW.labels) n ORDER BY n.key;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION keep_session_labels IS 'Brings session_labels up to date with the labels of a session';

CREATE TRIGGER labels_of_a_new_session AFTER INSERT ON sessions
    FOR EACH ROW WHEN (NEW.labels <> '{}') EXECUTE FUNCTION keep_session_labels();
CREATE TRIGGER labels_that_change AFTER UPDATE OF labels ON sessions
    FOR EACH ROW WHEN (OLD.labels <> NEW.labels) EXECUTE FUNCTION keep_session_labels();
CREATE TRIGGER labels_of_a_session_that_goes AFTER DELETE ON sessions
    FOR EACH ROW WHEN (OLD.labels <> '{}') EXECUTE FUNCTION keep_session_labels();
