-- webhooks::take
-- What has something before it, is due, and is in nobody's hand. Those that fail have places of their own:
-- receivers that never answer keep nobody else waiting.
WITH head AS (SELECT h.last_position FROM event_head h), fresh AS MATERIALIZED (
    SELECT w.id FROM webhooks w
    WHERE w.enabled AND w.failures = 0 AND w.position <> (SELECT last_position FROM head)
        AND w.next_attempt_at <= now() AND (w.taken_until IS NULL OR w.taken_until < now())
    ORDER BY w.next_attempt_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
), again AS MATERIALIZED (
    SELECT w.id FROM webhooks w
    WHERE w.enabled AND w.failures > 0 AND w.position <> (SELECT last_position FROM head)
        AND w.next_attempt_at <= now() AND (w.taken_until IS NULL OR w.taken_until < now())
    ORDER BY w.next_attempt_at LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE webhooks w SET taken_until = now() + make_interval(secs => $3), takes = w.takes + 1
FROM (SELECT id FROM fresh UNION ALL SELECT id FROM again) AS due
WHERE w.id = due.id
RETURNING w.id, w.url, w.kinds, w.pool, w.owner, w.tenant, w.position, w.sending_to, w.failures, w.takes,
    CASE WHEN w.old_secret_until > now() THEN ARRAY[w.secret, w.old_secret] ELSE ARRAY[w.secret] END AS secrets
