-- leases::orphans
-- Assignees of sessions that are gone, not live, or of another incarnation.
SELECT DISTINCT s.assigned_agent_id AS agent
FROM sessions s
LEFT JOIN agents a ON a.name = s.assigned_agent_id
WHERE s.assigned_agent_id IS NOT NULL
    AND (a.name IS NULL OR NOT a.live OR a.incarnation <> s.assigned_incarnation)
LIMIT 100
