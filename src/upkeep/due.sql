-- upkeep::due
-- Sessions for which time alone has changed something, the longest due first. Before $1 there was nothing.
SELECT id, agent_pool AS pool, assigned_agent_id AS agent FROM sessions
WHERE due_at >= $1 AND due_at <= now()
ORDER BY due_at
LIMIT 200
