-- agents::register
-- Renews an agent, or inserts it. Nobody else does so meanwhile, as its name is locked. The ninth argument is host,
-- pid and whether this is a new run.
WITH run AS (
    SELECT ($9::text[])[1] AS host, ($9::text[])[2]::bigint AS pid, ($9::text[])[3]::boolean AS is_new,
        (SELECT p.lease_ttl_seconds FROM pools p WHERE p.name = $2) AS ttl,
        (SELECT f.incarnation_floor FROM fences f) AS floor
), forgotten AS (
    -- What was taken from an older run is nothing to the new one.
    DELETE FROM lost_holds l USING run WHERE l.agent = $1 AND run.is_new
), renewed AS (
    UPDATE agents a SET
        pool = $2, resource_domain = $3, capacity = $4, labels = $5, agent_version = $6, protocol_version = $7,
        instance_id = $8, instance_host = run.host, instance_pid = run.pid,
        incarnation = CASE WHEN run.is_new THEN greatest(nextval('incarnations'), run.floor, a.incarnation + 1)
            ELSE a.incarnation END,
        registered_at = CASE WHEN run.is_new THEN now() ELSE a.registered_at END,
        offers_lapsed = CASE WHEN run.is_new THEN 0 ELSE a.offers_lapsed END,
        passed_over_until = CASE WHEN run.is_new THEN NULL ELSE a.passed_over_until END,
        last_claim_at = CASE WHEN run.is_new THEN NULL ELSE a.last_claim_at END,
        last_claim_wait_seconds = CASE WHEN run.is_new THEN NULL ELSE a.last_claim_wait_seconds END,
        last_claim_max_sessions = CASE WHEN run.is_new THEN NULL ELSE a.last_claim_max_sessions END,
        -- What an older run saw is not what this one drives.
        inventory_taken_at = CASE WHEN run.is_new OR a.pool <> $2 OR a.resource_domain <> $3 THEN NULL
            ELSE a.inventory_taken_at END,
        live = true, expired_at = NULL,
        lease_expires_at = now() + make_interval(secs => run.ttl), last_heartbeat_at = now()
    FROM run WHERE a.name = $1
    RETURNING a.*
), inserted AS (
    INSERT INTO agents AS a (name, pool, resource_domain, capacity, labels, agent_version, protocol_version,
        instance_id, instance_host, instance_pid, incarnation, live, lease_expires_at, last_heartbeat_at,
        registered_at)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, run.host, run.pid,
        greatest(nextval('incarnations'), run.floor), true,
        now() + make_interval(secs => run.ttl), now(), now()
    FROM run WHERE NOT EXISTS (SELECT FROM renewed)
    RETURNING a.*
), written AS (
    SELECT * FROM renewed UNION ALL SELECT * FROM inserted
), instance AS (
    INSERT INTO agent_instances (agent, instance_id, incarnation)
    SELECT w.name, w.instance_id, w.incarnation FROM written w WHERE w.instance_id IS NOT NULL
    ON CONFLICT (agent, instance_id) DO UPDATE SET incarnation = excluded.incarnation
), pruned AS (
    -- A name that restarts for ever does not fill the table: the newest hundred are kept.
    DELETE FROM agent_instances i USING written w
    WHERE i.agent = w.name AND i.incarnation < (SELECT min(k.incarnation) FROM (
        SELECT o.incarnation FROM agent_instances o WHERE o.agent = w.name ORDER BY o.incarnation DESC LIMIT 100) k)
)
SELECT name, pool, resource_domain, capacity, slots_used, labels, agent_version, protocol_version, instance_id,
    instance_host, instance_pid, incarnation, live, lease_expires_at, last_heartbeat_at, claim_number,
    cordoned, cordon_reason, cordon_by, cordon_since, cordon_until, offers_lapsed, passed_over_until,
    expired_at, registered_at, created_at, scheduling
FROM written
