-- agents::cordon
UPDATE agents SET
    cordoned = $2,
    drain_state = CASE WHEN $2 THEN drain_state END,
    cordon_reason = CASE WHEN $2 THEN $3 END,
    cordon_by = CASE WHEN $2 THEN $4 END,
    cordon_since = CASE WHEN $2 THEN coalesce($5, now()) END,
    cordon_until = CASE WHEN $2 THEN $6 END
WHERE name = $1
