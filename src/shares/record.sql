-- shares::record
-- Rounds of several servers add up: what one has given is not undone by another that began from the
-- same place. In key order, so that two rounds wait for each other in turn.
WITH given AS (
    INSERT INTO owner_turns AS t (pool, owner, virtual_time, last_start, written_at)
    SELECT $1, g.owner, g.virtual_time, g.last_start, now()
    FROM json_to_recordset($2) AS g (owner text, virtual_time double precision, last_start double precision)
    ORDER BY g.owner COLLATE "C"
    ON CONFLICT (pool, owner) DO UPDATE SET
        virtual_time = greatest(t.virtual_time, excluded.last_start) + (excluded.virtual_time - excluded.last_start),
        last_start = greatest(t.virtual_time, excluded.last_start),
        written_at = excluded.written_at
    RETURNING 1
), pool AS (
    INSERT INTO pool_turns AS t (pool, virtual_time) VALUES ($1, $3)
    ON CONFLICT (pool) DO UPDATE SET virtual_time = greatest(t.virtual_time, excluded.virtual_time)
    RETURNING 1
)
SELECT (SELECT count(*) FROM given) + (SELECT count(*) FROM pool) AS written
