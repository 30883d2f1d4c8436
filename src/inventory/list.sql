-- inventory::list
-- Both kinds, newest first. Each part is cut to a page before they are put together.
SELECT * FROM (
    (SELECT 'leftover' AS kind, l.id, l.pool, l.resource_domain, l.session_id, l.attempt,
        l.platform_resource_id, l.reason, l.created_at AS since, NULL::timestamptz AS delete_after
    FROM leftovers l
    WHERE l.gone_at IS NULL AND ($3::text IS NULL OR $3 = 'leftover')
        AND ($1::text IS NULL OR l.pool = $1)
        AND CASE WHEN $8::text IS NULL THEN true WHEN $8 = '' THEN strpos(l.pool, '~') = 0
            ELSE starts_with(l.pool, $8) END
        AND ($2::text IS NULL OR l.resource_domain = $2)
        AND ($4::timestamptz IS NULL OR (l.created_at, 'leftover', l.id) < ($4, $5, $6))
    ORDER BY l.created_at DESC, l.id DESC LIMIT $7)
    UNION ALL
    (SELECT 'quarantined', q.id, q.pool, q.resource_domain, q.session_id, q.attempt,
        q.platform_resource_id, CASE WHEN q.session_id IS NULL THEN 'it has no label of a session'
            ELSE 'its session is not known here' END,
        q.first_seen_at, q.first_seen_at + make_interval(secs => p.quarantine_seconds)
    FROM quarantined_resources q JOIN pools p ON p.name = q.pool
    WHERE ($3::text IS NULL OR $3 = 'quarantined')
        AND ($1::text IS NULL OR q.pool = $1)
        AND CASE WHEN $8::text IS NULL THEN true WHEN $8 = '' THEN strpos(q.pool, '~') = 0
            ELSE starts_with(q.pool, $8) END
        AND ($2::text IS NULL OR q.resource_domain = $2)
        AND ($4::timestamptz IS NULL OR (q.first_seen_at, 'quarantined', q.id) < ($4, $5, $6))
    ORDER BY q.first_seen_at DESC, q.id DESC LIMIT $7)
) b
ORDER BY since DESC, kind DESC, id DESC LIMIT $7
