-- inventory::settle_leftovers
-- A leftover goes when an inventory of its domain that was begun after it was recorded does not
-- have it, and is there again should a later one have it.
WITH judged AS MATERIALIZED (
    SELECT l.id, l.created_at, l.gone_at, coalesce(l.platform_resource_id = ANY ($3), false)
        OR l.session_id::text || '/' || l.attempt = ANY ($4) AS there
    FROM leftovers l
    WHERE l.pool = $1 AND l.resource_domain = $2
        AND (l.gone_at IS NULL OR l.platform_resource_id = ANY ($3) OR l.session_id = ANY ($5))
), changed AS MATERIALIZED (
    SELECT j.id, j.there FROM judged j
    WHERE (j.there AND j.gone_at < $6) OR (NOT j.there AND j.gone_at IS NULL AND j.created_at < $6)
    ORDER BY j.id LIMIT 2000
)
UPDATE leftovers l SET gone_at = CASE WHEN c.there THEN NULL ELSE clock_timestamp() END
FROM changed c
WHERE l.id = c.id
RETURNING l.session_id, l.attempt, l.platform_resource_id, l.gone_at IS NOT NULL AS gone
