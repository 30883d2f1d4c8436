-- shares::show
-- Owners of a pool whose share is set, with what they have: one, or a page of them. Waiting is
-- counted selector by selector, from one to the next over the index.
WITH RECURSIVE selector AS (
    (SELECT s.requires_key AS key, 1 AS n FROM sessions s
        WHERE s.agent_pool = $1 AND s.pool_work = 'start'
        ORDER BY s.requires_key LIMIT 1)
    UNION ALL
    SELECT (SELECT s.requires_key FROM sessions s
        WHERE s.agent_pool = $1 AND s.pool_work = 'start' AND s.requires_key > p.key
        ORDER BY s.requires_key LIMIT 1), p.n + 1
    FROM selector p WHERE p.key IS NOT NULL AND p.n < 1000
), chosen AS MATERIALIZED (
    SELECT o.* FROM pool_owners o
    WHERE o.pool = $1 AND ($2::text IS NULL OR o.owner = $2)
        AND ($3::timestamptz IS NULL OR (o.created_at, o.owner) < ($3, $4))
    ORDER BY o.created_at DESC, o.owner DESC
    LIMIT $5
)
SELECT o.pool, o.owner, o.weight, o.max_running, o.created_at,
    (SELECT count(*) FROM sessions s
        WHERE s.agent_pool = o.pool AND s.owner_key = o.owner AND s.takes_place AND s.owner IS NOT NULL) AS running,
    (SELECT coalesce(sum(w.waiting), 0)::bigint FROM selector p CROSS JOIN LATERAL (
        SELECT count(*) AS waiting FROM sessions s
        WHERE s.agent_pool = o.pool AND s.pool_work = 'start' AND s.requires_key = p.key
            AND s.owner_key = o.owner) w
        WHERE p.key IS NOT NULL) AS waiting
FROM chosen o
ORDER BY o.created_at DESC, o.owner DESC
