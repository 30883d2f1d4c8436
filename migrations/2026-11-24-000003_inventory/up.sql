-- Inventories: what agents see on their platforms, and what must be deleted there.

ALTER TABLE agents ADD COLUMN inventory_taken_at timestamptz;
COMMENT ON COLUMN agents.inventory_taken_at IS 'When the newest inventory of this incarnation was begun; null before its first';

-- The time of the statement, not of the transaction: an inventory that was begun between the two
-- has not looked for the leftover.
ALTER TABLE leftovers ALTER COLUMN created_at SET DEFAULT clock_timestamp();
ALTER TABLE leftovers ADD COLUMN gone_at timestamptz;
ALTER TABLE leftovers ADD CONSTRAINT what_is_gone_was_there CHECK (gone_at >= created_at);
COMMENT ON COLUMN leftovers.gone_at IS 'Since when no inventory of the domain has it; kept for a day, in case that it comes late';
DROP INDEX leftovers_by_domain;
CREATE INDEX leftovers_to_delete ON leftovers (pool, resource_domain, created_at) WHERE gone_at IS NULL;
CREATE INDEX leftovers_by_resource ON leftovers (platform_resource_id) WHERE platform_resource_id IS NOT NULL;
CREATE INDEX leftovers_by_session ON leftovers (session_id, attempt);
CREATE INDEX leftovers_gone ON leftovers (gone_at) WHERE gone_at IS NOT NULL;

-- What live sessions said that runs them: these are kept, whatever they are labelled with.
CREATE INDEX sessions_by_resource ON sessions (platform_resource_id)
    WHERE platform_resource_id IS NOT NULL AND state <> 'terminated';

CREATE TABLE quarantined_resources (
    id                   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pool                 text COLLATE "C" NOT NULL,
    resource_domain      text COLLATE "C" NOT NULL,
    platform_resource_id text COLLATE "C" NOT NULL,
    session_id           uuid,
    attempt              integer,
    first_seen_at        timestamptz NOT NULL,
    last_seen_at         timestamptz NOT NULL,
    UNIQUE (pool, resource_domain, platform_resource_id)
);
COMMENT ON TABLE quarantined_resources IS 'Resources that inventories list and nobody knows: kept for the pool''s quarantine_seconds, then deleted';
COMMENT ON COLUMN quarantined_resources.id IS 'Its number';
COMMENT ON COLUMN quarantined_resources.pool IS 'The pool of the agents that see it';
COMMENT ON COLUMN quarantined_resources.resource_domain IS 'The domain in which it is';
COMMENT ON COLUMN quarantined_resources.platform_resource_id IS 'Its name on the platform';
COMMENT ON COLUMN quarantined_resources.session_id IS 'The session that it is labelled with, which this database does not have; null if unlabelled';
COMMENT ON COLUMN quarantined_resources.attempt IS 'The attempt that it is labelled with';
COMMENT ON COLUMN quarantined_resources.first_seen_at IS 'When an inventory that lists it first came';
COMMENT ON COLUMN quarantined_resources.last_seen_at IS 'When the newest inventory that lists it was begun';

CREATE TABLE absent_resources (
    agent       text COLLATE "C" NOT NULL,
    session_id  uuid NOT NULL,
    lease_epoch bigint NOT NULL,
    begun_at    timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (agent, session_id)
);
COMMENT ON TABLE absent_resources IS 'Running sessions that the last inventory of their holder did not list: the next one without them decides';
COMMENT ON COLUMN absent_resources.agent IS 'The holder';
COMMENT ON COLUMN absent_resources.session_id IS 'The session';
COMMENT ON COLUMN absent_resources.lease_epoch IS 'The epoch under which it is held';
COMMENT ON COLUMN absent_resources.begun_at IS 'When the inventory without it was begun';
COMMENT ON COLUMN absent_resources.received_at IS 'When that inventory came: the next one must have been begun later';
