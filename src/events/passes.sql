-- A condition of events::page and events::page_of_session: whether `e` passes the filter.
(($3::text[])[1] IS NULL OR e.pool = ($3::text[])[1])
    AND CASE WHEN ($3::text[])[2] IS NULL THEN true WHEN ($3::text[])[2] = '' THEN strpos(e.pool, '~') = 0
        ELSE starts_with(e.pool, ($3::text[])[2]) END
    AND ($4::text IS NULL OR e.agent = $4)
    AND ($5::text IS NULL OR e.owner = $5)
    AND ($6 OR e.kind = ANY ($7) OR EXISTS (SELECT FROM unnest($8) AS begins WHERE starts_with(e.kind, begins)))
