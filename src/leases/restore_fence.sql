-- leases::restore_fence
-- Raises the floors under the fencing tokens. What was given out after the backup was taken is in
-- no table any more; it is below what is known, plus far more than can have been given out since.
WITH raised AS (
    UPDATE fences SET
        lease_epoch_floor = greatest(lease_epoch_floor,
            (SELECT coalesce(max(s.lease_epoch), 0) FROM sessions s)) + $1,
        incarnation_floor = greatest(incarnation_floor,
            (SELECT coalesce(max(a.incarnation), 0) FROM agents a),
            (SELECT i.last_value FROM incarnations i)) + $1
    RETURNING lease_epoch_floor, incarnation_floor
)
SELECT r.lease_epoch_floor, setval('incarnations', r.incarnation_floor) AS incarnation_floor FROM raised r
