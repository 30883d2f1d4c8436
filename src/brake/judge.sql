-- brake::judge
-- Puts the brake of each pool on or off as its silence says, or off because an operator says so
-- (the second argument), with the event. This transaction has locked the pools before, so that no
-- two of them turn one brake, and the silence is counted after the lock was had. When a brake goes
-- off, the time that domains have been lost moves on by what of it passed under the brake.
-- Without a fresh pulse all stays as it is, unless an operator says otherwise.
WITH seen AS MATERIALIZED (
    SELECT p.name, p.brake_since, p.brake_silent_agents, s.silent_agents, s.counted_agents,
        s.holds AND NOT $2 AS holds, clock_timestamp() AS at
    FROM pools p JOIN pool_silence s ON s.pool = p.name
    WHERE p.name = ANY ($1)
        AND ($2 OR EXISTS (SELECT FROM pulse u
            WHERE u.at > clock_timestamp() - make_interval(secs => $3)))
), judged AS (
    UPDATE pools p SET
        brake_since = CASE WHEN n.holds THEN coalesce(n.brake_since, n.at) END,
        brake_silent_agents = CASE WHEN n.holds THEN n.silent_agents END,
        brake_released_at = CASE WHEN $2 THEN n.at ELSE p.brake_released_at END
    FROM seen n
    WHERE p.name = n.name
        AND (n.holds <> (n.brake_since IS NOT NULL) OR n.brake_silent_agents <> n.silent_agents)
), stood_still AS MATERIALIZED (
    SELECT d.pool, d.name, n.brake_since, n.at
    FROM resource_domains d JOIN seen n ON n.name = d.pool
    WHERE n.brake_since IS NOT NULL AND NOT n.holds AND d.lost_since IS NOT NULL
    ORDER BY d.pool, d.name
    FOR NO KEY UPDATE OF d
), moved AS (
    UPDATE resource_domains d SET lost_since = d.lost_since + make_interval(secs =>
        greatest(0, extract(epoch FROM s.at - greatest(s.brake_since, d.lost_since))))
    FROM stood_still s
    WHERE d.pool = s.pool AND d.name = s.name AND d.lost_since IS NOT NULL
), told AS (
    INSERT INTO events (kind, at, pool, actor_type, actor_name, reason, data)
    SELECT CASE WHEN n.holds THEN 'pool.brake_on' ELSE 'pool.brake_off' END, n.at, n.name, $4, $5,
        CASE WHEN $2 THEN 'released' WHEN NOT n.holds THEN 'recovered' END,
        jsonb_build_object('silent_agents', n.silent_agents, 'counted_agents', n.counted_agents)
    FROM seen n
    WHERE n.holds <> (n.brake_since IS NOT NULL)
    RETURNING batch
), waiting AS (
    INSERT INTO event_inbox (batch) SELECT t.batch FROM told t
)
SELECT n.name AS pool, n.silent_agents, n.counted_agents, n.holds,
    n.holds <> (n.brake_since IS NOT NULL) AS turned
FROM seen n ORDER BY n.name
