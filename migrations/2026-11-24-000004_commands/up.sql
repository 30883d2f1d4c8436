-- Commands: imperative work on a session, which its holder does.

CREATE TABLE commands (
    id           uuid PRIMARY KEY,
    seq          bigint GENERATED ALWAYS AS IDENTITY,
    session_id   uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    kind         text NOT NULL CHECK (kind ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
    payload      json NOT NULL,
    status       text NOT NULL CHECK (status IN ('pending', 'delivered', 'running', 'succeeded', 'failed',
                     'expired', 'cancelled', 'interrupted')),
    redeliver    boolean NOT NULL,
    lease_epoch  bigint,
    agent        text COLLATE "C",
    result       json,
    failure      json,
    deadline_at  timestamptz NOT NULL,
    created_at   timestamptz NOT NULL,
    delivered_at timestamptz,
    finished_at  timestamptz,
    holder       text COLLATE "C",
    deliver_at   timestamptz,
    deliveries   integer NOT NULL DEFAULT 0 CHECK (deliveries >= 0),

    -- Whether anything can still become of it: it is not finished, or its holder is yet to hear
    -- that it was cancelled.
    open boolean NOT NULL GENERATED ALWAYS AS (finished_at IS NULL OR holder IS NOT NULL) STORED,

    CONSTRAINT a_delivery_is_whole CHECK ((lease_epoch IS NULL) = (agent IS NULL)
        AND (lease_epoch IS NULL) = (delivered_at IS NULL)),
    CONSTRAINT only_what_was_delivered_has_an_epoch CHECK (status NOT IN ('pending') OR lease_epoch IS NULL),
    CONSTRAINT what_was_begun_has_an_epoch CHECK (status NOT IN ('delivered', 'running', 'succeeded', 'failed',
        'interrupted') OR lease_epoch IS NOT NULL),
    CONSTRAINT only_what_is_over_is_finished CHECK ((finished_at IS NULL) = (status IN ('pending', 'delivered', 'running'))),
    CONSTRAINT only_an_answer_has_a_result CHECK (result IS NULL OR status IN ('succeeded', 'failed')),
    CONSTRAINT success_has_no_failure CHECK (failure IS NULL OR status IN ('failed', 'expired', 'cancelled', 'interrupted')),
    CONSTRAINT whoever_is_told_is_told_some_time CHECK ((holder IS NULL) = (deliver_at IS NULL)),
    CONSTRAINT only_news_is_told CHECK (holder IS NULL OR status IN ('pending', 'delivered', 'cancelled'))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE UNIQUE INDEX commands_by_session ON commands (session_id, seq);
CREATE INDEX commands_finished ON commands (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX commands_open ON commands (session_id) WHERE open;
CREATE INDEX commands_to_deliver ON commands (holder, deliver_at) WHERE holder IS NOT NULL;
CREATE INDEX commands_due ON commands (deadline_at) WHERE open;
COMMENT ON TABLE commands IS 'Imperative work on sessions, done by their holders: at least once within one lease epoch';
COMMENT ON COLUMN commands.id IS 'A UUID, version 7';
COMMENT ON COLUMN commands.seq IS 'Its number; within a session in the order of creation, since the session''s row was locked';
COMMENT ON COLUMN commands.session_id IS 'The session';
COMMENT ON COLUMN commands.kind IS 'What to do, in the words of the pool''s agents';
COMMENT ON COLUMN commands.payload IS 'A JSON object for the agent; kept as it was sent (json, not jsonb)';
COMMENT ON COLUMN commands.status IS 'How far it is';
COMMENT ON COLUMN commands.redeliver IS 'Whether the next holder gets it again when the epoch ends before it is finished';
COMMENT ON COLUMN commands.lease_epoch IS 'The epoch under which it was delivered';
COMMENT ON COLUMN commands.agent IS 'The agent it was delivered to';
COMMENT ON COLUMN commands.result IS 'What it gave; kept as it was sent';
COMMENT ON COLUMN commands.failure IS 'Why it did not succeed';
COMMENT ON COLUMN commands.deadline_at IS 'When it expires unless it is finished';
COMMENT ON COLUMN commands.created_at IS 'When it was created';
COMMENT ON COLUMN commands.delivered_at IS 'When it was first given to the agent under this epoch';
COMMENT ON COLUMN commands.finished_at IS 'When it was over';
COMMENT ON COLUMN commands.holder IS 'The agent that is to be told of it: the session''s holder, until it has acknowledged';
COMMENT ON COLUMN commands.deliver_at IS 'From when on that agent''s claims return it; null when there is nothing to say';
COMMENT ON COLUMN commands.deliveries IS 'How often it has been returned to that agent';
COMMENT ON COLUMN commands.open IS 'Whether anything can still become of it';
