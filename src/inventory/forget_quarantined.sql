-- inventory::forget_quarantined
-- Forgets what a newer inventory of the domain does not have any more, or what is known by now.
DELETE FROM quarantined_resources q
WHERE q.pool = $1 AND q.resource_domain = $2 AND q.last_seen_at < $3
    AND q.platform_resource_id <> ALL ($4)
