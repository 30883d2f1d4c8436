-- Drains: agents that are to hand over what they hold, and how far they are.

ALTER TABLE agents ADD COLUMN drain_state text CHECK (drain_state IN ('draining', 'drained'));
ALTER TABLE agents ADD CONSTRAINT only_the_cordoned_drain CHECK (drain_state IS NULL OR cordoned);
ALTER TABLE agents ADD COLUMN scheduling text NOT NULL GENERATED ALWAYS AS (
    CASE WHEN NOT cordoned THEN 'active' ELSE coalesce(drain_state, 'cordoned') END) STORED;
COMMENT ON COLUMN agents.drain_state IS 'Whether it hands over what it holds, or has done so';
COMMENT ON COLUMN agents.scheduling IS 'Whether it is given new sessions, as the API says it';

ALTER TABLE sessions ADD COLUMN handing_over boolean NOT NULL DEFAULT false;
ALTER TABLE sessions ADD CONSTRAINT only_a_hold_is_handed_over
    CHECK (NOT handing_over OR (assigned_agent_id IS NOT NULL AND offered_until IS NULL));
COMMENT ON COLUMN sessions.handing_over IS 'Its holder is asked to let go of it, so that another agent of the domain can adopt it';

CREATE TABLE drains (
    id          uuid PRIMARY KEY,
    pool        text COLLATE "C" NOT NULL,
    agent       text COLLATE "C",
    status      text NOT NULL CHECK (status IN ('in_progress', 'completed', 'cancelled', 'failed')),
    reason      text,
    started_by  text NOT NULL,
    force       boolean NOT NULL,
    started_at  timestamptz NOT NULL,
    deadline_at timestamptz NOT NULL,
    acted_at    timestamptz,
    finished_at timestamptz,
    CHECK ((finished_at IS NULL) = (status = 'in_progress'))
);
CREATE INDEX drains_by_pool ON drains (pool, started_at) WHERE agent IS NULL;
CREATE INDEX drains_in_progress ON drains (started_at) WHERE status = 'in_progress';
CREATE INDEX drains_finished ON drains (finished_at) WHERE status <> 'in_progress';
COMMENT ON TABLE drains IS 'Orders to hand over everything that an agent, or every agent of a pool, holds';
COMMENT ON COLUMN drains.id IS 'Its id';
COMMENT ON COLUMN drains.pool IS 'The pool';
COMMENT ON COLUMN drains.agent IS 'The agent; null for every agent that the pool had then';
COMMENT ON COLUMN drains.status IS 'How far it is';
COMMENT ON COLUMN drains.reason IS 'Why, in somebody''s words';
COMMENT ON COLUMN drains.started_by IS 'By whom';
COMMENT ON COLUMN drains.force IS 'Whether holds are taken without asking';
COMMENT ON COLUMN drains.started_at IS 'Since when';
COMMENT ON COLUMN drains.deadline_at IS 'When what has not been handed over is taken, or left to on_lost';
COMMENT ON COLUMN drains.acted_at IS 'When holds were last taken, or left to on_lost, after the deadline';
COMMENT ON COLUMN drains.finished_at IS 'When it was over';

CREATE TABLE drain_agents (
    drain_id        uuid NOT NULL REFERENCES drains (id) ON DELETE CASCADE,
    agent           text COLLATE "C" NOT NULL,
    resource_domain text COLLATE "C" NOT NULL,
    was_cordoned    boolean NOT NULL,
    agent_since     timestamptz NOT NULL,
    PRIMARY KEY (drain_id, agent)
);
CREATE INDEX drain_agents_by_agent ON drain_agents (agent);
COMMENT ON TABLE drain_agents IS 'The agents that each drain is about';
COMMENT ON COLUMN drain_agents.drain_id IS 'The drain';
COMMENT ON COLUMN drain_agents.agent IS 'The agent; it may have gone since';
COMMENT ON COLUMN drain_agents.resource_domain IS 'Its domain';
COMMENT ON COLUMN drain_agents.was_cordoned IS 'Whether it was cordoned before; a cancelled drain leaves it so';

COMMENT ON COLUMN drain_agents.agent_since IS 'Its created_at: one that left and came again under its name is another one';

CREATE TABLE drain_sessions (
    drain_id   uuid NOT NULL REFERENCES drains (id) ON DELETE CASCADE,
    session_id uuid NOT NULL,
    agent      text COLLATE "C" NOT NULL,
    outcome    text CHECK (outcome IN ('handed_over', 'ended', 'hibernated', 'requeued')),
    done_at    timestamptz,
    PRIMARY KEY (drain_id, session_id),
    CHECK ((outcome IS NULL) = (done_at IS NULL))
);
COMMENT ON TABLE drain_sessions IS 'The sessions that each drain found held, and what became of them';
COMMENT ON COLUMN drain_sessions.drain_id IS 'The drain';
COMMENT ON COLUMN drain_sessions.session_id IS 'The session; it may have gone since';
COMMENT ON COLUMN drain_sessions.agent IS 'Who held it';
COMMENT ON COLUMN drain_sessions.outcome IS 'What became of it; null while it is still to be handed over';
COMMENT ON COLUMN drain_sessions.done_at IS 'Since when that is known';
