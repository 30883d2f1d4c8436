-- webhooks::failed
-- One that has failed for long is disabled where it stands.
UPDATE webhooks w SET failures = w.failures + 1, failing_since = coalesce(w.failing_since, now()),
    last_failure = $3, last_failure_at = now(), sending_to = $4,
    next_attempt_at = now() + make_interval(secs => $5), taken_until = NULL,
    enabled = w.enabled AND coalesce(w.failing_since, now()) > now() - make_interval(secs => $6),
    disabled_reason = CASE WHEN coalesce(w.failing_since, now()) > now() - make_interval(secs => $6) THEN NULL
        ELSE 'every attempt since ' || to_char(w.failing_since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC has failed' END
WHERE w.id = $1 AND w.takes = $2
