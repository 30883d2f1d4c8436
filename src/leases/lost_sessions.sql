-- leases::lost_sessions
-- Sessions with work in a domain that has been without a live agent for too long. A fresh pulse is
-- needed, as for expiry: during an outage the time stands still. Nothing is decided in a pool whose
-- brake is on. The pool's row is locked first of all, so that its brake is not turned while this
-- transaction decides; a pool that somebody else has locked waits for the next turn.
SELECT s.id, s.agent_pool AS pool
FROM resource_domains d
JOIN pools p ON p.name = d.pool
JOIN sessions s ON s.agent_pool = d.pool AND s.resource_domain = d.name AND s.domain_work IS NOT NULL
WHERE d.lost_since + make_interval(secs => p.adopt_timeout_seconds) <= clock_timestamp()
    AND p.brake_since IS NULL
    AND ((s.domain_work = 'terminate' AND (s.desired_state = 'terminated' OR p.on_lost <> 'wait'))
        OR p.on_lost = 'fail'
        -- What was migrating there comes back, whatever on_lost says.
        OR s.migrating_from_pool IS NOT NULL
        OR (p.on_lost = 'restart' AND s.desired_state = 'running' AND NOT s.domain_lost))
    AND NOT EXISTS (SELECT FROM agents a WHERE a.pool = d.pool AND a.resource_domain = d.name AND a.live)
    AND EXISTS (SELECT FROM pulse u WHERE u.at > clock_timestamp() - interval '5 seconds'
        AND (u.gap_at IS NULL OR u.gap_at + make_interval(secs => p.lease_ttl_seconds) <= clock_timestamp()))
ORDER BY s.id
LIMIT 500
FOR NO KEY UPDATE OF p SKIP LOCKED
