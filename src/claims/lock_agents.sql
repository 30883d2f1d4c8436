-- claims::lock_agents
-- The agents that can take work, locked in key order. What is read here is the locked row: an
-- expiry, a cordon or a newer claim that committed before is seen. Each is found from the newest of its
-- versions back, by name: the pool is written so that no index serves it.
SELECT a.*, now() AS now,
    a.cordoned AND NOT EXISTS (SELECT FROM agents o
        WHERE o.pool = $2 AND o.resource_domain = a.resource_domain AND o.live AND o.name <> a.name)
        AS last_of_domain,
    EXISTS (SELECT FROM commands c WHERE c.holder = a.name AND c.deliver_at <= now() AND c.deadline_at > now())
        AS has_commands,
    ARRAY(SELECT l.session_id FROM lost_holds l WHERE l.agent = a.name AND l.incarnation = a.incarnation) AS lost
FROM (SELECT DISTINCT n COLLATE "C" AS name FROM unnest($1) AS n ORDER BY 1) n
CROSS JOIN LATERAL (
    SELECT a.name, a.resource_domain, a.incarnation, a.live, a.claim_number, a.capacity, a.slots_used,
        a.scheduling, a.passed_over_until, a.labels, a.cordoned
    FROM agents a
    WHERE a.name >= n.name AND a.name <= n.name AND a.pool || '' = $2
    ORDER BY a.name DESC LIMIT 1
    FOR NO KEY UPDATE
) a
