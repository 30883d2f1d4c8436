DROP TRIGGER agents_leave_their_name ON agents;
DROP TRIGGER agents_keep_their_name ON agents;
DROP TRIGGER agents_have_a_name_of_their_own ON agents;
DROP FUNCTION keep_agent_name;
DROP FUNCTION leave_agent_name;
DROP FUNCTION take_agent_name;
DROP INDEX agents_by_name;
ALTER TABLE agents ADD PRIMARY KEY (name);
ALTER TABLE agent_instances DROP CONSTRAINT agent_instances_agent_fkey,
    ADD FOREIGN KEY (agent) REFERENCES agents (name) ON DELETE CASCADE;
DROP TABLE agent_names;
