-- leases::settle_domains
-- Two transactions that each saw the other's agent as it was can leave a domain noted wrongly;
-- this puts it right before anybody decides by it.
WITH wrong AS MATERIALIZED (
    SELECT r.pool, r.name, r.lost_since IS NULL AS now_lost FROM resource_domains r
    WHERE (r.lost_since IS NULL) <> EXISTS (SELECT FROM agents a
        WHERE a.pool = r.pool AND a.resource_domain = r.name AND a.live)
    ORDER BY r.pool, r.name LIMIT 1000 FOR NO KEY UPDATE OF r SKIP LOCKED
)
UPDATE resource_domains d SET lost_since = CASE WHEN w.now_lost THEN clock_timestamp() END
FROM wrong w
WHERE d.pool = w.pool AND d.name = w.name
