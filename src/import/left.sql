-- import::left
-- What a rollback leaves, and why.
SELECT i.old_id, CASE
    WHEN s.id IS NULL THEN 'it has ended, and was deleted in time'
    WHEN s.assigned_agent_id IS NOT NULL THEN format('agent %s has it', s.assigned_agent_id)
    WHEN s.lease_epoch > 0 THEN format('agents have had it; it is %s', s.state)
    WHEN s.version <> i.version THEN format('it was changed here; it is %s and wanted %s', s.state, s.desired_state)
    ELSE 'it has been sent commands' END AS text
FROM imported_sessions i LEFT JOIN sessions s ON s.id = i.session_id
WHERE i.source = $1 ORDER BY i.old_id
