-- sessions::lock_assigned_free
-- Some sessions, locked, of those that are assigned to some agents, but for those that somebody else has locked.
-- They are found by their ids: the agent is written so that no index serves it, nor one of assigned sessions.
SELECT {columns} FROM sessions s
WHERE s.id = ANY($1) AND coalesce(s.assigned_agent_id, '') = ANY($2)
ORDER BY s.id
FOR UPDATE SKIP LOCKED
