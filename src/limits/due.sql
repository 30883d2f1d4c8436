-- limits::due
-- Sessions of which a limit may have been reached, the longest due first. A row that another server
-- looks at is left to that one, and one that a change of the session moves to the next look.
SELECT session_id FROM limit_checks
WHERE check_at <= now()
ORDER BY check_at
LIMIT 200
FOR UPDATE SKIP LOCKED
