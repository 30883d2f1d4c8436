-- leases::refresh_domains
-- Notes for domains of a pool since when each has had no live agent. Rows are locked in key order,
-- after agents and sessions.
WITH known AS (
    INSERT INTO resource_domains (pool, name)
    SELECT $1, n.name FROM unnest($2) AS n (name)
    WHERE NOT EXISTS (SELECT FROM resource_domains r WHERE r.pool = $1 AND r.name = n.name)
    ON CONFLICT (pool, name) DO NOTHING
), locked AS MATERIALIZED (
    SELECT r.name, EXISTS (SELECT FROM agents a
        WHERE a.pool = r.pool AND a.resource_domain = r.name AND a.live) AS live
    FROM resource_domains r WHERE r.pool = $1 AND r.name = ANY ($2)
    ORDER BY r.name
    FOR NO KEY UPDATE OF r
)
UPDATE resource_domains d SET
    lost_since = CASE WHEN l.live THEN NULL ELSE coalesce(d.lost_since, clock_timestamp()) END
FROM locked l
WHERE d.pool = $1 AND d.name = l.name AND l.live = (d.lost_since IS NOT NULL)
