-- claims::pick_domain
-- Unassigned work of resource domains, kind by kind, each from its own end of one index: no kind
-- and no domain stands in front of another. What is kept for one agent is for that one only.
SELECT {columns}
FROM unnest($2) AS d (domain)
CROSS JOIN unnest($3) WITH ORDINALITY AS k (work, place)
CROSS JOIN LATERAL (
    SELECT x.* FROM sessions x
    WHERE x.agent_pool = $1 AND x.resource_domain = d.domain AND x.domain_work = k.work
        AND NOT coalesce(x.avoid_until > now() AND x.avoid_agent = ALL ($4), false)
        AND NOT coalesce(x.reserved_until > now() AND x.reserved_for <> ALL ($4), false)
    ORDER BY x.queue_rank, x.queued_at
    LIMIT {limit}
    FOR UPDATE SKIP LOCKED
) s
ORDER BY k.place, s.queue_rank, s.queued_at
