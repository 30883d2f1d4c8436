-- import::rollback_pools
-- Pools that an import made, that nobody has changed, and that are empty.
WITH ours AS (
    SELECT p.name FROM pools p
    WHERE p.version = 1
        AND EXISTS (SELECT FROM imported_pools i WHERE i.source = $1 AND i.pool = p.name AND i.created)
        AND NOT EXISTS (SELECT FROM imported_pools i WHERE i.source <> $1 AND i.pool = p.name)
        AND NOT EXISTS (SELECT FROM agents a WHERE a.pool = p.name)
        AND NOT EXISTS (SELECT FROM sessions s WHERE s.agent_pool = p.name)
        AND NOT EXISTS (SELECT FROM sessions s WHERE s.migrating_from_pool = p.name)
        AND NOT EXISTS (SELECT FROM pool_owners o WHERE o.pool = p.name)
    ORDER BY p.name FOR UPDATE OF p
), forgotten AS (
    -- What is left of it is not to be taken for known again.
    DELETE FROM imported_pools i WHERE i.source = $1
        AND (NOT i.created OR i.pool IN (SELECT name FROM ours))
        AND NOT EXISTS (SELECT FROM sessions s JOIN imported_sessions m ON m.session_id = s.id
            WHERE m.source = $1 AND s.agent_pool = i.pool)
), gone AS (
    DELETE FROM pools p USING ours o WHERE p.name = o.name RETURNING p.name
)
SELECT g.name FROM gone g
