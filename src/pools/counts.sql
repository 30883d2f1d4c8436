-- pools::counts
-- Live counts of pools. "Waiting" is what could be claimed now or after a pause; "unadopted" is
-- what has a resource and nobody who holds it.
SELECT p.name,
    coalesce(a.live, 0) AS live, coalesce(a.expired, 0) AS expired, coalesce(a.cordoned, 0) AS cordoned,
    coalesce(a.capacity, 0) AS capacity, coalesce(a.held, 0) AS held, coalesce(a.free, 0) AS free,
    coalesce(s.waiting, 0)::bigint AS waiting, coalesce(s.offered, 0)::bigint AS offered,
    coalesce(s.unadopted, 0)::bigint AS unadopted,
    extract(epoch FROM now() - s.oldest)::double precision AS oldest_waiting_seconds,
    coalesce(s.states, '{}') AS states, coalesce(s.state_counts, '{}') AS state_counts
FROM pools p
LEFT JOIN LATERAL (
    SELECT count(*) FILTER (WHERE live) AS live,
        count(*) FILTER (WHERE NOT live) AS expired,
        count(*) FILTER (WHERE live AND cordoned) AS cordoned,
        sum(capacity) FILTER (WHERE live) AS capacity,
        sum(slots_used) FILTER (WHERE live) AS held,
        sum(greatest(capacity - slots_used, 0)) FILTER (WHERE live AND NOT cordoned) AS free
    FROM agents WHERE pool = p.name
) a ON true
LEFT JOIN LATERAL (
    SELECT sum(n.waiting) AS waiting, sum(n.offered) AS offered, sum(n.unadopted) AS unadopted,
        min(n.oldest) AS oldest, array_agg(n.state) AS states, array_agg(n.count) AS state_counts
    FROM (
        SELECT state, count(*) AS count,
            count(*) FILTER (WHERE pool_work IS NOT NULL OR domain_work IS NOT NULL
                OR (held_back_until IS NOT NULL AND state <> 'failed')) AS waiting,
            count(*) FILTER (WHERE offered_until IS NOT NULL) AS offered,
            count(*) FILTER (WHERE assigned_agent_id IS NULL
                AND state IN ('starting', 'running', 'hibernating', 'waking', 'terminating')) AS unadopted,
            min(queued_at) FILTER (WHERE pool_work IS NOT NULL OR domain_work IS NOT NULL) AS oldest
        FROM sessions WHERE agent_pool = p.name GROUP BY state
    ) n
) s ON true
WHERE p.name = ANY ($1)
