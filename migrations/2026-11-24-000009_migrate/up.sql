-- Migrations of sessions: to another pool or resource domain, and back where they were if that fails.

ALTER TABLE sessions
    ADD COLUMN start_domain            text COLLATE "C",
    ADD COLUMN migrating_from_pool     text COLLATE "C" REFERENCES pools (name),
    ADD COLUMN migrating_from_domain   text COLLATE "C",
    ADD COLUMN start_metadata          json,
    ADD COLUMN stopping_attempt        integer,
    ADD COLUMN stopping_lease_until    timestamptz,
    ADD CONSTRAINT a_migration_is_whole CHECK (CASE WHEN migrating_from_pool IS NULL
        THEN migrating_from_domain IS NULL ELSE start_metadata IS NOT NULL END),
    ADD CONSTRAINT what_has_come_up_has_arrived CHECK ((start_domain IS NULL AND migrating_from_pool IS NULL)
        OR state IN ('pending', 'starting', 'hibernating', 'waking', 'terminating')),
    ADD CONSTRAINT who_waits_for_a_stop_is_held_back CHECK (
        (stopping_attempt IS NULL OR (held_back_until IS NOT NULL AND state = 'pending'))
        AND (stopping_attempt IS NOT NULL OR stopping_lease_until IS NULL));
COMMENT ON COLUMN sessions.start_domain IS 'Only agents of this domain may start it; null: any agent of the pool. Cleared once it has come up';
COMMENT ON COLUMN sessions.migrating_from_pool IS 'The pool to which it comes back if its migration fails; null: it is in none. Cleared once it has come up';
COMMENT ON COLUMN sessions.migrating_from_domain IS 'The domain to which it comes back then; null: it was in none';
COMMENT ON COLUMN sessions.start_metadata IS 'Its platform_metadata where it was, which says where its data is: each attempt begins with it, until one has come up';
COMMENT ON COLUMN sessions.stopping_attempt IS 'The attempt that has to be gone before it is started; held_back_until is when that is given up';
COMMENT ON COLUMN sessions.stopping_lease_until IS 'Until when the agent that held that attempt may act; null once it has acknowledged the loss';

-- What only agents of one domain may start waits in queues of its own: the domain is part of the selector.
DROP INDEX sessions_start_queue;
ALTER TABLE sessions DROP COLUMN requires_key;
ALTER TABLE sessions
    ADD COLUMN requires_key text COLLATE "C" NOT NULL GENERATED ALWAYS AS (
        CASE WHEN start_domain IS NOT NULL THEN md5(requires::text || start_domain)
            WHEN requires = '{}' THEN '' ELSE md5(requires::text) END) STORED;
COMMENT ON COLUMN sessions.requires_key IS 'A digest of requires and start_domain, empty if any agent will do: one queue of starts each';
CREATE INDEX sessions_start_queue ON sessions (agent_pool, requires_key, owner_key, queue_rank, queued_at)
    WHERE pool_work = 'start';
CREATE INDEX sessions_bound ON sessions (agent_pool, start_domain) WHERE start_domain IS NOT NULL;
CREATE INDEX sessions_migrating ON sessions (migrating_from_pool) WHERE migrating_from_pool IS NOT NULL;
