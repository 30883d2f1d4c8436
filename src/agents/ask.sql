-- agents::ask
-- An agent asks to be in a pool. Who has asked before is told of no more.
WITH asked AS (
    INSERT INTO agent_approvals AS a (pool, agent, asked_at)
    SELECT p.name, $2, now() FROM pools p WHERE p.name = $1
    ON CONFLICT (pool, agent) DO UPDATE SET asked_at = excluded.asked_at
    RETURNING a.pool, a.agent, (xmax = 0) AS is_new
), told AS (
    INSERT INTO events (kind, at, pool, agent, actor_type, actor_name)
    SELECT 'agent.approval_wanted', now(), pool, agent, 'agent', agent FROM asked WHERE is_new
    RETURNING batch
)
INSERT INTO event_inbox (batch) SELECT t.batch FROM told t
