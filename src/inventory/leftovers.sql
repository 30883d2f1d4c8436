-- inventory::leftovers
-- The leftovers of a domain that resources may be, those too that were gone before: what comes
-- late is still not wanted.
SELECT l.session_id, l.attempt, l.platform_resource_id
FROM leftovers l
WHERE l.pool = $1 AND l.resource_domain = $2
    AND (l.platform_resource_id = ANY ($3) OR l.session_id = ANY ($4))
