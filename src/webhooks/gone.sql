-- webhooks::gone
UPDATE webhooks w SET enabled = false, disabled_reason = $3, failures = 0, failing_since = NULL,
    last_failure = $3, last_failure_at = now(), taken_until = NULL
WHERE w.id = $1 AND w.takes = $2
