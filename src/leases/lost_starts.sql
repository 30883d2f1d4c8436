-- leases::lost_starts
-- Sessions that only agents of one domain may start, and none will. A migration waits for its target as
-- long as the pool's adopt_timeout_seconds; what has come back from one waits for nobody: its domain was
-- only the better place. Locks and outages as for lost sessions. What can be claimed is said column by
-- column: with pool_work, the planner walks over all that waits to be started. The order is that of the one
-- index that has no others.
SELECT s.id, s.agent_pool AS pool, s.start_domain
FROM sessions s
JOIN pools p ON p.name = s.agent_pool
LEFT JOIN resource_domains d ON d.pool = s.agent_pool AND d.name = s.start_domain
WHERE s.start_domain > '' AND s.assigned_agent_id IS NULL AND s.held_back_until IS NULL
    AND s.resource_domain IS NULL AND s.state = 'pending' AND s.desired_state = 'running'
    AND p.brake_since IS NULL
    AND NOT EXISTS (SELECT FROM agents a
        WHERE a.pool = s.agent_pool AND a.resource_domain = s.start_domain AND a.live
            AND (s.migrating_from_pool IS NOT NULL OR NOT a.cordoned))
    AND (s.migrating_from_pool IS NULL OR d.name IS NULL
        OR d.lost_since + make_interval(secs => p.adopt_timeout_seconds) <= clock_timestamp())
    AND EXISTS (SELECT FROM pulse u WHERE u.at > clock_timestamp() - interval '5 seconds'
        AND (u.gap_at IS NULL OR u.gap_at + make_interval(secs => p.lease_ttl_seconds) <= clock_timestamp()))
ORDER BY s.agent_pool, s.start_domain
LIMIT 500
FOR NO KEY UPDATE OF p SKIP LOCKED
