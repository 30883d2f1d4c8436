-- leases::expire
-- Ends the leases whose time is over. A beat that holds an agent's row renews it: the row is then
-- skipped, or judged anew. Nothing ends without a fresh pulse, nor within a pool's lease time
-- after an outage.
WITH due AS MATERIALIZED (
    SELECT a.name
    FROM agents a JOIN pools p ON p.name = a.pool
    WHERE a.live AND a.lease_expires_at <= clock_timestamp()
        AND EXISTS (SELECT FROM pulse u
            WHERE u.at > clock_timestamp() - make_interval(secs => $1)
                AND (u.gap_at IS NULL
                    OR u.gap_at + make_interval(secs => p.lease_ttl_seconds) <= clock_timestamp()))
    ORDER BY a.name
    LIMIT 100
    FOR NO KEY UPDATE OF a SKIP LOCKED
)
UPDATE agents a SET live = false, expired_at = clock_timestamp()
FROM due d
WHERE a.name = d.name AND a.live AND a.lease_expires_at <= clock_timestamp()
RETURNING a.name, a.pool, a.resource_domain, a.capacity, a.slots_used, a.labels, a.agent_version,
    a.protocol_version, a.instance_id, a.instance_host, a.instance_pid, a.incarnation, a.live,
    a.lease_expires_at, a.last_heartbeat_at, a.claim_number, a.cordoned, a.cordon_reason, a.cordon_by,
    a.cordon_since, a.cordon_until, a.offers_lapsed, a.passed_over_until, a.expired_at, a.registered_at,
    a.created_at, a.scheduling
