-- claims::before_new
-- What a new session of a pool has to heed: which of these owners have a limit, so that their sessions
-- are counted by a round.
SELECT ARRAY (SELECT o.owner FROM pool_owners o
        WHERE o.pool = $1 AND o.owner = ANY ($2) AND o.max_running IS NOT NULL) AS limited,
    (SELECT f.lease_epoch_floor FROM fences f) AS epoch_floor
