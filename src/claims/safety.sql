-- claims::safety
-- Whether anything waits to be started, and where there is work in a pool's domains: these by a walk from one to the next over the index, at
-- most a thousand, however much work each has.
WITH RECURSIVE domain AS (
    (SELECT s.resource_domain AS name, 1 AS n FROM sessions s
        WHERE s.agent_pool = $1 AND s.domain_work IS NOT NULL
        ORDER BY s.resource_domain LIMIT 1)
    UNION ALL
    SELECT (SELECT s.resource_domain FROM sessions s
        WHERE s.agent_pool = $1 AND s.domain_work IS NOT NULL AND s.resource_domain > d.name
        ORDER BY s.resource_domain LIMIT 1), d.n + 1
    FROM domain d WHERE d.name IS NOT NULL AND d.n < 1000
), parked AS (
    SELECT p.name, CASE WHEN a.live AND NOT EXISTS (
            SELECT FROM sessions s WHERE s.assigned_agent_id = p.name AND s.deliver_at <= now())
            AND NOT EXISTS (SELECT FROM commands c
                WHERE c.holder = p.name AND c.deliver_at <= now() AND c.deadline_at > now())
        THEN a.claim_number END AS claim_number
    FROM unnest($5) AS p (name) LEFT JOIN agents a ON a.name = p.name
)
SELECT (SELECT w.waits FROM (
{waits}
) w) AS starts,
    ARRAY (SELECT name FROM domain WHERE name IS NOT NULL) AS domains,
    ARRAY (SELECT name FROM parked ORDER BY name) AS agents,
    ARRAY (SELECT claim_number FROM parked ORDER BY name) AS claim_numbers
