-- import::known
-- What was brought in before, and whether it has moved on here since.
SELECT i.old_id, i.session_id, i.fingerprint, i.version, s.id IS NULL AS deleted,
    coalesce(s.version = i.version AND s.lease_epoch = 0 AND s.assigned_agent_id IS NULL
        AND NOT EXISTS (SELECT FROM commands c WHERE c.session_id = s.id), false) AS untouched
FROM imported_sessions i LEFT JOIN sessions s ON s.id = i.session_id
WHERE i.source = $1
