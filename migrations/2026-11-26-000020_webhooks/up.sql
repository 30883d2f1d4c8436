-- Webhooks: events that are sent to an address.

CREATE TABLE webhooks (
    id               uuid PRIMARY KEY,
    name             text NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 128),
    url              text NOT NULL CHECK (octet_length(url) BETWEEN 1 AND 2048),
    kinds            text[] COLLATE "C" NOT NULL DEFAULT '{}',
    pool             text COLLATE "C",
    owner            text COLLATE "C",
    tenant           text COLLATE "C" CHECK (tenant ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    enabled          boolean NOT NULL DEFAULT true,
    disabled_reason  text,
    secret           bytea NOT NULL CHECK (octet_length(secret) = 32),
    old_secret       bytea CHECK (octet_length(old_secret) = 32),
    old_secret_until timestamptz,
    position         bigint NOT NULL CHECK (position >= 0),
    sending_to       bigint,
    failures         integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    failing_since    timestamptz,
    next_attempt_at  timestamptz NOT NULL DEFAULT now(),
    last_failure_at  timestamptz,
    last_failure     text,
    last_success_at  timestamptz,
    taken_until      timestamptz,
    takes            bigint NOT NULL DEFAULT 0,
    created_by       text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    version          bigint NOT NULL DEFAULT 1,
    CONSTRAINT an_old_secret_ends CHECK ((old_secret IS NULL) = (old_secret_until IS NULL)),
    CONSTRAINT failures_began CHECK ((failures > 0) = (failing_since IS NOT NULL)),
    CONSTRAINT failures_are_told CHECK ((last_failure IS NULL) = (last_failure_at IS NULL)),
    CONSTRAINT reasons_are_of_the_disabled CHECK (disabled_reason IS NULL OR NOT enabled)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE webhooks IS 'Which events are sent where, and how far that is';
COMMENT ON COLUMN webhooks.id IS 'A UUID, version 7';
COMMENT ON COLUMN webhooks.name IS 'What people call it';
COMMENT ON COLUMN webhooks.url IS 'Where it sends';
COMMENT ON COLUMN webhooks.kinds IS 'Only these kinds; a star at the end stands for any; none: all';
COMMENT ON COLUMN webhooks.pool IS 'Only events of this pool';
COMMENT ON COLUMN webhooks.owner IS 'Only events of sessions of this owner';
COMMENT ON COLUMN webhooks.tenant IS 'The tenant whose it is: only events of its pools';
COMMENT ON COLUMN webhooks.enabled IS 'Whether it sends';
COMMENT ON COLUMN webhooks.disabled_reason IS 'Why the service has disabled it';
COMMENT ON COLUMN webhooks.secret IS 'The key of the signature; it has to be kept as it is';
COMMENT ON COLUMN webhooks.old_secret IS 'The key before, which signs too until a time';
COMMENT ON COLUMN webhooks.old_secret_until IS 'Until when';
COMMENT ON COLUMN webhooks.position IS 'Up to this position everything was taken by the receiver, or does not concern it';
COMMENT ON COLUMN webhooks.sending_to IS 'Up to where the delivery went that failed: it is sent again as it was';
COMMENT ON COLUMN webhooks.failures IS 'How often what comes next has failed';
COMMENT ON COLUMN webhooks.failing_since IS 'Since when';
COMMENT ON COLUMN webhooks.next_attempt_at IS 'Not before this time';
COMMENT ON COLUMN webhooks.last_failure_at IS 'When it last failed';
COMMENT ON COLUMN webhooks.last_failure IS 'How it last failed';
COMMENT ON COLUMN webhooks.last_success_at IS 'When the receiver last took something';
COMMENT ON COLUMN webhooks.taken_until IS 'Until when a server has it in hand';
COMMENT ON COLUMN webhooks.takes IS 'How often a server has taken it in hand, or somebody has changed it: what was begun before counts no more';
COMMENT ON COLUMN webhooks.created_by IS 'Who created it';
COMMENT ON COLUMN webhooks.created_at IS 'When it was created';
COMMENT ON COLUMN webhooks.updated_at IS 'When somebody last changed it';
COMMENT ON COLUMN webhooks.version IS 'The ETag; rises when somebody changes it';
