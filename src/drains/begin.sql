-- drains::begin
-- A new drain of agents whose rows are locked. They are cordoned with it.
WITH drain AS (
    INSERT INTO drains (id, pool, agent, status, reason, started_by, force, started_at, deadline_at)
    VALUES ($1, $2, $3, 'in_progress', $4, $5, $6, now(), now() + make_interval(secs => $7))
), members AS (
    -- One that another drain cordoned was not cordoned before.
    INSERT INTO drain_agents (drain_id, agent, resource_domain, agent_since, was_cordoned)
    SELECT $1, a.name, a.resource_domain, a.created_at, coalesce((
        SELECT bool_and(m.was_cordoned) FROM drain_agents m JOIN drains d ON d.id = m.drain_id
        WHERE m.agent = a.name AND m.agent_since = a.created_at AND d.status = 'in_progress'), a.cordoned)
    FROM agents a WHERE a.name = ANY ($8)
)
UPDATE agents a SET
    drain_state = 'draining',
    cordoned = true,
    cordon_reason = CASE WHEN a.cordoned THEN a.cordon_reason ELSE $4 END,
    cordon_by = CASE WHEN a.cordoned THEN a.cordon_by ELSE $5 END,
    cordon_since = coalesce(a.cordon_since, now())
WHERE a.name = ANY ($8)
