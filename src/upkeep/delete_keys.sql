-- upkeep::delete_keys
WITH gone AS (
    DELETE FROM idempotency_keys k WHERE (k.caller, k.method, k.path, k.key) IN (
        SELECT o.caller, o.method, o.path, o.key FROM idempotency_keys o
        WHERE o.created_at < now() - interval '24 hours' ORDER BY o.created_at LIMIT 500)
    RETURNING 1
), acknowledged_by_nobody AS (
    -- Holds that were taken from agents which never came back to say that they dropped them.
    DELETE FROM lost_holds WHERE lease_expires_at < now() - interval '1 day'
)
SELECT count(*) AS deleted FROM gone
