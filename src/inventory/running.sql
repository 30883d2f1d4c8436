-- inventory::running
-- The sessions that an agent holds and that run, with the inventory of its that missed them, if
-- one did. Its row is locked, so nobody gives it or takes from it meanwhile.
SELECT s.id, s.lease_epoch, s.attempt, s.platform_resource_id, s.updated_at,
    r.lease_epoch AS missed_epoch, r.begun_at, r.received_at
FROM sessions s
LEFT JOIN absent_resources r ON r.agent = $1 AND r.session_id = s.id
WHERE s.assigned_agent_id = $1 AND s.assigned_incarnation = $2 AND s.offered_until IS NULL
    AND s.state = 'running' AND s.desired_state = 'running'
