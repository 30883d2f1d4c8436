-- reports::lock_agents
-- Who reports, locked in key order. What is read here is the locked row: an expiry or a newer run that
-- committed before is seen. A batch passes by whoever somebody else has locked.
SELECT a.name, a.pool, a.resource_domain, a.incarnation, a.live, a.offers_lapsed > 0 AS has_let_lapse, now() AS now
FROM agents a WHERE a.name = ANY ($1)
ORDER BY a.name
FOR NO KEY UPDATE{others}
