-- Time limits: when sessions were last used, and when their limits are to be looked at.

ALTER TABLE sessions ADD COLUMN first_started_at timestamptz;
UPDATE sessions SET first_started_at = started_at WHERE started_at IS NOT NULL;
ALTER TABLE sessions ADD CONSTRAINT timeouts_are_lengths
    CHECK (idle_timeout_seconds > 0 AND max_duration_seconds > 0);
ALTER TABLE sessions ADD CONSTRAINT what_started_first_started
    CHECK (started_at IS NULL OR first_started_at IS NOT NULL);
COMMENT ON COLUMN sessions.first_started_at IS 'When it began to run for the first time, or for the first time after a retry by hand; max_duration_seconds counts from here';

-- No index but the key, and no reference to sessions: an update stays in its page, and no session's
-- row is locked for it.
CREATE TABLE session_activity (
    session_id       uuid PRIMARY KEY,
    last_activity_at timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE session_activity IS 'When sessions were last used, as their holders say with heartbeats; apart from sessions, whose rows activity leaves alone';
COMMENT ON COLUMN session_activity.session_id IS 'The session';
COMMENT ON COLUMN session_activity.last_activity_at IS 'The newest use that is known';

CREATE TABLE limit_checks (
    session_id uuid PRIMARY KEY,
    check_at   timestamptz NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX limit_checks_due ON limit_checks (check_at);
COMMENT ON TABLE limit_checks IS 'Sessions of which a time limit runs; those without limits have no row. A row changes only under its own lock, which writers of the session take after the session''s';
COMMENT ON COLUMN limit_checks.session_id IS 'The session; it may have gone or lost its limits since';
COMMENT ON COLUMN limit_checks.check_at IS 'When its limits are to be looked at: never later than the next of them can be reached';
INSERT INTO limit_checks (session_id, check_at)
SELECT id, now() FROM sessions
WHERE (idle_timeout_seconds IS NOT NULL OR max_duration_seconds IS NOT NULL) AND state <> 'terminated';
