-- leases::refresh_domains
UPDATE resource_domains d SET
    lost_since = CASE WHEN l.live THEN NULL ELSE coalesce(d.lost_since, clock_timestamp()) END
FROM (
    SELECT r.name, EXISTS (SELECT FROM agents a
        WHERE a.pool = r.pool AND a.resource_domain = r.name AND a.live) AS live
    FROM resource_domains r WHERE r.pool = $1
) l
WHERE d.pool = $1 AND d.name = l.name AND l.live = (d.lost_since IS NOT NULL)
