-- explain::agents
-- The agents of a pool, with the places of those selectors of which they lack a label. The limit is
-- there for the worst case.
SELECT a.name, a.resource_domain, a.live, a.scheduling, a.capacity, a.slots_used, a.passed_over_until,
    a.last_claim_at, a.last_claim_wait_seconds, a.last_claim_max_sessions,
    a.cordoned AND NOT EXISTS (SELECT FROM agents o
        WHERE o.pool = a.pool AND o.resource_domain = a.resource_domain AND o.live AND o.name <> a.name)
        AS last_of_domain,
    ARRAY (SELECT r.place FROM unnest($2) WITH ORDINALITY AS r (labels, place)
        WHERE NOT a.labels @> r.labels::jsonb) AS lacks
FROM agents a
WHERE a.pool = $1
ORDER BY a.name
LIMIT 20000
