-- What a change of sessions changes of their agents: a part of `write.sql`, and by name alone.
UPDATE agents a SET
        slots_used = a.slots_used + e.slots,
        offers_lapsed = CASE WHEN e.accepted THEN 0 ELSE a.offers_lapsed + e.lapsed END,
        passed_over_until = CASE
            WHEN e.accepted THEN NULL
            WHEN a.offers_lapsed + e.lapsed >= 3 AND e.lapsed > 0 THEN now() + make_interval(
                secs => least(p.backoff_max_seconds,
                    p.backoff_initial_seconds * power(2, least(30, a.offers_lapsed + e.lapsed - 3))))
            ELSE a.passed_over_until END
    FROM {effects}, pools p
    WHERE {found} AND p.name = ANY (ARRAY[a.pool])
        AND (e.slots <> 0 OR e.lapsed > 0 OR (e.accepted AND a.offers_lapsed > 0))
    RETURNING a.name
