-- Fair shares and selectors: what any agent of a pool may start waits in a queue per selector and
-- owner, so that no head of one queue stands in front of another.

ALTER TABLE sessions
    ADD COLUMN owner_key text COLLATE "C" NOT NULL GENERATED ALWAYS AS (coalesce(owner, '')) STORED,
    -- A digest, since 64 labels do not fit into an index. Whether an agent has the labels is asked of
    -- `requires` itself, so two selectors with one digest would share a queue and nothing else.
    ADD COLUMN requires_key text COLLATE "C" NOT NULL GENERATED ALWAYS AS (
        CASE WHEN requires = '{}' THEN '' ELSE md5(requires::text) END) STORED,
    -- What is lost with its domain and nobody does anything about is on no agent: it is to be started
    -- again, and takes its place then.
    ADD COLUMN takes_place boolean NOT NULL GENERATED ALWAYS AS (
        (assigned_agent_id IS NOT NULL AND state IN ('pending', 'hibernated'))
        OR (state IN ('starting', 'running', 'waking', 'hibernating', 'terminating')
            AND (assigned_agent_id IS NOT NULL OR NOT domain_lost))) STORED;
COMMENT ON COLUMN sessions.owner_key IS 'The owner, empty if there is none: one queue of starts each';
COMMENT ON COLUMN sessions.requires_key IS 'A digest of requires, empty if it asks for nothing: one queue of starts each';
COMMENT ON COLUMN sessions.takes_place IS 'Whether it counts against its owner''s max_running: it is on an agent or on its way';

DROP INDEX sessions_start_queue;
CREATE INDEX sessions_start_queue ON sessions (agent_pool, requires_key, owner_key, queue_rank, queued_at)
    WHERE pool_work = 'start';
CREATE INDEX sessions_taking_place ON sessions (agent_pool, owner_key) WHERE takes_place AND owner IS NOT NULL;

CREATE TABLE pool_owners (
    pool        text COLLATE "C" NOT NULL REFERENCES pools (name) ON DELETE CASCADE,
    owner       text COLLATE "C" NOT NULL CHECK (octet_length(owner) BETWEEN 1 AND 256),
    weight      double precision NOT NULL CHECK (weight > 0 AND weight <= 1000),
    max_running integer CHECK (max_running BETWEEN 0 AND 1000000),
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (pool, owner)
);
CREATE INDEX pool_owners_by_age ON pool_owners (pool, created_at, owner);
COMMENT ON TABLE pool_owners IS 'Owners whose share of a pool is not the default: weight 1 and no limit';
COMMENT ON COLUMN pool_owners.pool IS 'The pool';
COMMENT ON COLUMN pool_owners.owner IS 'The owner';
COMMENT ON COLUMN pool_owners.weight IS 'How much it gets beside an owner of weight 1 while both have something waiting';
COMMENT ON COLUMN pool_owners.max_running IS 'While so many of its sessions take a place none is started; null: no limit';
COMMENT ON COLUMN pool_owners.created_at IS 'When its share was first set';

-- Both tables of turns are written by rounds in which at least two owners compete, and are no loss
-- when they are empty: everybody begins anew then.
CREATE TABLE owner_turns (
    pool         text COLLATE "C" NOT NULL,
    owner        text COLLATE "C" NOT NULL,
    virtual_time double precision NOT NULL,
    last_start   double precision NOT NULL,
    written_at   timestamptz NOT NULL,
    PRIMARY KEY (pool, owner),
    CHECK (virtual_time > last_start)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE owner_turns IS 'How far each owner is in the queueing for a pool; the one with the least is next';
COMMENT ON COLUMN owner_turns.pool IS 'The pool';
COMMENT ON COLUMN owner_turns.owner IS 'The owner, empty for sessions that have none';
COMMENT ON COLUMN owner_turns.virtual_time IS 'Rises by 1 over the weight with each session given; counts from the pool''s, where that is greater';
COMMENT ON COLUMN owner_turns.last_start IS 'What it was at the beginning of the last round that gave it something';
COMMENT ON COLUMN owner_turns.written_at IS 'When that was; it is deleted an hour later';

CREATE TABLE pool_turns (
    pool         text COLLATE "C" PRIMARY KEY,
    virtual_time double precision NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE pool_turns IS 'How far each pool is: where an owner begins that was away, so that nobody saves up turns';
COMMENT ON COLUMN pool_turns.pool IS 'The pool';
COMMENT ON COLUMN pool_turns.virtual_time IS 'The virtual time of the owner that was last given something, when it was; it only rises';
