-- webhooks::through
-- $3 is the position up to which it was taken, or passed; $4 whether something was sent; $5 for how long
-- it stays in hand: null, not at all.
UPDATE webhooks w SET position = $3, sending_to = NULL, failures = 0, failing_since = NULL,
    next_attempt_at = now(), taken_until = now() + make_interval(secs => $5),
    last_success_at = CASE WHEN $4 THEN now() ELSE w.last_success_at END
WHERE w.id = $1 AND w.takes = $2
