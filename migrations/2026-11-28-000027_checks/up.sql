-- What is checked of a row is read from its text, planned and made ready anew by each statement that writes one, which
-- of a statement for one session took longer than the writing. So lists are arrays, of which each element is a
-- few bytes and not a node of its own; and what cannot change after an agent was made is looked at then.

-- The form of an agent's name took a twentieth of what the database did for claims: each renewal and each offer had it
-- matched again. A name never changes.
ALTER TABLE agents DROP CONSTRAINT agents_name_check, DROP CONSTRAINT an_agent_is_of_its_pools_tenant;
CREATE FUNCTION refuse_agent_name() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE check_violation USING MESSAGE = format('no agent can have the name %L', NEW.name),
        TABLE = 'agents', COLUMN = 'name', CONSTRAINT = 'agents_name_check';
END
$$;
COMMENT ON FUNCTION refuse_agent_name IS 'Refuses a name that is none of an agent';
CREATE TRIGGER agents_name_check AFTER INSERT ON agents FOR EACH ROW
    WHEN (NEW.name !~ '^([a-z0-9][a-z0-9._-]{0,62}~)?[a-z0-9][a-z0-9._-]{0,127}$')
    EXECUTE FUNCTION refuse_agent_name();

-- After, as before an update it would have every generated column made anew whatever is changed.
DROP TRIGGER agents_keep_their_name ON agents;
CREATE TRIGGER agents_keep_their_name AFTER UPDATE OF name ON agents FOR EACH ROW EXECUTE FUNCTION keep_agent_name();

CREATE FUNCTION refuse_agent_of_another_tenant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE check_violation USING MESSAGE = format('the agent %L is not of the tenant of pool %L', NEW.name, NEW.pool),
        TABLE = 'agents', CONSTRAINT = 'an_agent_is_of_its_pools_tenant';
END
$$;
COMMENT ON FUNCTION refuse_agent_of_another_tenant IS 'Refuses an agent in a pool of another tenant than its own';
CREATE TRIGGER an_agent_is_of_its_pools_tenant AFTER INSERT OR UPDATE OF pool ON agents FOR EACH ROW
    WHEN (left(NEW.name, strpos(NEW.name, '~')) <> left(NEW.pool, strpos(NEW.pool, '~')))
    EXECUTE FUNCTION refuse_agent_of_another_tenant();

ALTER TABLE agents
    DROP CONSTRAINT agents_drain_state_check,
    ADD CONSTRAINT agents_drain_state_check CHECK (drain_state = ANY ('{draining,drained}'::text[]));

-- Where there is no name there is nothing to compare.
ALTER TABLE sessions
    DROP CONSTRAINT a_name_is_of_its_pools_tenant,
    ADD CONSTRAINT a_name_is_of_its_pools_tenant
        CHECK (left(name, strpos(name, '~')) = left(agent_pool, strpos(agent_pool, '~'))),
    DROP CONSTRAINT sessions_desired_state_check,
    ADD CONSTRAINT sessions_desired_state_check CHECK (desired_state = ANY ('{running,hibernated,terminated}'::text[])),
    DROP CONSTRAINT sessions_state_check,
    ADD CONSTRAINT sessions_state_check CHECK (state = ANY (
        '{pending,starting,running,hibernating,hibernated,waking,terminating,terminated,failed}'::text[])),
    DROP CONSTRAINT sessions_assigned_action_check,
    ADD CONSTRAINT sessions_assigned_action_check
        CHECK (assigned_action = ANY ('{start,adopt,wake,hibernate,terminate,release}'::text[])),
    DROP CONSTRAINT sessions_restart_check,
    ADD CONSTRAINT sessions_restart_check CHECK (restart = ANY ('{on_failure,never}'::text[])),
    DROP CONSTRAINT sessions_idle_action_check,
    ADD CONSTRAINT sessions_idle_action_check CHECK (idle_action = ANY ('{hibernate,terminate}'::text[])),
    DROP CONSTRAINT what_came_up_has_a_domain,
    ADD CONSTRAINT what_came_up_has_a_domain
        CHECK (resource_domain IS NOT NULL OR state = ANY ('{pending,terminated,failed}'::text[])),
    DROP CONSTRAINT only_what_ended_has_an_end,
    ADD CONSTRAINT only_what_ended_has_an_end
        CHECK ((ended_at IS NOT NULL) = (state = ANY ('{terminated,failed}'::text[]))),
    DROP CONSTRAINT what_has_come_up_has_arrived,
    ADD CONSTRAINT what_has_come_up_has_arrived CHECK (num_nonnulls(start_domain, migrating_from_pool) = 0
        OR state = ANY ('{pending,starting,hibernating,waking,terminating}'::text[])),
    DROP CONSTRAINT who_waits_for_a_stop_is_held_back,
    ADD CONSTRAINT who_waits_for_a_stop_is_held_back CHECK (CASE WHEN stopping_attempt IS NULL
        THEN stopping_lease_until IS NULL ELSE held_back_until IS NOT NULL AND state = 'pending' END),
    DROP CONSTRAINT timeouts_are_lengths,
    ADD CONSTRAINT timeouts_are_lengths CHECK (least(idle_timeout_seconds, max_duration_seconds) > float8 '0');

ALTER TABLE events
    DROP CONSTRAINT events_actor_type_check,
    ADD CONSTRAINT events_actor_type_check CHECK (actor_type = ANY ('{system,agent,user,token}'::text[]));
