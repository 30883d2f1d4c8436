-- drains::record
WITH told AS (
    INSERT INTO events (kind, at, pool, agent, actor_type, actor_name, reason, data)
    SELECT $2, now(), d.pool, d.agent, $3, $4, d.reason, jsonb_build_object('drain_id', d.id,
        'agents', (SELECT count(*) FROM drain_agents a WHERE a.drain_id = d.id),
        'total', (SELECT count(*) FROM drain_sessions s WHERE s.drain_id = d.id),
        'handed_over', (SELECT count(*) FROM drain_sessions s WHERE s.drain_id = d.id AND s.outcome = 'handed_over'),
        'remaining', (SELECT count(*) FROM drain_sessions s WHERE s.drain_id = d.id AND s.outcome IS NULL))
    FROM drains d WHERE d.id = $1
    RETURNING batch
)
INSERT INTO event_inbox (batch) SELECT t.batch FROM told t
