-- drains::track
-- What the agents of a drain hold is to be handed over, also what they came to hold since.
INSERT INTO drain_sessions (drain_id, session_id, agent)
SELECT $1, s.id, s.assigned_agent_id FROM sessions s
WHERE s.assigned_agent_id = ANY ($2) AND s.offered_until IS NULL
ON CONFLICT DO NOTHING
