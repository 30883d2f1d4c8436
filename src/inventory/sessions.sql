-- inventory::sessions
-- The sessions that resources are labelled with, wherever they are in the tenant, and the live ones of this pool
-- and domain that named one of the resources as theirs. One statement, so one moment.
SELECT s.id, s.agent_pool, s.resource_domain, s.desired_state, s.state, s.attempt, s.platform_resource_id
FROM sessions s
WHERE s.id = ANY ($1)
    AND CASE WHEN strpos(s.agent_pool, '~') > 0 THEN split_part(s.agent_pool, '~', 1) ELSE '' END
        = CASE WHEN strpos($3, '~') > 0 THEN split_part($3, '~', 1) ELSE '' END
UNION
SELECT s.id, s.agent_pool, s.resource_domain, s.desired_state, s.state, s.attempt, s.platform_resource_id
FROM sessions s
WHERE s.platform_resource_id = ANY ($2) AND s.platform_resource_id IS NOT NULL
    AND s.state <> 'terminated' AND (s.state <> 'failed' OR s.desired_state = 'terminated')
    AND s.agent_pool = $3 AND s.resource_domain = $4
