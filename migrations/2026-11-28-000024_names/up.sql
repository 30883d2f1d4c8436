-- That a name is an agent's once is kept by a table that no claim writes. By a unique index of `agents` itself, each
-- version of an agent that does not fit on the page of the one before had all older ones looked at, as any of
-- them might be a second agent of the name; beside an old transaction, as of a backup, those are thousands.

CREATE TABLE agent_names (
    name text COLLATE "C" PRIMARY KEY
);
COMMENT ON TABLE agent_names IS 'The names of agents, each once; locked by who registers or forgets an agent';
COMMENT ON COLUMN agent_names.name IS 'The name';
INSERT INTO agent_names (name) SELECT a.name FROM agents a;

ALTER TABLE agent_instances DROP CONSTRAINT agent_instances_agent_fkey,
    ADD FOREIGN KEY (agent) REFERENCES agent_names (name) ON DELETE CASCADE;
ALTER TABLE agents DROP CONSTRAINT agents_pkey;
CREATE INDEX agents_by_name ON agents (name);

CREATE FUNCTION take_agent_name() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Waits for whoever has the name in hand, and keeps it from others until this commits.
    INSERT INTO agent_names AS n (name) VALUES (NEW.name) ON CONFLICT (name) DO UPDATE SET name = n.name WHERE false;
    IF EXISTS (SELECT FROM agents a WHERE a.name = NEW.name) THEN
        RAISE unique_violation USING MESSAGE = format('there is an agent named %L already', NEW.name),
            TABLE = 'agents', COLUMN = 'name', CONSTRAINT = 'agent_names_pkey';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION take_agent_name IS 'Refuses a second agent of a name';
CREATE FUNCTION leave_agent_name() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM agent_names n WHERE n.name = OLD.name;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION leave_agent_name IS 'Gives the name of an agent back that is deleted';
CREATE FUNCTION keep_agent_name() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE integrity_constraint_violation USING MESSAGE = format('the agent %L keeps its name', OLD.name),
        TABLE = 'agents', COLUMN = 'name';
END
$$;
COMMENT ON FUNCTION keep_agent_name IS 'Refuses another name for an agent';

CREATE TRIGGER agents_have_a_name_of_their_own BEFORE INSERT ON agents FOR EACH ROW EXECUTE FUNCTION take_agent_name();
CREATE TRIGGER agents_keep_their_name BEFORE UPDATE OF name ON agents FOR EACH ROW EXECUTE FUNCTION keep_agent_name();
CREATE TRIGGER agents_leave_their_name AFTER DELETE ON agents FOR EACH ROW EXECUTE FUNCTION leave_agent_name();
