ALTER TABLE events
    DROP CONSTRAINT events_actor_type_check,
    ADD CONSTRAINT events_actor_type_check CHECK (actor_type IN ('system', 'agent', 'user', 'token'));
ALTER TABLE sessions
    DROP CONSTRAINT a_name_is_of_its_pools_tenant,
    ADD CONSTRAINT a_name_is_of_its_pools_tenant CHECK (name IS NULL
        OR CASE WHEN name LIKE '%~%' THEN split_part(name, '~', 1) ELSE '' END
        = CASE WHEN agent_pool LIKE '%~%' THEN split_part(agent_pool, '~', 1) ELSE '' END) NOT VALID,
    DROP CONSTRAINT sessions_desired_state_check,
    ADD CONSTRAINT sessions_desired_state_check CHECK (desired_state IN ('running', 'hibernated', 'terminated')),
    DROP CONSTRAINT sessions_state_check,
    ADD CONSTRAINT sessions_state_check CHECK (state IN ('pending', 'starting', 'running', 'hibernating',
        'hibernated', 'waking', 'terminating', 'terminated', 'failed')),
    DROP CONSTRAINT sessions_assigned_action_check,
    ADD CONSTRAINT sessions_assigned_action_check
        CHECK (assigned_action IN ('start', 'adopt', 'wake', 'hibernate', 'terminate', 'release')),
    DROP CONSTRAINT sessions_restart_check,
    ADD CONSTRAINT sessions_restart_check CHECK (restart IN ('on_failure', 'never')),
    DROP CONSTRAINT sessions_idle_action_check,
    ADD CONSTRAINT sessions_idle_action_check CHECK (idle_action IN ('hibernate', 'terminate')),
    DROP CONSTRAINT what_came_up_has_a_domain,
    ADD CONSTRAINT what_came_up_has_a_domain
        CHECK (state IN ('pending', 'terminated', 'failed') OR resource_domain IS NOT NULL),
    DROP CONSTRAINT only_what_ended_has_an_end,
    ADD CONSTRAINT only_what_ended_has_an_end CHECK ((ended_at IS NOT NULL) = (state IN ('terminated', 'failed'))),
    DROP CONSTRAINT what_has_come_up_has_arrived,
    ADD CONSTRAINT what_has_come_up_has_arrived CHECK ((start_domain IS NULL AND migrating_from_pool IS NULL)
        OR state IN ('pending', 'starting', 'hibernating', 'waking', 'terminating')),
    DROP CONSTRAINT who_waits_for_a_stop_is_held_back,
    ADD CONSTRAINT who_waits_for_a_stop_is_held_back CHECK (
        (stopping_attempt IS NULL OR (held_back_until IS NOT NULL AND state = 'pending'))
        AND (stopping_attempt IS NOT NULL OR stopping_lease_until IS NULL)),
    DROP CONSTRAINT timeouts_are_lengths,
    ADD CONSTRAINT timeouts_are_lengths CHECK (idle_timeout_seconds > 0 AND max_duration_seconds > 0);
ALTER TABLE agents
    DROP CONSTRAINT agents_drain_state_check,
    ADD CONSTRAINT agents_drain_state_check CHECK (drain_state IN ('draining', 'drained'));
DROP TRIGGER agents_name_check ON agents;
DROP FUNCTION refuse_agent_name;
DROP TRIGGER an_agent_is_of_its_pools_tenant ON agents;
DROP FUNCTION refuse_agent_of_another_tenant;
DROP TRIGGER agents_keep_their_name ON agents;
CREATE TRIGGER agents_keep_their_name BEFORE UPDATE OF name ON agents FOR EACH ROW EXECUTE FUNCTION keep_agent_name();
ALTER TABLE agents
    ADD CONSTRAINT agents_name_check CHECK (name ~ '^([a-z0-9][a-z0-9._-]{0,62}~)?[a-z0-9][a-z0-9._-]{0,127}$'),
    ADD CONSTRAINT an_agent_is_of_its_pools_tenant CHECK (
        CASE WHEN name LIKE '%~%' THEN split_part(name, '~', 1) ELSE '' END
        = CASE WHEN pool LIKE '%~%' THEN split_part(pool, '~', 1) ELSE '' END) NOT VALID;
