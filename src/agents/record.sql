-- agents::record
WITH told AS (
    INSERT INTO events (kind, at, pool, agent, incarnation, actor_type, actor_name, reason)
    VALUES ($1, now(), $2, $3, $4, $5, $6, $7)
    RETURNING batch
)
INSERT INTO event_inbox (batch) SELECT t.batch FROM told t
