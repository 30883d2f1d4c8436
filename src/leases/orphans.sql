-- leases::orphans
-- Assignees of sessions that are gone, not live, or of another incarnation. Who is live is read once, whatever is
-- known of how many sessions there are: a look for each of them would go past all versions of its agent that an
-- old transaction keeps.
SELECT DISTINCT s.assigned_agent_id AS agent
FROM sessions s
WHERE s.assigned_agent_id IS NOT NULL
    AND ((s.assigned_agent_id, s.assigned_incarnation) IN
        (SELECT a.name, a.incarnation FROM agents a WHERE a.live)) IS NOT TRUE
LIMIT 100
