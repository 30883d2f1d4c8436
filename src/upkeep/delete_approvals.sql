-- upkeep::delete_approvals
-- Agents that asked a day ago, were not approved and have not asked again.
WITH gone AS (
    DELETE FROM agent_approvals a WHERE (a.pool, a.agent) IN (
        SELECT o.pool, o.agent FROM agent_approvals o
        WHERE o.approved_at IS NULL AND o.asked_at < now() - interval '1 day'
        ORDER BY o.asked_at LIMIT 500)
    RETURNING 1
)
SELECT count(*) AS deleted FROM gone
