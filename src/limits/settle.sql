-- limits::settle
-- Looks again later at some, and never again, unless they change, at others. The rows are locked.
WITH later AS (
    UPDATE limit_checks c SET check_at = r.at
    FROM unnest($1, $2) AS r (session_id, at)
    WHERE c.session_id = r.session_id
)
DELETE FROM limit_checks WHERE session_id = ANY ($3)
