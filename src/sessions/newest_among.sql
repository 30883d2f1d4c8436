-- A condition of sessions::list: of the newest thousand by one column, the newest that meet other conditions too.
sessions.id = ANY (ARRAY (
    SELECT w.id FROM (
        SELECT x.id, x.agent_pool, x.state, x.desired_state, x.assigned_agent_id FROM sessions x
        WHERE (x.{column}, x.id) < ($1, $2) AND x.{column} >= $1{assigned}
        ORDER BY x.{column} DESC, x.id DESC LIMIT 1000
    ) w
    WHERE w.agent_pool = $4 AND ($5::text IS NULL OR w.state = $5)
        AND ($6::text IS NULL OR w.desired_state = $6)
        AND ($7::boolean IS NULL OR (w.assigned_agent_id IS NOT NULL) = $7)
    LIMIT $3
))
