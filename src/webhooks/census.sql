-- webhooks::census
SELECT count(*) FILTER (WHERE w.enabled) AS enabled, count(*) FILTER (WHERE w.enabled AND w.failures > 0) AS failing,
    count(*) FILTER (WHERE w.disabled_reason IS NOT NULL) AS disabled,
    coalesce(max(h.last_position - w.position) FILTER (WHERE w.enabled), 0) AS behind
FROM event_head h LEFT JOIN webhooks w ON true
