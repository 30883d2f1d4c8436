-- commands::due
-- What is to be told of these sessions. What is pending goes out whenever its session is looked
-- at: by their moments alone, a later one could come before an earlier one.
SELECT c.* FROM commands c
WHERE c.session_id = ANY ($1) AND c.open AND c.holder = ANY ($2) AND c.deadline_at > now()
    AND (c.status = 'pending' OR c.deliver_at <= now())
ORDER BY c.seq
LIMIT 1000
