-- commands::insert
WITH told AS (
    INSERT INTO events (kind, at, pool, owner, session_id, generation, actor_type, actor_name, to_value, data)
    SELECT kind, at, pool, owner, session_id, generation, actor_type, actor_name, to_value, data
    FROM unnest((SELECT $2::arg_event[])) AS e
    RETURNING batch
), waiting AS (
    INSERT INTO event_inbox (batch) SELECT t.batch FROM told t
)
INSERT INTO commands (id, session_id, kind, payload, status, redeliver, deadline_at, created_at,
    holder, deliver_at, deliveries)
SELECT id, session_id, kind, payload::json, status, redeliver, deadline_at, created_at,
    holder, deliver_at, deliveries
FROM json_to_recordset($1) AS c (id uuid, session_id uuid, kind text, payload text, status text,
    redeliver boolean, deadline_at timestamptz, created_at timestamptz, holder text,
    deliver_at timestamptz, deliveries integer)
