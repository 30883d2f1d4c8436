-- upkeep::delete_leftovers
-- Leftovers that have been gone for a day, and what there is of pools, domains and agents that are
-- no more. What comes back is judged anew.
WITH gone AS (
    DELETE FROM leftovers l WHERE l.id IN (
        SELECT o.id FROM leftovers o WHERE o.gone_at < now() - interval '1 day' ORDER BY o.gone_at LIMIT 500)
    RETURNING 1
), poolless AS (
    DELETE FROM leftovers l WHERE NOT EXISTS (SELECT FROM pools p WHERE p.name = l.pool)
), unseen AS (
    DELETE FROM quarantined_resources q WHERE q.last_seen_at < now() - interval '30 days'
        OR NOT EXISTS (SELECT FROM pools p WHERE p.name = q.pool)
), absent AS (
    DELETE FROM absent_resources r WHERE NOT EXISTS (SELECT FROM agents a WHERE a.name = r.agent)
)
SELECT count(*) AS deleted FROM gone
