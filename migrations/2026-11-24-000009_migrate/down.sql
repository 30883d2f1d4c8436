DROP INDEX sessions_start_queue;
ALTER TABLE sessions DROP COLUMN requires_key;
ALTER TABLE sessions
    DROP COLUMN start_domain,
    DROP COLUMN migrating_from_pool,
    DROP COLUMN migrating_from_domain,
    DROP COLUMN start_metadata,
    DROP COLUMN stopping_attempt,
    DROP COLUMN stopping_lease_until;
ALTER TABLE sessions
    ADD COLUMN requires_key text COLLATE "C" NOT NULL GENERATED ALWAYS AS (
        CASE WHEN requires = '{}' THEN '' ELSE md5(requires::text) END) STORED;
COMMENT ON COLUMN sessions.requires_key IS 'A digest of requires, empty if it asks for nothing: one queue of starts each';
CREATE INDEX sessions_start_queue ON sessions (agent_pool, requires_key, owner_key, queue_rank, queued_at)
    WHERE pool_work = 'start';
