-- commands::pick
-- The sessions of which their holders are to be told something. A session is locked with all its
-- commands or not at all, so none of them overtakes another.
SELECT {columns} FROM sessions s
WHERE s.id = ANY (ARRAY (
        SELECT c.session_id FROM commands c
        WHERE c.holder = ANY ($1) AND c.deliver_at <= now() AND c.deadline_at > now()
        ORDER BY c.deliver_at LIMIT 1000))
    AND s.assigned_agent_id = ANY ($1) AND s.offered_until IS NULL
FOR UPDATE SKIP LOCKED
