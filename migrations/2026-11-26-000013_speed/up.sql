-- Speed: fewer indexes to write with each claim.

-- One index says what an agent has and what it is to be told: nulls, for what it need not be told, stand
-- behind all times, and every change of deliver_at was written to an index before. An offer is in one
-- index less.
DROP INDEX sessions_to_deliver;
DROP INDEX sessions_by_assignee;
CREATE INDEX sessions_by_assignee ON sessions (assigned_agent_id, deliver_at) WHERE assigned_agent_id IS NOT NULL;
