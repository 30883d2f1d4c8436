-- simulate::waiting
-- What waits today: in domains, to be started, and what is held back, each along its own index.
(SELECT {columns} FROM sessions s WHERE s.agent_pool = $1 AND s.domain_work IS NOT NULL
    ORDER BY s.resource_domain, s.domain_work, s.queue_rank, s.queued_at LIMIT 100001)
UNION ALL
(SELECT {columns} FROM sessions s WHERE s.agent_pool = $1 AND s.pool_work = 'start' AND s.domain_work IS NULL
    ORDER BY s.requires_key, s.owner_key, s.queue_rank, s.queued_at LIMIT 100001)
UNION ALL
(SELECT {columns} FROM sessions s
    WHERE s.agent_pool = $1 AND s.held_back_until IS NOT NULL AND s.due_at IS NOT NULL LIMIT 100001)
LIMIT 100001
