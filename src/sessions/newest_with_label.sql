-- A condition of sessions::list: the newest with this label, which is all that is asked for.
sessions.id = ANY (ARRAY (
    SELECT l.session_id FROM session_labels l WHERE l.key = $1 AND l.value = $2 AND l.session_id < $3
    ORDER BY l.session_id DESC LIMIT $4
))
