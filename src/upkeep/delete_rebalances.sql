-- upkeep::delete_rebalances
-- Rebalances that were over a week ago, and those of pools that are no more; but the newest one of a
-- pool is kept, to be shown.
WITH gone AS (
    DELETE FROM rebalances r WHERE r.id IN (
        SELECT o.id FROM rebalances o
        WHERE o.finished_at < now() - interval '7 days'
            AND EXISTS (SELECT FROM rebalances n WHERE n.pool = o.pool
                AND (n.started_at, n.id) > (o.started_at, o.id))
        ORDER BY o.finished_at LIMIT 500)
    RETURNING 1
), poolless AS (
    DELETE FROM rebalances r WHERE NOT EXISTS (SELECT FROM pools p WHERE p.name = r.pool)
)
SELECT count(*) AS deleted FROM gone
