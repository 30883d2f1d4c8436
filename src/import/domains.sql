-- import::domains
-- Domains that no agent has named yet are lost from the end of the grace on: until then nothing is
-- decided about them, so that there is time to start agents.
WITH new AS (
    INSERT INTO resource_domains (pool, name, lost_since)
    SELECT d.pool, d.name, now() + make_interval(secs => $3)
    FROM json_to_recordset($2) AS d (pool text, name text)
    WHERE NOT EXISTS (SELECT FROM agents a WHERE a.pool = d.pool AND a.resource_domain = d.name AND a.live)
    ORDER BY d.pool, d.name
    ON CONFLICT (pool, name) DO NOTHING
    RETURNING pool, name
)
INSERT INTO imported_domains (source, pool, resource_domain)
SELECT $1, n.pool, n.name FROM new n
ON CONFLICT DO NOTHING
