-- upkeep::delete_tokens
-- Tokens that ended 30 days ago; those that an agent's registrations made after a day, since they are many.
WITH gone AS (
    DELETE FROM tokens WHERE id IN (
        SELECT t.id FROM tokens t
        WHERE least(t.expires_at, t.revoked_at) < now() - CASE WHEN t.enrolled THEN interval '1 day'
            ELSE interval '30 days' END
        ORDER BY t.id LIMIT 500 FOR UPDATE SKIP LOCKED)
    RETURNING 1
)
SELECT count(*) AS deleted FROM gone
