-- events::page_of_session
-- As events::page, of one session: there is an index for that. Its batches have their positions in the order of
-- their numbers, so what has one of them begins at the batch of the position, if that is one of them.
SELECT b.first_position + e.ordinal AS id, e.* FROM events e CROSS JOIN LATERAL (
    SELECT p.first_position FROM event_batches p WHERE p.batch = e.batch ORDER BY p.batch LIMIT 1
) b
WHERE e.session_id = $9
    AND e.batch >= coalesce((
        SELECT x.batch FROM (
            SELECT f.batch FROM event_batches f WHERE f.first_position <= $1 ORDER BY f.first_position DESC LIMIT 1
        ) f JOIN events x ON x.session_id = $9 AND x.batch = f.batch LIMIT 1), 0)
    AND b.first_position + e.ordinal > $1 AND b.first_position + e.ordinal <= $2
    AND {passes}
ORDER BY e.session_id, e.batch, e.ordinal LIMIT 200
