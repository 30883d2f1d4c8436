-- reports::lock_agents
-- Who reports, locked in key order. What is read here is the locked row: an expiry or a newer run that
-- committed before is seen. A batch passes by whoever somebody else has locked. Each is found from the
-- newest of its versions back.
SELECT a.*, now() AS now
FROM (SELECT DISTINCT n COLLATE "C" AS name FROM unnest($1) AS n ORDER BY 1) n
CROSS JOIN LATERAL (
    SELECT a.name, a.pool, a.resource_domain, a.incarnation, a.live, a.offers_lapsed > 0 AS has_let_lapse
    FROM agents a
    WHERE a.name >= n.name AND a.name <= n.name
    ORDER BY a.name DESC LIMIT 1
    FOR NO KEY UPDATE{others}
) a
