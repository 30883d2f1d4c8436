-- Tokens, and tenants.

-- What belongs to a tenant is called `<tenant>~<name>`: see protocol/src/tenants.rs.
ALTER TABLE pools DROP CONSTRAINT pools_name_check;
ALTER TABLE pools ADD CONSTRAINT pools_name_check
    CHECK (name ~ '^([a-z0-9][a-z0-9._-]{0,62}~)?[a-z0-9][a-z0-9._-]{0,127}$');
ALTER TABLE agents DROP CONSTRAINT agents_name_check;
ALTER TABLE agents ADD CONSTRAINT agents_name_check
    CHECK (name ~ '^([a-z0-9][a-z0-9._-]{0,62}~)?[a-z0-9][a-z0-9._-]{0,127}$');
-- What there is has no tenant, so nothing needs to be looked at. `IS NOT DISTINCT FROM`, spelt so that
-- it is computed from the two columns alone.
ALTER TABLE agents ADD CONSTRAINT an_agent_is_of_its_pools_tenant CHECK (
    CASE WHEN name LIKE '%~%' THEN split_part(name, '~', 1) ELSE '' END
    = CASE WHEN pool LIKE '%~%' THEN split_part(pool, '~', 1) ELSE '' END) NOT VALID;
ALTER TABLE sessions ADD CONSTRAINT a_name_is_of_its_pools_tenant CHECK (name IS NULL OR
    CASE WHEN name LIKE '%~%' THEN split_part(name, '~', 1) ELSE '' END
    = CASE WHEN agent_pool LIKE '%~%' THEN split_part(agent_pool, '~', 1) ELSE '' END) NOT VALID;

CREATE TABLE tokens (
    id             uuid PRIMARY KEY,
    name           text NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 128),
    digest         bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    prefix         text NOT NULL,
    role           text NOT NULL CHECK (role IN ('admin', 'operator', 'viewer', 'user', 'enroll', 'agent')),
    pools          text[] COLLATE "C" NOT NULL DEFAULT '{}',
    agent          text COLLATE "C",
    owner          text COLLATE "C",
    tenant         text COLLATE "C" CHECK (tenant ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    enrolled       boolean NOT NULL DEFAULT false,
    created_by     text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz,
    last_used_at   timestamptz,
    revoked_at     timestamptz,
    replaces       uuid,
    version        bigint NOT NULL DEFAULT 1,
    changed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT a_user_has_an_owner CHECK ((role = 'user') = (owner IS NOT NULL)),
    CONSTRAINT an_agent_has_a_name CHECK ((role = 'agent') = (agent IS NOT NULL)),
    CONSTRAINT an_agent_has_one_pool CHECK (role <> 'agent' OR cardinality(pools) = 1),
    CONSTRAINT enrolling_has_pools CHECK (role <> 'enroll' OR cardinality(pools) BETWEEN 1 AND 100),
    CONSTRAINT others_have_no_pools CHECK (role IN ('agent', 'enroll') OR cardinality(pools) = 0),
    CONSTRAINT only_agents_are_enrolled CHECK (NOT enrolled OR role = 'agent')
) WITH (fillfactor = 70);
-- A new one needs no look: nobody knows it yet.
CREATE INDEX tokens_by_change ON tokens (changed_at) WHERE version > 1;
CREATE INDEX tokens_by_agent ON tokens (agent) WHERE agent IS NOT NULL;
COMMENT ON TABLE tokens IS 'Who may do what: the digests of secrets that were shown once';
COMMENT ON COLUMN tokens.id IS 'A UUID, version 7; what the audit names';
COMMENT ON COLUMN tokens.name IS 'What people call it';
COMMENT ON COLUMN tokens.digest IS 'SHA-256 of the secret; the secret is kept nowhere';
COMMENT ON COLUMN tokens.prefix IS 'How the secret begins, to tell tokens apart';
COMMENT ON COLUMN tokens.role IS 'What it allows';
COMMENT ON COLUMN tokens.pools IS 'The pools that agents may be registered in, or the one pool of an agent';
COMMENT ON COLUMN tokens.agent IS 'The agent that it is for';
COMMENT ON COLUMN tokens.owner IS 'Whose sessions it is for';
COMMENT ON COLUMN tokens.tenant IS 'The tenant whose it is; of an agent and of enrolling, that of its pools';
COMMENT ON COLUMN tokens.enrolled IS 'Whether an agent''s registration made it; it is revoked when the agent goes';
COMMENT ON COLUMN tokens.created_by IS 'Who created it';
COMMENT ON COLUMN tokens.created_at IS 'When it was created';
COMMENT ON COLUMN tokens.expires_at IS 'When it expires, by the database''s clock';
COMMENT ON COLUMN tokens.last_used_at IS 'When it was last used, to a minute or so';
COMMENT ON COLUMN tokens.revoked_at IS 'When it was revoked';
COMMENT ON COLUMN tokens.replaces IS 'The token that it came in the place of; that one may be gone';
COMMENT ON COLUMN tokens.version IS 'The ETag; rises when it is revoked or replaced';
COMMENT ON COLUMN tokens.changed_at IS 'When what it allows last changed; servers look for what is newer than their last look';

-- An agent that goes takes the tokens with it that its registrations made, in the same transaction and
-- whoever removes it.
CREATE FUNCTION revoke_tokens_of_agent() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tokens t SET revoked_at = now(), changed_at = clock_timestamp(), version = t.version + 1
    WHERE t.agent = OLD.name AND t.enrolled AND t.revoked_at IS NULL;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION revoke_tokens_of_agent IS 'Revokes the tokens that the registrations of a deleted agent made';
CREATE TRIGGER an_agent_takes_its_tokens_with_it AFTER DELETE ON agents
    FOR EACH ROW EXECUTE FUNCTION revoke_tokens_of_agent();
