-- shares::lock_limited
-- The limits of these owners, locked in key order: whoever starts something for one of them counts
-- after the one before has committed.
SELECT o.owner, o.max_running FROM pool_owners o
WHERE o.pool = $1 AND o.owner = ANY ($2) AND o.max_running IS NOT NULL
ORDER BY o.owner
FOR NO KEY UPDATE
