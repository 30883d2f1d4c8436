-- claims::lock_to_offer
-- The agents to which new sessions could be offered in the transaction that makes them, locked in key
-- order, but for those that somebody else has locked: nobody who creates waits for an agent. What is read
-- is the locked row. Whoever has other work waiting for it is for a round, which gives that first.
WITH locked AS MATERIALIZED (
    SELECT a.* FROM (SELECT DISTINCT n COLLATE "C" AS name FROM unnest($1) AS n ORDER BY 1) n
    CROSS JOIN LATERAL (
        SELECT a.name, a.resource_domain, a.incarnation, a.live, a.claim_number, a.capacity, a.slots_used,
            a.scheduling, a.passed_over_until, a.labels
        FROM agents a
        WHERE a.name >= n.name AND a.name <= n.name AND a.pool || '' = $2
        ORDER BY a.name DESC LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED
    ) a
)
SELECT l.*, now() AS now, false AS last_of_domain,
    (SELECT true FROM commands c WHERE c.holder = l.name AND c.deliver_at <= now() AND c.deadline_at > now()
        LIMIT 1) IS NOT NULL AS has_commands,
    ARRAY (SELECT h.session_id FROM lost_holds h WHERE h.agent = l.name AND h.incarnation = l.incarnation) AS lost,
    (SELECT true FROM sessions s WHERE s.assigned_agent_id = l.name AND s.deliver_at <= now() LIMIT 1) IS NOT NULL
        OR (SELECT true FROM sessions s
            WHERE s.agent_pool = $2 AND s.resource_domain = l.resource_domain AND s.domain_work IS NOT NULL
            ORDER BY s.agent_pool, s.resource_domain, s.domain_work, s.queue_rank, s.queued_at
            LIMIT 1) IS NOT NULL AS has_work
FROM locked l
ORDER BY l.name
