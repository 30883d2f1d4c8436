-- events::page
-- What passes a filter between two positions, from the first on. The range is bounded, so that a
-- filter which nothing passes costs no more than one that everything does. Batches are looked at one after the
-- other: the inner limit keeps the planner from joining all of both tables.
SELECT b.first_position + e.ordinal AS id, e.* FROM event_batches b CROSS JOIN LATERAL (
    SELECT v.* FROM events v
    WHERE v.batch = b.batch AND v.ordinal > $1 - b.first_position AND v.ordinal <= $2 - b.first_position
        AND (($3::text[])[1] IS NULL OR v.pool = ($3::text[])[1])
        AND CASE WHEN ($3::text[])[2] IS NULL THEN true WHEN ($3::text[])[2] = '' THEN strpos(v.pool, '~') = 0
            ELSE starts_with(v.pool, ($3::text[])[2]) END
        AND ($4::text IS NULL OR v.agent = $4)
        AND ($5::text IS NULL OR v.owner = $5)
        AND ($6 OR v.kind = ANY ($7) OR EXISTS (SELECT FROM unnest($8) AS begins WHERE starts_with(v.kind, begins)))
    ORDER BY v.batch, v.ordinal LIMIT 200
) e
-- From the batch on that has the position after the first.
WHERE b.first_position >= coalesce((SELECT f.first_position FROM event_batches f WHERE f.first_position <= $1 + 1
        ORDER BY f.first_position DESC LIMIT 1), 0)
    AND b.first_position <= $2
ORDER BY b.first_position, e.ordinal LIMIT 200
