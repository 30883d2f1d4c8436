-- leases::renew
-- Renews a batch of leases, each at most once. An agent is locked in key order; where it was
-- expired or superseded before the lock was had, it is not renewed, and `renewed` says so. A claim
-- waits for some time and takes some sessions, both of which are noted; a heartbeat has neither.
-- An agent is found from the newest of its versions back: while an old transaction is open anywhere, each
-- renewal leaves one for good. So what is renewed is the version that was found; one that somebody else has
-- replaced between this statement's beginning and the lock is not seen by it, and comes again by name. Claims
-- that carry reports are renewed with them: they pass by whoever somebody else has locked.
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest($1, $2, $3, $4) AS r (agent, incarnation, wait_seconds, max_sessions)
    ORDER BY agent COLLATE "C"
), locked AS MATERIALIZED (
    SELECT f.*, r.incarnation, r.wait_seconds, r.max_sessions
    FROM asked r CROSS JOIN LATERAL (
        SELECT a.name, a.ctid AS place FROM agents a
        WHERE a.name >= r.agent AND a.name <= r.agent
        ORDER BY a.name DESC LIMIT 1
        FOR NO KEY UPDATE{others}
    ) f
), renewed AS (
    UPDATE agents a SET
        lease_expires_at = now() + make_interval(secs => p.lease_ttl_seconds),
        last_heartbeat_at = now(),
        claim_number = a.claim_number + CASE WHEN l.wait_seconds IS NOT NULL THEN 1 ELSE 0 END,
        last_claim_at = CASE WHEN l.wait_seconds IS NOT NULL THEN now() ELSE a.last_claim_at END,
        last_claim_wait_seconds = coalesce(l.wait_seconds, a.last_claim_wait_seconds),
        last_claim_max_sessions = coalesce(l.max_sessions, a.last_claim_max_sessions)
    FROM locked l, pools p
    WHERE {found} AND p.name = ANY (ARRAY[a.pool]) AND a.live AND a.incarnation = l.incarnation
    RETURNING a.name, a.incarnation, a.pool, a.resource_domain, a.capacity, a.slots_used, a.claim_number,
        a.scheduling, p.lease_ttl_seconds, a.offers_lapsed > 0 AS has_let_lapse,
        a.inventory_taken_at IS NULL
            OR a.inventory_taken_at + make_interval(secs => p.inventory_every_seconds) <= now()
            OR EXISTS (SELECT FROM leftovers o WHERE o.pool = a.pool AND o.resource_domain = a.resource_domain
                AND o.created_at > a.inventory_taken_at AND o.gone_at IS NULL) AS inventory_wanted
)
SELECT n.name AS agent, n.incarnation AS given, n.incarnation AS current, true AS live, true AS renewed,
    n.pool, n.resource_domain, n.capacity, n.slots_used, n.claim_number, n.scheduling, n.lease_ttl_seconds,
    n.inventory_wanted, n.has_let_lapse, now() AS now,
    ARRAY (SELECT l.session_id FROM lost_holds l
        WHERE l.agent = n.name AND l.incarnation = n.incarnation) AS lost
FROM renewed n
UNION ALL
SELECT r.agent, r.incarnation, a.incarnation, a.live, false,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, false, now(), '{}'
FROM asked r
LEFT JOIN LATERAL (
    SELECT a.incarnation, a.live FROM agents a
    WHERE a.name >= r.agent AND a.name <= r.agent
    ORDER BY a.name DESC LIMIT 1
) a ON true
WHERE r.agent NOT IN (SELECT n.name FROM renewed n)
