-- shares::queues
-- The queues of starts that agents with one of these sets of labels, in one of these domains, could
-- serve, by a walk over the index from one selector to the next and, in those that are satisfied, from
-- one owner to the next: at most a thousand of each, however much waits in them. Walks begin after the
-- given places, each first one is always there.
WITH RECURSIVE selector AS (
    (SELECT s.requires_key AS key, s.requires, s.start_domain, s.owner_key AS owner, 1 AS n FROM sessions s
        WHERE s.agent_pool = $1 AND s.pool_work = 'start'
        ORDER BY s.requires_key, s.owner_key, s.queue_rank, s.queued_at LIMIT 1)
    UNION ALL
    SELECT x.requires_key, x.requires, x.start_domain, x.owner_key, p.n + 1
    FROM selector p CROSS JOIN LATERAL (
        SELECT s.requires_key, s.requires, s.start_domain, s.owner_key FROM sessions s
        WHERE s.agent_pool = $1 AND s.pool_work = 'start' AND s.requires_key > greatest(p.key, $3)
        ORDER BY s.requires_key, s.owner_key, s.queue_rank, s.queued_at LIMIT 1
    ) x
    WHERE p.n < 1000
), queue AS (
    SELECT p.key, p.requires, p.start_domain, p.owner FROM selector p
    WHERE p.key = '' OR ((p.start_domain IS NULL OR p.start_domain = ANY ($5))
        AND EXISTS (SELECT FROM unnest($2) AS l (labels) WHERE l.labels::jsonb @> p.requires))
    UNION ALL
    SELECT q.key, q.requires, q.start_domain, x.owner_key
    FROM queue q CROSS JOIN LATERAL (
        SELECT s.owner_key FROM sessions s
        WHERE s.agent_pool = $1 AND s.pool_work = 'start' AND s.requires_key = q.key
            AND s.owner_key > greatest(q.owner, $4)
        ORDER BY s.requires_key, s.owner_key, s.queue_rank, s.queued_at LIMIT 1
    ) x
), found AS (SELECT * FROM queue LIMIT 1000)
SELECT t.selectors, t.last_selector, f.key AS requires_key, f.requires, f.start_domain, f.owner,
    coalesce(o.weight, 1) AS weight, o.max_running, u.virtual_time, u.last_start,
    coalesce((SELECT p.virtual_time FROM pool_turns p WHERE p.pool = $1), 0) AS pool_time
FROM (SELECT count(*) AS selectors, max(key) AS last_selector FROM selector) t
LEFT JOIN found f ON true
LEFT JOIN pool_owners o ON o.pool = $1 AND o.owner = f.owner
LEFT JOIN owner_turns u ON u.pool = $1 AND u.owner = f.owner
