-- A condition of sessions::list: the newest with all of these labels, which is all that is asked for. They are
-- those with the rarest one that are found with each of the others.
sessions.id = ANY (ARRAY (
    SELECT f.session_id FROM (
        {rarest}
    ) r
    CROSS JOIN LATERAL (
        SELECT l.session_id FROM session_labels l
        WHERE l.key = r.key COLLATE "C" AND l.value = r.value COLLATE "C" AND l.session_id < $2
            AND NOT EXISTS (
                SELECT FROM json_each_text($1) AS o
                WHERE NOT EXISTS (
                    SELECT FROM session_labels x WHERE x.session_id = l.session_id
                        AND x.key = o.key COLLATE "C" AND x.value = o.value COLLATE "C"
                )
            )
        ORDER BY l.session_id DESC LIMIT $3
    ) f
))
