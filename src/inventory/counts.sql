-- inventory::counts
SELECT p.name AS pool,
    (SELECT count(*) FROM leftovers l WHERE l.pool = p.name AND l.gone_at IS NULL) AS leftovers,
    (SELECT count(*) FROM quarantined_resources q WHERE q.pool = p.name) AS quarantined
FROM pools p ORDER BY p.created_at DESC LIMIT 1000
