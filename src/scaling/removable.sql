-- scaling::removable
-- Live agents that hold nothing: drained ones first, then those that are given nothing anyway, then
-- the youngest.
SELECT a.name, CASE WHEN a.scheduling = 'drained' THEN 'drained' ELSE 'empty' END AS reason
FROM agents a
WHERE a.pool = $1 AND a.live AND a.scheduling <> 'draining'
    AND NOT EXISTS (SELECT FROM sessions s WHERE s.assigned_agent_id = a.name)
ORDER BY a.scheduling = 'drained' DESC, a.cordoned DESC, a.registered_at DESC, a.name
LIMIT 1000
