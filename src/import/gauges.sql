-- import::gauges
-- Of each source, what its last import met.
SELECT l.source, c.key AS outcome, c.value::bigint AS count
FROM (SELECT DISTINCT ON (source) source, counts FROM imports ORDER BY source, id DESC) l
CROSS JOIN LATERAL jsonb_each_text(l.counts) c
WHERE c.key IN ('sessions', 'new', 'updated', 'unchanged', 'moved_on', 'ended_long_ago', 'unmapped', 'removed')
