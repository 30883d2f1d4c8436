-- brake::look
-- How silent each pool is, and whether its brake is other than that says. Those come first, so
-- that the limit keeps none of them waiting. Nothing is known without a fresh pulse: beats might
-- not have been taken.
SELECT n.* FROM (
    SELECT p.name AS pool, s.silent_agents, s.counted_agents, p.brake_since IS NOT NULL AS holds,
        (s.holds <> (p.brake_since IS NOT NULL)
            OR coalesce(p.brake_silent_agents <> s.silent_agents, false))
        AND EXISTS (SELECT FROM pulse u WHERE u.at > clock_timestamp() - make_interval(secs => $1)) AS turned
    FROM pools p JOIN pool_silence s ON s.pool = p.name
) n
ORDER BY n.turned DESC, n.pool
LIMIT 1000
