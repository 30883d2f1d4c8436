-- import::present
-- Sessions as they are, to be compared with what they came of.
SELECT i.old_id, row_to_json(r)::text AS text FROM imported_sessions i
JOIN LATERAL (SELECT s.name, s.agent_pool AS pool, s.owner, s.labels, s.spec, s.state, s.desired_state, s.resource_domain,
        s.platform_resource_id, s.platform_metadata, s.endpoint, s.idle_timeout_seconds, s.max_duration_seconds,
        s.delete_data, s.termination_reason
    FROM sessions s WHERE s.id = i.session_id) r ON true
WHERE i.source = $1 AND i.old_id = ANY ($2)
