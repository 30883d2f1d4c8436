-- rebalance::record
WITH told AS (
    INSERT INTO events (kind, at, pool, actor_type, actor_name, data)
    SELECT $2, now(), r.pool, $3, $4, jsonb_build_object('rebalance_id', r.id, 'automatic', r.automatic,
        'moves', count(m.state),
        'moved', count(m.state) FILTER (WHERE m.state = 'moved'),
        'skipped', count(m.state) FILTER (WHERE m.state = 'skipped'),
        'failed', count(m.state) FILTER (WHERE m.state = 'failed'),
        'cancelled', count(m.state) FILTER (WHERE m.state = 'cancelled'))
    FROM rebalances r LEFT JOIN rebalance_moves m ON m.rebalance_id = r.id
    WHERE r.id = $1
    GROUP BY r.id
    RETURNING batch
)
INSERT INTO event_inbox (batch) SELECT t.batch FROM told t
