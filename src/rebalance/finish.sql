-- rebalance::finish
-- A rebalance of which no move is planned or on its way any more is over.
UPDATE rebalances r SET finished_at = now(),
    status = CASE WHEN r.status = 'in_progress' THEN 'completed' ELSE r.status END
WHERE r.id = $1 AND r.finished_at IS NULL
    AND NOT EXISTS (SELECT FROM rebalance_moves m WHERE m.rebalance_id = r.id AND m.done_at IS NULL)
RETURNING r.status
