-- inventory::note_absent
-- What an agent's inventory did not list; all but this and what stays is forgotten.
WITH forgotten AS (
    DELETE FROM absent_resources r WHERE r.agent = $1 AND r.session_id <> ALL ($2) AND r.session_id <> ALL ($3)
)
INSERT INTO absent_resources AS r (agent, session_id, lease_epoch, begun_at, received_at)
SELECT $1, a.session_id, a.lease_epoch, $5, clock_timestamp()
FROM unnest($3, $4) AS a (session_id, lease_epoch)
ON CONFLICT (agent, session_id) DO UPDATE SET lease_epoch = excluded.lease_epoch,
    begun_at = excluded.begun_at, received_at = excluded.received_at
