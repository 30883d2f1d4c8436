-- drains::begin
-- A new drain of agents whose rows are locked. They are cordoned with it.
WITH drain AS (
    INSERT INTO drains (id, pool, agent, status, reason, started_by, force, started_at, deadline_at)
    VALUES ($1, $2, $3, 'in_progress', $4, $5, $6, now(), now() + make_interval(secs => $7))
), members AS (
    INSERT INTO drain_agents (drain_id, agent, resource_domain, was_cordoned)
    SELECT $1, a.name, a.resource_domain, a.cordoned FROM agents a WHERE a.name = ANY ($8)
)
UPDATE agents a SET
    drain_state = 'draining',
    cordoned = true,
    cordon_reason = CASE WHEN a.cordoned THEN a.cordon_reason ELSE $4 END,
    cordon_by = CASE WHEN a.cordoned THEN a.cordon_by ELSE $5 END,
    cordon_since = coalesce(a.cordon_since, now())
WHERE a.name = ANY ($8)
