-- rebalance::looks_due
-- Pools that rebalance by themselves and are to be looked at: each third of the lease time, at most
-- once a second, and not while a rebalance of them is in progress.
SELECT p.name
FROM pools p LEFT JOIN rebalance_looks l ON l.pool = p.name
WHERE p.rebalance_min_gain IS NOT NULL
    AND (l.pool IS NULL OR l.looked_at + make_interval(secs => greatest(1, p.lease_ttl_seconds / 3)) <= now())
    AND NOT EXISTS (SELECT FROM rebalances r WHERE r.pool = p.name AND r.finished_at IS NULL)
    AND ($1 IS NULL OR p.name = $1)
ORDER BY p.name
LIMIT 1000
