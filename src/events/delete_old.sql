-- events::delete_old
-- Deletes events that are past retention, from the oldest on, up to the first batch that has one that is not. The
-- floor is locked by this transaction; it is where the search begins, so that what was deleted before is
-- not walked over. Positions are dense, so a range of them is a bound, with and without statistics.
WITH oldest AS MATERIALIZED (
    SELECT b.first_position, b.events,
        (SELECT max(e.at) FROM events e WHERE e.batch = b.batch) AS at
    FROM event_batches b WHERE b.first_position >= $1 AND b.first_position < $1 + 5000
), border AS MATERIALIZED (
    SELECT coalesce(min(o.first_position) FILTER (WHERE o.at >= now() - make_interval(secs => $2)),
        max(o.first_position + o.events)) AS position
    FROM oldest o
), passed AS MATERIALIZED (
    DELETE FROM event_batches b
    WHERE b.first_position >= $1 AND b.first_position < (SELECT o.position FROM border o)
    RETURNING b.batch
), gone AS (
    DELETE FROM events e WHERE e.batch = ANY (ARRAY (SELECT p.batch FROM passed p)) RETURNING 1
), moved AS (
    UPDATE event_floor SET first_position = (SELECT b.position FROM border b)
    WHERE EXISTS (SELECT FROM border b WHERE b.position > $1)
)
SELECT count(*) AS deleted FROM gone
