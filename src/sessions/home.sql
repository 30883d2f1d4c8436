-- sessions::home
-- The pool of a new session: the one that is named, or the one on that platform and region with
-- the most free slots.
SELECT p.name, p.platform, p.region,
    ($2::text IS NULL OR p.platform = $2) AND coalesce($3::text IS NULL OR p.region = $3, false) AS matches
FROM pools p
WHERE p.name = $1::text
    OR ($1::text IS NULL AND p.platform = $2 AND ($3::text IS NULL OR p.region = $3)
        AND CASE WHEN $4 = '' THEN strpos(p.name, '~') = 0 ELSE starts_with(p.name, $4) END)
ORDER BY (SELECT coalesce(sum(greatest(a.capacity - a.slots_used, 0)), 0) FROM agents a
    WHERE a.pool = p.name AND a.live AND NOT a.cordoned) DESC, p.name
LIMIT 1
