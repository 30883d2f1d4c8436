-- Rebalances: running sessions move from agents that hold many to agents of their domain that hold few.

ALTER TABLE sessions ADD COLUMN reserved_for text COLLATE "C", ADD COLUMN reserved_until timestamptz;
ALTER TABLE sessions ADD CONSTRAINT only_a_hand_over_has_a_target
    CHECK (reserved_for IS NULL OR handing_over OR reserved_until IS NOT NULL);
ALTER TABLE sessions ADD CONSTRAINT only_what_was_let_go_of_is_kept_for_somebody
    CHECK (reserved_until IS NULL OR (reserved_for IS NOT NULL AND assigned_agent_id IS NULL));
COMMENT ON COLUMN sessions.reserved_for IS 'The agent on whose behalf its holder was asked to let go of it';
COMMENT ON COLUMN sessions.reserved_until IS 'Until when only that agent can adopt it; null while it is held';

ALTER TABLE pools ADD COLUMN rebalance_min_gain integer CHECK (rebalance_min_gain BETWEEN 2 AND 1000000);
COMMENT ON COLUMN pools.rebalance_min_gain IS 'From which difference between two agents of a domain on, in sessions, it rebalances by itself; null: only when asked to';

CREATE TABLE rebalances (
    id           uuid PRIMARY KEY,
    pool         text COLLATE "C" NOT NULL,
    status       text NOT NULL CHECK (status IN ('in_progress', 'completed', 'cancelled')),
    automatic    boolean NOT NULL,
    max_parallel integer NOT NULL CHECK (max_parallel BETWEEN 1 AND 1000),
    started_by   text NOT NULL,
    started_at   timestamptz NOT NULL,
    finished_at  timestamptz,
    CHECK (status <> 'completed' OR finished_at IS NOT NULL),
    CHECK (status <> 'in_progress' OR finished_at IS NULL)
);
CREATE INDEX rebalances_by_pool ON rebalances (pool, started_at, id);
CREATE INDEX rebalances_unfinished ON rebalances (started_at) WHERE finished_at IS NULL;
CREATE INDEX rebalances_finished ON rebalances (finished_at) WHERE finished_at IS NOT NULL;
COMMENT ON TABLE rebalances IS 'Orders to even out what the agents of each domain of a pool hold';
COMMENT ON COLUMN rebalances.id IS 'Its id';
COMMENT ON COLUMN rebalances.pool IS 'The pool';
COMMENT ON COLUMN rebalances.status IS 'How far it is';
COMMENT ON COLUMN rebalances.automatic IS 'Whether the pool began it by itself';
COMMENT ON COLUMN rebalances.max_parallel IS 'How many sessions it moves at a time, at most';
COMMENT ON COLUMN rebalances.started_by IS 'By whom';
COMMENT ON COLUMN rebalances.started_at IS 'Since when';
COMMENT ON COLUMN rebalances.finished_at IS 'When its last move had an end; a cancelled one finishes what it has begun';

CREATE TABLE rebalance_moves (
    rebalance_id uuid NOT NULL REFERENCES rebalances (id) ON DELETE CASCADE,
    place        integer NOT NULL CHECK (place >= 0),
    session_id   uuid NOT NULL,
    lease_epoch  bigint NOT NULL,
    from_agent   text COLLATE "C" NOT NULL,
    to_agent     text COLLATE "C" NOT NULL,
    reason       text NOT NULL,
    state        text NOT NULL DEFAULT 'planned'
        CHECK (state IN ('planned', 'in_progress', 'moved', 'skipped', 'failed', 'cancelled')),
    asked_at     timestamptz,
    done_at      timestamptz,
    PRIMARY KEY (rebalance_id, place),
    CHECK ((done_at IS NULL) = (state IN ('planned', 'in_progress'))),
    CHECK (asked_at IS NOT NULL OR state NOT IN ('in_progress', 'moved', 'failed')),
    CHECK (from_agent <> to_agent)
);
-- A session is in one move at a time, whoever planned it.
CREATE UNIQUE INDEX rebalance_moves_open ON rebalance_moves (session_id) WHERE done_at IS NULL;
CREATE INDEX rebalance_moves_unfinished ON rebalance_moves (rebalance_id, place) WHERE done_at IS NULL;
CREATE INDEX rebalance_moves_made ON rebalance_moves (session_id, done_at) WHERE state = 'moved';
COMMENT ON TABLE rebalance_moves IS 'What each rebalance moves, and what became of it';
COMMENT ON COLUMN rebalance_moves.rebalance_id IS 'The rebalance';
COMMENT ON COLUMN rebalance_moves.place IS 'Its place in the plan, from 0';
COMMENT ON COLUMN rebalance_moves.session_id IS 'The session; it may have gone since';
COMMENT ON COLUMN rebalance_moves.lease_epoch IS 'The epoch under which it was held when the move was planned';
COMMENT ON COLUMN rebalance_moves.from_agent IS 'Who held it';
COMMENT ON COLUMN rebalance_moves.to_agent IS 'Who is to have it';
COMMENT ON COLUMN rebalance_moves.reason IS 'Why, in numbers, for people';
COMMENT ON COLUMN rebalance_moves.state IS 'How far the move is';
COMMENT ON COLUMN rebalance_moves.asked_at IS 'When its holder was asked to let go';
COMMENT ON COLUMN rebalance_moves.done_at IS 'When the move was made, or given up';

CREATE TABLE rebalance_looks (
    pool      text COLLATE "C" PRIMARY KEY REFERENCES pools (name) ON DELETE CASCADE,
    looked_at timestamptz NOT NULL,
    uneven    jsonb NOT NULL
);
COMMENT ON TABLE rebalance_looks IS 'What was seen of pools that rebalance by themselves';
COMMENT ON COLUMN rebalance_looks.pool IS 'The pool';
COMMENT ON COLUMN rebalance_looks.looked_at IS 'When it was last looked at';
COMMENT ON COLUMN rebalance_looks.uneven IS 'Its uneven domains, each with the number of looks in a row that found it so';
