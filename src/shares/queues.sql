-- shares::queues
-- The queues of starts that agents with one of these sets of labels, in one of these domains, could
-- serve, by a walk over the index from one selector to the next and, in those that are satisfied, from
-- one owner to the next: at most a thousand of each, however much waits in them. Walks begin after the
-- given places, each first one is always there.
--
-- Where it is known up to where a queue has nothing any more (`claims::watermark`), the walk goes around
-- what was: $6 are the stretches between the selectors of which that is known, $7 those between the owners
-- within them, $8 what is left of the queues themselves. Each is an own look at the index, with bounds at
-- which it ends; where nothing is known, $6 is all there is.
WITH RECURSIVE keys AS MATERIALIZED (
    SELECT k.from_key COLLATE "C" AS from_key, k.to_key COLLATE "C" AS to_key
    FROM json_to_recordset($6) AS k (from_key text, to_key text)
), owners AS MATERIALIZED (
    SELECT o.key COLLATE "C" AS key, o.from_owner COLLATE "C" AS from_owner, o.to_owner COLLATE "C" AS to_owner
    FROM json_to_recordset($7) AS o (key text, from_owner text, to_owner text)
), ranges AS MATERIALIZED (
    SELECT r.key COLLATE "C" AS key, r.owner COLLATE "C" AS owner, r.from_rank, r.from_at, r.to_rank
    FROM json_to_recordset($8) AS r (key text, owner text, from_rank smallint, from_at timestamptz, to_rank smallint)
), selector AS (
    SELECT x.requires_key AS key, x.requires, x.start_domain, x.owner_key AS owner, x.queue_rank, x.queued_at,
        k.to_key, 1 AS n
    FROM keys k CROSS JOIN LATERAL (
        SELECT s.requires_key, s.requires, s.start_domain, s.owner_key, s.queue_rank, s.queued_at FROM sessions s
        WHERE s.agent_pool = $1 AND s.pool_work = 'start'
            AND s.requires_key >= k.from_key AND s.requires_key < k.to_key
        ORDER BY s.requires_key, s.owner_key, s.queue_rank, s.queued_at LIMIT 1
    ) x
    UNION ALL
    SELECT x.requires_key, x.requires, x.start_domain, x.owner_key, x.queue_rank, x.queued_at, p.to_key, p.n + 1
    FROM selector p CROSS JOIN LATERAL (
        SELECT s.requires_key, s.requires, s.start_domain, s.owner_key, s.queue_rank, s.queued_at FROM sessions s
        WHERE s.agent_pool = $1 AND s.pool_work = 'start'
            AND s.requires_key > greatest(p.key, $3) AND s.requires_key < p.to_key
        ORDER BY s.requires_key, s.owner_key, s.queue_rank, s.queued_at LIMIT 1
    ) x
    WHERE p.n < 1000
), first AS (
    SELECT p.key, p.requires, p.start_domain, p.owner, p.queue_rank, p.queued_at, $9 AS to_owner FROM selector p
    UNION ALL
    SELECT o.key, x.requires, x.start_domain, x.owner_key, x.queue_rank, x.queued_at, o.to_owner
    FROM owners o CROSS JOIN LATERAL (
        SELECT s.requires, s.start_domain, s.owner_key, s.queue_rank, s.queued_at FROM sessions s
        WHERE s.agent_pool = $1 AND s.pool_work = 'start' AND s.requires_key = o.key
            AND s.owner_key >= o.from_owner AND s.owner_key < o.to_owner
        ORDER BY s.requires_key, s.owner_key, s.queue_rank, s.queued_at LIMIT 1
    ) x
    UNION ALL
    -- Nothing is behind the owner: the stretch is this one queue.
    SELECT r.key, x.requires, x.start_domain, r.owner, x.queue_rank, x.queued_at, NULL
    FROM ranges r CROSS JOIN LATERAL (
        SELECT s.requires, s.start_domain, s.queue_rank, s.queued_at FROM sessions s
        WHERE s.agent_pool = $1 AND s.pool_work = 'start' AND s.requires_key = r.key AND s.owner_key = r.owner
            AND (s.queue_rank, s.queued_at) >= (r.from_rank, r.from_at) AND s.queue_rank < r.to_rank
        ORDER BY s.requires_key, s.owner_key, s.queue_rank, s.queued_at LIMIT 1
    ) x
), queue AS (
    SELECT f.key, f.requires, f.start_domain, f.owner, f.queue_rank, f.queued_at, f.to_owner FROM first f
    WHERE f.key = '' OR ((f.start_domain IS NULL OR f.start_domain = ANY ($5))
        AND EXISTS (SELECT FROM unnest($2) AS l (labels) WHERE l.labels::jsonb @> f.requires))
    UNION ALL
    SELECT q.key, q.requires, q.start_domain, x.owner_key, x.queue_rank, x.queued_at, q.to_owner
    FROM queue q CROSS JOIN LATERAL (
        SELECT s.owner_key, s.queue_rank, s.queued_at FROM sessions s
        WHERE s.agent_pool = $1 AND s.pool_work = 'start' AND s.requires_key = q.key
            AND s.owner_key > greatest(q.owner, $4) AND s.owner_key < q.to_owner
        ORDER BY s.requires_key, s.owner_key, s.queue_rank, s.queued_at LIMIT 1
    ) x
), found AS (SELECT * FROM queue LIMIT 1000)
SELECT t.selectors, t.last_selector, f.key AS requires_key, f.requires, f.start_domain, f.owner,
    f.queue_rank, f.queued_at,
    coalesce(o.weight, 1) AS weight, o.max_running, u.virtual_time, u.last_start,
    coalesce((SELECT p.virtual_time FROM pool_turns p WHERE p.pool = $1), 0) AS pool_time
FROM (SELECT count(DISTINCT key) AS selectors, max(key) AS last_selector FROM first) t
LEFT JOIN found f ON true
-- By key: joined otherwise, all of a pool's owners would be read.
LEFT JOIN (SELECT w.owner, w.weight, w.max_running FROM pool_owners w
    WHERE w.pool = $1 AND w.owner = ANY (ARRAY (SELECT owner FROM found))) o ON o.owner = f.owner
LEFT JOIN (SELECT w.owner, w.virtual_time, w.last_start FROM owner_turns w
    WHERE w.pool = $1 AND w.owner = ANY (ARRAY (SELECT owner FROM found))) u ON u.owner = f.owner
