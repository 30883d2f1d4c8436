INSERT INTO agents (agent_id, platform, region, status, capacity, cluster_id)
SELECT 'many-agent-' || a, CASE WHEN a % 4 = 0 THEN 'docker' ELSE 'kubernetes' END, 'region-' || a % 3, 'offline',
    '{"maxSessions": 5000}', CASE WHEN a % 4 <> 0 THEN 'cluster-' || a % 8 END
FROM generate_series(0, 39) a;

INSERT INTO sessions (id, user_id, team_id, template_name, state, created_at, updated_at, platform, pod_name, memory, cpu,
    persistent_home, idle_timeout, max_session_duration, last_activity, agent_id, platform_metadata, tags, org_id,
    streaming_port, terminated_at)
SELECT 'many-' || lpad(g::text, 6, '0'), CASE WHEN g % 997 <> 0 THEN 'user-' || g % 500 END, 'team-' || g % 20, 'firefox',
    CASE WHEN g % 1999 = 0 THEN 'lost in space' ELSE
        (ARRAY['pending', 'hibernated', 'terminating', 'terminated', 'failed', 'Starting'])[g % 20 + 1] END,
    now() - make_interval(mins => g), now(), 'kubernetes',
    CASE WHEN g % 3 = 0 THEN 'pod-' || g WHEN g % 2503 = 0 THEN 'pod-shared' END, '2Gi', '500m', g % 2 = 0,
    (ARRAY['30m', '1h30m', '', 'soon', NULL])[g % 5 + 1], (ARRAY['8h', '24h0m0s', '1d', NULL])[g % 4 + 1],
    now() - make_interval(secs => g), CASE WHEN g % 4999 <> 0 THEN 'many-agent-' || g % 40 END,
    jsonb_build_object('containerId', CASE WHEN g % 3 = 1 THEN 'container-' || g END, 'note', repeat('n', g % 200)),
    ARRAY['env=prod', 'batch=' || g % 100, 'gpu'], 'org-' || g % 7, CASE WHEN g % 1009 = 0 THEN -1 ELSE 5900 END,
    CASE WHEN g % 20 = 3 THEN now() - make_interval(days => g / 20 % 30) END
FROM generate_series(1, 100000) g;
UPDATE sessions SET state = 'running' WHERE id LIKE 'many-%' AND state IS NULL;

INSERT INTO agent_commands (command_id, agent_id, session_id, action, payload, status)
SELECT 'many-cmd-' || g, 'many-agent-' || g % 40, 'many-' || lpad(g::text, 6, '0'),
    CASE WHEN g % 50 = 7 THEN 'stop_session' ELSE 'start_session' END,
    jsonb_build_object('templateManifest', jsonb_build_object('spec', jsonb_build_object('baseImage', 'img', 'text', repeat('t', 300)))),
    CASE WHEN g % 50 = 7 THEN 'pending' ELSE 'completed' END
FROM generate_series(1, 100000) g;
ANALYZE;
