-- webhooks::released
UPDATE webhooks w SET taken_until = NULL WHERE w.id = $1 AND w.takes = $2
