-- A condition of sessions::list: the newest of each of these states, and of all those the newest.
sessions.id = ANY (ARRAY (
    SELECT w.id FROM unnest($1) AS v CROSS JOIN LATERAL (
        SELECT x.id FROM sessions x WHERE (x.state, x.id) < (v, $2) AND x.state >= v
        ORDER BY x.state DESC, x.id DESC LIMIT $3
    ) w ORDER BY w.id DESC LIMIT $3
))
