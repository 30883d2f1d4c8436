-- The brake: while much of a pool is silent, what cannot be undone is held.

ALTER TABLE pools
    ADD COLUMN brake_since         timestamptz,
    ADD COLUMN brake_silent_agents bigint,
    ADD COLUMN brake_released_at   timestamptz,
    ADD CONSTRAINT a_brake_counts_its_agents CHECK ((brake_since IS NULL) = (brake_silent_agents IS NULL));
COMMENT ON COLUMN pools.brake_since IS 'Since when on_lost is held because much of the pool is silent; null: it is not held';
COMMENT ON COLUMN pools.brake_silent_agents IS 'How many agents were silent when somebody last looked; null while the brake is off';
COMMENT ON COLUMN pools.brake_released_at IS 'When an operator last released the brake: an agent that has not beaten since does not count as silent';

-- The one place that says who is silent, and when a brake is to be on. After an outage of all
-- servers every agent looks silent for a while: that keeps a brake on, but puts none on.
CREATE VIEW pool_silence AS
SELECT n.pool, n.silent_agents, n.counted_agents,
    n.silent_agents >= 3 AND 2 * n.silent_agents >= n.counted_agents
        AND (n.is_on OR n.gap_at IS NULL OR n.gap_at + n.two_beats <= clock_timestamp()) AS holds
FROM (
    SELECT p.name AS pool, p.brake_since IS NOT NULL AS is_on, u.gap_at, t.two_beats,
        count(*) FILTER (WHERE a.silent) AS silent_agents, count(a.silent) AS counted_agents
    FROM pools p
    CROSS JOIN LATERAL (SELECT make_interval(secs => p.lease_ttl_seconds * 2 / 3) AS two_beats) t
    LEFT JOIN pulse u ON true
    LEFT JOIN LATERAL (
        SELECT g.last_heartbeat_at,
            NOT g.live OR g.last_heartbeat_at < clock_timestamp() - t.two_beats AS silent
        FROM agents g
        WHERE g.pool = p.name AND (g.live OR g.expired_at > clock_timestamp() - interval '1 hour')
    ) a ON NOT a.silent OR p.brake_released_at IS NULL OR a.last_heartbeat_at >= p.brake_released_at
    GROUP BY p.name, u.gap_at, t.two_beats
) n;
COMMENT ON VIEW pool_silence IS 'How much of each pool is silent: two missed beats, the lease ended or not';
COMMENT ON COLUMN pool_silence.pool IS 'The pool';
COMMENT ON COLUMN pool_silence.silent_agents IS 'Agents that are silent; none whose lease ended over an hour ago, none whose last beat was before the last release';
COMMENT ON COLUMN pool_silence.counted_agents IS 'These and those that beat';
COMMENT ON COLUMN pool_silence.holds IS 'Whether the brake is to be on: that is at least three and at least half';
