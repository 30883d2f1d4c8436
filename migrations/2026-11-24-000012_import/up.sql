-- Imports: what was brought in from another control plane, so that it can be done again and undone.

CREATE TABLE imports (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text COLLATE "C" NOT NULL,
    kind   text NOT NULL CHECK (kind IN ('apply', 'rollback')),
    at     timestamptz NOT NULL,
    counts jsonb NOT NULL
);
CREATE INDEX imports_by_source ON imports (source, id);
COMMENT ON TABLE imports IS 'What imports and their undoing did, one row a run';
COMMENT ON COLUMN imports.id IS 'The order of the runs';
COMMENT ON COLUMN imports.source IS 'The name of the other database, without secrets';
COMMENT ON COLUMN imports.kind IS 'Whether it brought in or undid';
COMMENT ON COLUMN imports.at IS 'When';
COMMENT ON COLUMN imports.counts IS 'How many rows met which end';

-- No reference to sessions: one that has ended and was deleted is not to be brought in again.
CREATE TABLE imported_sessions (
    source      text COLLATE "C" NOT NULL,
    old_id      text COLLATE "C" NOT NULL,
    session_id  uuid NOT NULL UNIQUE,
    version     bigint NOT NULL,
    fingerprint text NOT NULL,
    imported_at timestamptz NOT NULL,
    PRIMARY KEY (source, old_id)
);
COMMENT ON TABLE imported_sessions IS 'Which session came of which row of another control plane';
COMMENT ON COLUMN imported_sessions.source IS 'As of imports';
COMMENT ON COLUMN imported_sessions.old_id IS 'The id of its row there';
COMMENT ON COLUMN imported_sessions.session_id IS 'Its id here';
COMMENT ON COLUMN imported_sessions.version IS 'Its version as the import left it: another one says that it has moved on';
COMMENT ON COLUMN imported_sessions.fingerprint IS 'A digest of what was made of the row, by which a change there is known';
COMMENT ON COLUMN imported_sessions.imported_at IS 'When it was last written by an import';

CREATE TABLE imported_pools (
    source   text COLLATE "C" NOT NULL,
    platform text NOT NULL,
    region   text NOT NULL,
    cluster  text NOT NULL,
    pool     text COLLATE "C" NOT NULL,
    created  boolean NOT NULL,
    PRIMARY KEY (source, platform, region, cluster)
);
COMMENT ON TABLE imported_pools IS 'Which pool stands for which platform, region and cluster of another control plane';
COMMENT ON COLUMN imported_pools.source IS 'As of imports';
COMMENT ON COLUMN imported_pools.platform IS 'The platform, as it is called here';
COMMENT ON COLUMN imported_pools.region IS 'The region there; empty for none';
COMMENT ON COLUMN imported_pools.cluster IS 'The cluster there; empty for none';
COMMENT ON COLUMN imported_pools.pool IS 'The pool here';
COMMENT ON COLUMN imported_pools.created IS 'Whether an import made it, so that a rollback may delete it';

CREATE TABLE imported_domains (
    source          text COLLATE "C" NOT NULL,
    pool            text COLLATE "C" NOT NULL,
    resource_domain text COLLATE "C" NOT NULL,
    PRIMARY KEY (source, pool, resource_domain)
);
COMMENT ON TABLE imported_domains IS 'Resource domains that an import was the first to name';
COMMENT ON COLUMN imported_domains.source IS 'As of imports';
COMMENT ON COLUMN imported_domains.pool IS 'The pool';
COMMENT ON COLUMN imported_domains.resource_domain IS 'The domain';
