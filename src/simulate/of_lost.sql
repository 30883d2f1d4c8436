-- simulate::of_lost
-- What these agents hold or are offered.
SELECT {columns} FROM sessions s WHERE s.assigned_agent_id = ANY ($1) LIMIT 100001
