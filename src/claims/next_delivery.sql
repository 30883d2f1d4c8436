-- claims::next_delivery
-- When each agent should be looked at again by itself: when it is next to be told something, or
-- when a session stops avoiding it.
SELECT w.agent, min(w.at) AS at FROM (
    SELECT s.assigned_agent_id AS agent, s.deliver_at AS at FROM sessions s
    WHERE s.assigned_agent_id = ANY ($1) AND s.deliver_at IS NOT NULL
    UNION ALL
    SELECT c.holder, c.deliver_at FROM commands c
    WHERE c.holder = ANY ($1) AND c.deliver_at IS NOT NULL AND c.deadline_at > now()
    UNION ALL
    SELECT s.avoid_agent, s.avoid_until FROM sessions s
    WHERE s.avoid_agent = ANY ($1) AND s.avoid_until > now() AND s.assigned_agent_id IS NULL
) w
GROUP BY w.agent
