-- limits::record
-- Notes when sessions were last used, only of what each agent holds at this moment. The sessions'
-- rows are read and not locked. Rows are written in key order, so that two servers cannot stand in
-- each other's way for ever.
INSERT INTO session_activity AS known (session_id, last_activity_at)
SELECT s.id, now() - make_interval(secs => min(t.idle_seconds))
FROM unnest($1, $2, $3, $4) AS t (agent, incarnation, session_id, idle_seconds)
JOIN sessions s ON s.id = t.session_id
WHERE s.assigned_agent_id = t.agent AND s.assigned_incarnation = t.incarnation AND s.offered_until IS NULL
GROUP BY s.id
ORDER BY s.id
ON CONFLICT (session_id) DO UPDATE SET last_activity_at = excluded.last_activity_at
WHERE known.last_activity_at < excluded.last_activity_at
