-- inventory::quarantine
-- Notes resources that nobody knows, and says whose time is over. A domain has 20,000 of them at
-- most; those beyond are kept on the platform and noted when there is room.
WITH unknown AS MATERIALIZED (
    SELECT DISTINCT ON (u.id) u.id, u.session_id, u.attempt,
        EXISTS (SELECT FROM quarantined_resources k WHERE k.pool = $1 AND k.resource_domain = $2
            AND k.platform_resource_id = u.id) AS noted
    FROM json_to_recordset($3) AS u (id text, session_id uuid, attempt integer)
    ORDER BY u.id
), numbered AS (
    SELECT u.*, row_number() OVER (PARTITION BY u.noted ORDER BY u.id) AS number FROM unknown u
), room AS (
    SELECT 20000 - count(*) AS free FROM quarantined_resources k WHERE k.pool = $1 AND k.resource_domain = $2
), kept AS (
    INSERT INTO quarantined_resources AS q (pool, resource_domain, platform_resource_id, session_id, attempt,
        first_seen_at, last_seen_at)
    SELECT $1, $2, n.id, n.session_id, n.attempt, now(), $4
    FROM numbered n, room r
    WHERE n.noted OR n.number <= r.free
    ORDER BY n.id
    ON CONFLICT (pool, resource_domain, platform_resource_id) DO UPDATE SET
        session_id = excluded.session_id, attempt = excluded.attempt,
        last_seen_at = greatest(q.last_seen_at, excluded.last_seen_at)
    RETURNING q.platform_resource_id, q.first_seen_at
)
SELECT k.platform_resource_id AS id FROM kept k WHERE k.first_seen_at + make_interval(secs => $5) <= now()
