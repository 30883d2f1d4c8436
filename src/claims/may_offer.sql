-- Whether a new session may be offered to the agent that it names, in the statement that makes it: by the same rules as
-- `lock_to_offer.sql` and what comes after it. The agent is locked, unless somebody else has it; what is read is
-- the locked row. $4 is the number of the claim that is parked, $7 how to go around what is known to be empty.
SELECT a.capacity, a.slots_used
FROM asked n
CROSS JOIN LATERAL (
    SELECT a.name, a.resource_domain, a.incarnation, a.live, a.claim_number, a.capacity, a.slots_used,
        a.scheduling, a.passed_over_until
    FROM agents a
    WHERE a.name >= n.assigned_agent_id COLLATE "C" AND a.name <= n.assigned_agent_id COLLATE "C"
        AND a.pool || '' = n.agent_pool COLLATE "C"
    ORDER BY a.name DESC LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED
) a
WHERE a.live AND a.incarnation = n.assigned_incarnation AND a.claim_number = $4 AND a.scheduling = 'active'
    AND coalesce(a.passed_over_until <= now(), true) AND a.slots_used < a.capacity
    -- What the session was made by still holds.
    AND make_interval(secs => n.home_accepts_in) = n.offered_until - n.deliver_at
    AND (SELECT f.lease_epoch_floor FROM fences f) <= n.lease_epoch
    -- A limit of its owner is counted by a round.
    AND (SELECT true FROM pool_owners o
        WHERE o.pool = n.agent_pool AND o.owner = n.owner AND o.max_running IS NOT NULL LIMIT 1) IS NULL
    -- The agent has nothing else to do.
    AND (SELECT true FROM commands c
        WHERE c.holder = a.name AND c.deliver_at <= now() AND c.deadline_at > now() LIMIT 1) IS NULL
    AND (SELECT true FROM lost_holds h WHERE h.agent = a.name AND h.incarnation = a.incarnation LIMIT 1) IS NULL
    AND (SELECT true FROM sessions w WHERE w.assigned_agent_id = a.name AND w.deliver_at <= now() LIMIT 1) IS NULL
    AND (SELECT true FROM sessions w
        WHERE w.agent_pool = n.agent_pool AND w.resource_domain = a.resource_domain AND w.domain_work IS NOT NULL
        ORDER BY w.agent_pool, w.resource_domain, w.domain_work, w.queue_rank, w.queued_at LIMIT 1) IS NULL
    -- Nobody is overtaken.
    AND NOT ({waits})
