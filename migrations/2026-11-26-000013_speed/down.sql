DROP INDEX sessions_by_assignee;
CREATE INDEX sessions_by_assignee ON sessions (assigned_agent_id) WHERE assigned_agent_id IS NOT NULL;
CREATE INDEX sessions_to_deliver ON sessions (assigned_agent_id, deliver_at) WHERE deliver_at IS NOT NULL;
