-- sessions::timeline
-- A page of a session's events before a position, newest first. Its batches have their positions in the order of
-- their numbers, so what has one of them ends at the batch of the position, if that is one of them.
SELECT b.first_position + e.ordinal AS id, e.* FROM events e CROSS JOIN LATERAL (
    SELECT p.first_position FROM event_batches p WHERE p.batch = e.batch ORDER BY p.batch LIMIT 1
) b
WHERE e.session_id = $1
    AND e.batch <= coalesce((
        SELECT x.batch FROM (
            SELECT f.batch FROM event_batches f WHERE f.first_position <= $2 ORDER BY f.first_position DESC LIMIT 1
        ) f JOIN events x ON x.session_id = $1 AND x.batch = f.batch LIMIT 1), 9223372036854775807)
    AND b.first_position + e.ordinal < $2
ORDER BY e.session_id DESC, e.batch DESC, e.ordinal DESC LIMIT $3
