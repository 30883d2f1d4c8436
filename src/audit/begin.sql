-- audit::begin
-- Entries of changes that are about to begin, in the order in which they were asked for. The commit does
-- not wait for the disk: the changes' own commits come later in the same log, and flush it.
WITH how AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
), begun AS (
    INSERT INTO audit (kind, actor_type, actor_name, token_id, tenant, from_address, method, path, request_id)
    SELECT b.kind, b.actor_type, b.actor_name, b.token_id, b.tenant, b.from_address, b.method, b.path, b.request_id
    FROM how, ROWS FROM (json_to_recordset($1) AS (kind text, actor_type text, actor_name text, token_id uuid,
        tenant text, from_address text, method text, path text, request_id text)) WITH ORDINALITY AS b
    ORDER BY b.ordinality
    RETURNING id
)
SELECT id FROM begun ORDER BY id
