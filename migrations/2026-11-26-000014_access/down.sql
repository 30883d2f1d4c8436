DROP TRIGGER an_agent_takes_its_tokens_with_it ON agents;
DROP FUNCTION revoke_tokens_of_agent();
DROP TABLE tokens;
ALTER TABLE sessions DROP CONSTRAINT a_name_is_of_its_pools_tenant;
ALTER TABLE agents DROP CONSTRAINT an_agent_is_of_its_pools_tenant;
ALTER TABLE agents DROP CONSTRAINT agents_name_check;
ALTER TABLE agents ADD CONSTRAINT agents_name_check CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,127}$');
ALTER TABLE pools DROP CONSTRAINT pools_name_check;
ALTER TABLE pools ADD CONSTRAINT pools_name_check CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,127}$');
