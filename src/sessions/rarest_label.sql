-- Which of these labels the fewest sessions have; of those that a thousand have, the first by its key. In the order
-- of the index, so that no more of them are read.
SELECT l.key, l.value
FROM json_each_text($1) AS l
CROSS JOIN LATERAL (
    SELECT count(*) AS sessions FROM (
        SELECT FROM session_labels s WHERE s.key = l.key COLLATE "C" AND s.value = l.value COLLATE "C"
        ORDER BY s.session_id LIMIT 1000
    ) found
) c
ORDER BY c.sessions, l.key COLLATE "C"
LIMIT 1
