-- claims::pick_held
-- What agents are to be told about sessions that are assigned to them. What was due before $2 they were told
-- already: each telling leaves a dead entry where it was due.
SELECT {columns} FROM sessions s
WHERE s.assigned_agent_id = ANY($1) AND s.deliver_at >= $2 AND s.deliver_at <= now()
ORDER BY s.deliver_at
LIMIT 1000
FOR UPDATE SKIP LOCKED
