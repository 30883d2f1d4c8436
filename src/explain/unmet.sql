-- explain::unmet
-- Which of these labels no live agent of the pool has.
SELECT l.key, l.value FROM jsonb_each_text($2::jsonb) AS l (key, value)
WHERE NOT EXISTS (SELECT FROM agents a
    WHERE a.pool = $1 AND a.live AND a.labels @> jsonb_build_object(l.key, l.value))
ORDER BY l.key
