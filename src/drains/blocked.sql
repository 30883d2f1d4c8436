-- drains::blocked
-- The sessions of a drain that cannot be handed over at present, and why.
SELECT b.session_id, b.reason FROM (
    SELECT d.session_id, CASE
        WHEN NOT x.adoptable THEN 'no_other_agent'
        WHEN s.held_back_until IS NOT NULL THEN 'holder_may_still_act'
        WHEN s.assigned_agent_id = ANY ($2) AND s.offered_until IS NULL THEN CASE
            WHEN s.state <> 'running' THEN 'not_running'
            -- Told once, told again at once, and told a third time: it has had its chance.
            WHEN s.handing_over AND s.deliveries >= 3 THEN 'holder_does_not_answer'
        END
    END AS reason
    FROM drain_sessions d
    JOIN sessions s ON s.id = d.session_id
    CROSS JOIN LATERAL (SELECT EXISTS (
        SELECT FROM agents a
        WHERE a.pool = s.agent_pool AND a.resource_domain = s.resource_domain
            AND a.live AND a.scheduling = 'active') AS adoptable) x
    WHERE d.drain_id = $1 AND d.outcome IS NULL
) b
WHERE b.reason IS NOT NULL
ORDER BY b.session_id
LIMIT 1000
