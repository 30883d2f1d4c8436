-- audit::end
-- How changes ended. A crash may take this along: the entries then say that nobody knows.
WITH how AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
), ended AS MATERIALIZED (
    SELECT e.id, e.status FROM how, json_to_recordset($1) AS e (id bigint, status integer)
)
UPDATE audit a SET status = e.status, finished_at = clock_timestamp()
FROM ended e WHERE a.id = e.id AND a.id = ANY (ARRAY (SELECT id FROM ended))
