-- drains::to_do
-- Holds of a drain's agents about which something is to be done now: before the deadline, those to
-- be asked for, or not to be asked for any more; after it, which the third parameter says, those to be
-- taken, and of those that nobody can adopt the ones about which on_lost, the fourth, says something.
SELECT s.id, x.adoptable
FROM drain_sessions d
JOIN sessions s ON s.id = d.session_id
CROSS JOIN LATERAL (SELECT EXISTS (
    SELECT FROM agents a
    WHERE a.pool = s.agent_pool AND a.resource_domain = s.resource_domain
        AND a.live AND a.scheduling = 'active' AND a.name <> s.assigned_agent_id) AS adoptable) x
WHERE d.drain_id = $1 AND d.outcome IS NULL
    AND s.assigned_agent_id = ANY ($2) AND s.offered_until IS NULL
    AND CASE
        WHEN $3 THEN x.adoptable OR s.handing_over OR $4 = 'fail'
            OR ($4 = 'restart' AND (s.desired_state = 'terminated'
                OR (s.desired_state = 'running' AND s.state <> 'terminating')))
        ELSE s.state = 'running' AND s.desired_state = 'running' AND s.handing_over <> x.adoptable
    END
ORDER BY s.id
LIMIT 500
