-- leases::pulse
-- One row that every server writes each second, with its heartbeats. A pulse that finds its
-- predecessor too old, or in the future, has found an outage: nothing expires for a lease time
-- from now, and the time that domains have been lost stood still. What passed under a brake is
-- added when that goes off. The predecessor is read under its lock, so that one outage is found by
-- one server, and the clock after that lock was had.
WITH before AS MATERIALIZED (
    SELECT at, at < clock_timestamp() - make_interval(secs => $1)
        OR at > clock_timestamp() + interval '1 second' AS gap
    FROM pulse FOR UPDATE
), beaten AS (
    UPDATE pulse p SET
        at = clock_timestamp(),
        gap_at = CASE WHEN b.gap THEN clock_timestamp() ELSE p.gap_at END
    FROM before b
), first AS (
    INSERT INTO pulse (at) SELECT clock_timestamp() WHERE NOT EXISTS (SELECT FROM before)
    ON CONFLICT DO NOTHING
), moved AS (
    UPDATE resource_domains d SET lost_since = d.lost_since
        + greatest(interval '0', coalesce(p.brake_since, clock_timestamp()) - b.at)
    FROM before b, pools p
    WHERE b.gap AND p.name = d.pool AND d.lost_since IS NOT NULL
)
SELECT coalesce((SELECT gap FROM before), false) AS gap
