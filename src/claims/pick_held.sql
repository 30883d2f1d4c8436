-- claims::pick_held
-- What agents are to be told about sessions that are assigned to them.
SELECT {columns} FROM sessions s
WHERE s.assigned_agent_id = ANY($1) AND s.deliver_at <= now()
ORDER BY s.deliver_at
LIMIT 1000
FOR UPDATE SKIP LOCKED
