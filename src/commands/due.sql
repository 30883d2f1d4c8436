-- commands::due
-- What is to be told of these sessions. What is pending goes out whenever its session is looked
-- at: by their moments alone, a later one could come before an earlier one. And with it goes again
-- whatever was told before and is not acknowledged: that answer may have been lost.
SELECT c.id, c.seq, c.session_id, c.kind, c.payload, c.status, c.redeliver, c.lease_epoch, c.agent, c.result,
    c.failure, c.deadline_at, c.created_at, c.delivered_at, c.finished_at, c.holder, c.deliver_at,
    c.deliveries
FROM commands c
WHERE c.session_id = ANY ($1) AND c.open AND c.holder = ANY ($2) AND c.deadline_at > now()
    AND (c.status = 'pending' OR c.deliver_at <= now()
        OR (c.status = 'delivered' AND EXISTS (SELECT FROM commands p
            WHERE p.session_id = c.session_id AND p.open AND p.status = 'pending' AND p.seq > c.seq)))
ORDER BY c.seq
LIMIT 1000
