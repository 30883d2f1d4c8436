-- upkeep::due
-- Sessions for which time alone has changed something, the longest due first.
SELECT id, agent_pool AS pool, assigned_agent_id AS agent FROM sessions
WHERE due_at <= now()
ORDER BY due_at
LIMIT 200
