-- limits::facts
-- What the limits of some sessions are judged by; a session that has gone is not among them.
SELECT s.id, s.agent_pool AS pool, s.assigned_agent_id AS agent, s.desired_state, s.state,
    s.assigned_agent_id IS NOT NULL AND s.offered_until IS NULL AS held,
    s.started_at, s.first_started_at, s.idle_timeout_seconds, s.max_duration_seconds,
    a.last_activity_at, l.accepted_at AS held_since, p.lease_ttl_seconds,
    coalesce(u.at > clock_timestamp() - make_interval(secs => $2), false) AS pulse_is_fresh,
    u.gap_at
FROM sessions s
JOIN pools p ON p.name = s.agent_pool
LEFT JOIN session_activity a ON a.session_id = s.id
LEFT JOIN lease_ledger l ON l.session_id = s.id AND l.lease_epoch = s.lease_epoch
LEFT JOIN pulse u ON true
WHERE s.id = ANY ($1)
