-- commands::expired
-- Commands whose deadline has passed and of which something could still become.
SELECT c.id, c.session_id FROM commands c
WHERE c.open AND c.deadline_at <= now()
ORDER BY c.deadline_at
LIMIT 200
