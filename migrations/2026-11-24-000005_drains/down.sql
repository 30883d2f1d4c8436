DROP TABLE drain_sessions, drain_agents, drains;
ALTER TABLE sessions DROP COLUMN handing_over;
ALTER TABLE agents DROP COLUMN scheduling, DROP COLUMN drain_state;
