-- Pools whose agents are approved by an operator, one by one.

ALTER TABLE pools ADD COLUMN approval text NOT NULL DEFAULT 'auto' CHECK (approval IN ('auto', 'manual'));
COMMENT ON COLUMN pools.approval IS 'Whether its agents may register at once, or when each was approved';

CREATE TABLE agent_approvals (
    pool        text COLLATE "C" NOT NULL REFERENCES pools (name) ON DELETE CASCADE,
    agent       text COLLATE "C" NOT NULL CHECK (agent ~ '^([a-z0-9][a-z0-9._-]{0,62}~)?[a-z0-9][a-z0-9._-]{0,127}$'),
    asked_at    timestamptz,
    approved_at timestamptz,
    approved_by text,
    PRIMARY KEY (pool, agent),
    CHECK ((approved_at IS NULL) = (approved_by IS NULL)),
    CHECK (asked_at IS NOT NULL OR approved_at IS NOT NULL)
);
CREATE INDEX agent_approvals_open ON agent_approvals (asked_at) WHERE approved_at IS NULL;
COMMENT ON TABLE agent_approvals IS 'Which agents have asked to be in which pool, and which may';
COMMENT ON COLUMN agent_approvals.pool IS 'The pool';
COMMENT ON COLUMN agent_approvals.agent IS 'The agent; it may not be registered';
COMMENT ON COLUMN agent_approvals.asked_at IS 'When it last asked and was told to wait';
COMMENT ON COLUMN agent_approvals.approved_at IS 'When it was approved; null while it waits';
COMMENT ON COLUMN agent_approvals.approved_by IS 'By whom';
