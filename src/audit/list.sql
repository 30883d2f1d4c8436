-- audit::list
SELECT a.id, a.kind, a.at, a.actor_type, a.actor_name, a.token_id, a.from_address, a.method, a.path,
    a.request_id, a.status, a.finished_at
FROM audit a
WHERE ($1::bigint IS NULL OR a.id < $1)
    AND ($2::timestamptz IS NULL OR a.at >= $2) AND ($3::timestamptz IS NULL OR a.at < $3)
    AND ($4::text IS NULL OR a.actor_name = $4)
    AND ($5::uuid IS NULL OR a.token_id = $5)
    AND ($6::text IS NULL OR a.tenant = $6)
ORDER BY a.id DESC LIMIT $7
