-- import::taken
-- Names and resources that sessions of this place have already, among those that are to come.
SELECT s.id, s.name, s.agent_pool, s.resource_domain, s.platform_resource_id FROM sessions s WHERE s.name = ANY ($1)
UNION ALL
SELECT s.id, NULL, s.agent_pool, s.resource_domain, s.platform_resource_id FROM sessions s
WHERE s.platform_resource_id = ANY ($2) AND s.state <> 'terminated' AND s.resource_domain IS NOT NULL
