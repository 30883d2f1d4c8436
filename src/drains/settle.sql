-- drains::settle
-- What became of the sessions of a drain. One is taken over once another agent's report on it has
-- been accepted, not before; and what is at rest needs nobody to take it over.
UPDATE drain_sessions d SET outcome = found.outcome, done_at = now()
FROM (
    SELECT o.session_id, CASE
        WHEN s.id IS NULL OR s.state IN ('terminated', 'failed') THEN 'ended'
        WHEN s.assigned_agent_id = ANY ($2) THEN NULL
        WHEN s.assigned_agent_id IS NOT NULL AND s.offered_until IS NULL THEN 'handed_over'
        WHEN s.assigned_agent_id IS NULL AND s.state = 'hibernated' THEN 'hibernated'
        WHEN s.state = 'pending' AND s.resource_domain IS NULL THEN 'requeued'
    END AS outcome
    FROM drain_sessions o LEFT JOIN sessions s ON s.id = o.session_id
    WHERE o.drain_id = $1 AND o.outcome IS NULL
) found
WHERE d.drain_id = $1 AND d.session_id = found.session_id AND d.outcome IS NULL
    AND found.outcome IS NOT NULL
RETURNING d.outcome
