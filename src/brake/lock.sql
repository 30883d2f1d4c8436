-- brake::lock
-- Pools that nobody else is judging or changing, in key order. Who has one of them locked sees to
-- it, or it is met again at the next turn.
SELECT p.name FROM pools p WHERE p.name = ANY ($1)
ORDER BY p.name
FOR NO KEY UPDATE SKIP LOCKED
