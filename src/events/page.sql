-- events::page
-- What passes a filter between two positions, from the first on. The range is bounded, so that a
-- filter which nothing passes costs no more than one that everything does. Batches are looked at one after the
-- other: the inner limit keeps the planner from joining all of both tables.
SELECT b.first_position + p.ordinal AS id, p.* FROM event_batches b CROSS JOIN LATERAL (
    SELECT e.* FROM events e
    WHERE e.batch = b.batch AND e.ordinal > $1 - b.first_position AND e.ordinal <= $2 - b.first_position
        AND {passes}
    ORDER BY e.batch, e.ordinal LIMIT 200
) p
-- From the batch on that has the position after the first.
WHERE b.first_position >= coalesce((SELECT f.first_position FROM event_batches f WHERE f.first_position <= $1 + 1
        ORDER BY f.first_position DESC LIMIT 1), 0)
    AND b.first_position <= $2
ORDER BY b.first_position, p.ordinal LIMIT 200
