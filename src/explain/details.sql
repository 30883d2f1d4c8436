-- explain::details
-- What people want to know of these agents.
SELECT a.name, a.labels, a.cordon_reason, a.cordon_by, a.cordon_since, a.cordon_until, a.expired_at,
    a.last_heartbeat_at
FROM agents a
WHERE a.name = ANY ($1)
