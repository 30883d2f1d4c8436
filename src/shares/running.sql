-- shares::running
SELECT w.owner, (
    SELECT count(*) FROM sessions s
    WHERE s.agent_pool = $1 AND s.owner_key = w.owner AND s.takes_place AND s.owner IS NOT NULL) AS running
FROM unnest($2) AS w (owner)
