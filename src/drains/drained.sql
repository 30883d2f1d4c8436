-- drains::drained
-- Agents of a drain that hold nothing any more, and whose sessions have all been taken over. Their
-- rows are locked.
UPDATE agents a SET drain_state = 'drained'
WHERE a.name = ANY ($2) AND a.drain_state = 'draining'
    AND NOT EXISTS (SELECT FROM drain_sessions d
        WHERE d.drain_id = $1 AND d.agent = a.name AND d.outcome IS NULL)
    AND NOT EXISTS (SELECT FROM sessions s WHERE s.assigned_agent_id = a.name)
RETURNING a.name
