-- upkeep::delete_turns
-- Turns of owners that have competed for nothing in an hour: they begin anew at the pool's.
WITH gone AS (
    DELETE FROM owner_turns t WHERE (t.pool, t.owner) IN (
        SELECT o.pool, o.owner FROM owner_turns o
        WHERE o.written_at < now() - interval '1 hour' ORDER BY o.pool, o.owner LIMIT 500 FOR UPDATE SKIP LOCKED)
    RETURNING 1
), pools_gone AS (
    DELETE FROM pool_turns t WHERE NOT EXISTS (SELECT FROM pools p WHERE p.name = t.pool)
)
SELECT count(*) AS deleted FROM gone
