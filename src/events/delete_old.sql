-- events::delete_old
-- Deletes events that are past retention, from the oldest on, up to the first that is not. The floor
-- is locked by this transaction; it is where the search begins, so that what was deleted before is
-- not walked over. Positions are dense, so a range of them is a bound, with and without statistics.
WITH oldest AS MATERIALIZED (
    SELECT e.id, e.at FROM events e WHERE e.id >= $1 AND e.id < $1 + 5000
), border AS MATERIALIZED (
    SELECT coalesce(min(o.id) FILTER (WHERE o.at >= now() - make_interval(secs => $2)), max(o.id) + 1) AS id
    FROM oldest o
), gone AS (
    DELETE FROM events e WHERE e.id >= $1 AND e.id < (SELECT b.id FROM border b) RETURNING 1
), moved AS (
    UPDATE event_floor SET first_position = (SELECT b.id FROM border b)
    WHERE EXISTS (SELECT FROM border b WHERE b.id > $1)
)
SELECT count(*) AS deleted FROM gone
