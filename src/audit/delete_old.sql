-- audit::delete_old
WITH gone AS (
    DELETE FROM audit WHERE id IN (SELECT o.id FROM audit o
        WHERE o.at < now() - make_interval(secs => $1) ORDER BY o.at LIMIT 500 FOR UPDATE SKIP LOCKED)
    RETURNING 1
)
SELECT count(*) AS deleted FROM gone
