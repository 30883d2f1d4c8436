-- import::rollback_domains
WITH unused AS (
    DELETE FROM imported_domains i
    WHERE i.source = $1
        AND NOT EXISTS (SELECT FROM agents a WHERE a.pool = i.pool AND a.resource_domain = i.resource_domain)
        AND NOT EXISTS (SELECT FROM sessions s WHERE s.agent_pool = i.pool AND s.resource_domain = i.resource_domain)
    RETURNING i.pool, i.resource_domain
)
DELETE FROM resource_domains r USING unused u WHERE r.pool = u.pool AND r.name = u.resource_domain
