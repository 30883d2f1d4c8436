-- drains::let_go
-- Agents leave a drain: if the third parameter says so, as they were before it, otherwise cordoned.
-- Those that another drain is about stay with that one. Their rows are locked.
UPDATE agents a SET
    drain_state = NULL,
    cordoned = x.stays,
    cordon_reason = CASE WHEN x.stays THEN a.cordon_reason END,
    cordon_by = CASE WHEN x.stays THEN a.cordon_by END,
    cordon_since = CASE WHEN x.stays THEN a.cordon_since END,
    cordon_until = CASE WHEN x.stays THEN a.cordon_until END
FROM (
    SELECT m.agent, m.was_cordoned OR NOT $3 AS stays FROM drain_agents m
    WHERE m.drain_id = $1 AND m.agent = ANY ($2)
) x
WHERE a.name = x.agent AND a.drain_state IS NOT NULL
    AND NOT EXISTS (SELECT FROM drain_agents o JOIN drains d ON d.id = o.drain_id
        WHERE o.agent = a.name AND o.drain_id <> $1 AND d.status = 'in_progress')
RETURNING a.name, x.stays
