-- A page of what agents of a pool have, which is little of a pool with a long history. Its condition is spelt so that
-- no other one implies it: a plan from when the table was known to be empty would walk over all of it for whatever
-- asks for an agent's sessions.
CREATE INDEX sessions_assigned_by_pool ON sessions (agent_pool, id) WHERE (assigned_agent_id IS NOT NULL) IS TRUE;

-- Which cordons are over is asked several times a second, and an old transaction keeps thousands of versions of
-- each agent.
CREATE INDEX agents_by_end_of_cordon ON agents (cordon_until) WHERE cordon_until IS NOT NULL;
