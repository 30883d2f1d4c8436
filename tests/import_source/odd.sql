INSERT INTO agents (agent_id, platform, region, status, capacity, cluster_id, cluster_name, api_key_hash) VALUES
    ('k8s-1', 'kubernetes', 'us-east-1', 'offline', '{"maxSessions": 40, "cpu": "64"}', 'prod', 'Production', 'hunter2'),
    ('k8s-2', 'Kubernetes', 'us-east-1', 'online', '{"max_sessions": "10"}', 'prod', NULL, NULL),
    ('docker-1', 'docker', 'eu', 'online', NULL, NULL, NULL, NULL),
    ('vm-1', 'vm', 'lab', 'online', '{"cpu": "8"}', NULL, NULL, NULL),
    ('agent-text-capacity', 'docker', 'eu', 'online', '"plenty"', NULL, NULL, NULL),
    ('Agent Nine', 'docker', 'eu', 'online', '{"maxSessions": 0.5}', NULL, NULL, NULL),
    ('ab-1', 'kubernetes', 'a', 'online', NULL, 'b', NULL, NULL),
    ('ab-2', 'kubernetes', 'a-b', 'online', NULL, NULL, NULL, NULL),
    ('bare', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
UPDATE agents SET capacity = NULL WHERE agent_id = 'Agent Nine';

INSERT INTO sessions (id, user_id, team_id, template_name, state, namespace, created_at, pod_name, memory, cpu,
    persistent_home, agent_id, cluster_id, platform_metadata, tags, org_id, streaming_protocol, streaming_port, streaming_path) VALUES
    ('k8s-run', 'ann', 'team-1', 'firefox', 'running', 'apps', '2025-12-01 10:00:00', 'k8s-run-pod', '2Gi', '1000m',
        true, 'k8s-1', 'prod', '{"node": "n1", "podIP": "10.0.0.7"}', '{team=blue,gpu}', 'acme', 'selkies', 8080, '/ws');
INSERT INTO sessions (id, user_id, state, platform, agent_id, platform_metadata, persistent_home) VALUES
    ('docker-run', 'ann', 'running', 'kubernetes', 'docker-1', '{"containerId": "abc123"}', true),
    ('docker-plain', 'ann', 'running', 'docker', 'docker-1', NULL, false),
    ('metadata-text', 'ann', 'running', 'docker', 'docker-1', '"text"', false),
    ('metadata-long', 'ann', 'running', 'docker', 'docker-1', jsonb_build_object('k', repeat('x', 20000)), false),
    ('on-vm', 'ann', 'running', 'vm', 'vm-1', NULL, false),
    ('lost-agent', 'ann', 'running', 'kubernetes', 'agent-that-went', NULL, false),
    ('run-no-agent', 'ann', 'running', 'kubernetes', NULL, NULL, false),
    ('Upper Case!', 'ann', 'running', 'docker', 'Agent Nine', NULL, false),
    (repeat('x', 200), 'ann', 'pending', 'kubernetes', 'k8s-1', NULL, false),
    ('6f1c1f6e-1111-4222-8333-444455556666', 'ann', 'running', 'docker', 'docker-1', NULL, false),
    ('taken-1', 'ann', 'pending', 'docker', 'docker-1', NULL, false),
    ('null-user', NULL, 'running', 'docker', 'docker-1', NULL, false);
INSERT INTO sessions (id, user_id, state, agent_id, pod_name, termination_reason, terminated_at, last_activity, updated_at) VALUES
    ('stuck-end', 'ann', 'terminating', 'k8s-1', 'stuck-pod', NULL, NULL, NULL, now() - interval '40 days'),
    ('stuck-start', 'ann', 'pending', 'k8s-1', NULL, NULL, NULL, NULL, now()),
    ('half-start', 'ann', 'pending', 'k8s-1', 'half-pod', NULL, NULL, NULL, now()),
    ('asleep', 'ann', 'hibernated', 'k8s-1', NULL, NULL, NULL, '2026-01-01 00:00:00', now()),
    ('stop-asked', 'ann', 'running', 'k8s-1', 'stop-pod', NULL, NULL, NULL, now()),
    ('stop-pending', 'ann', 'pending', 'k8s-1', NULL, NULL, NULL, NULL, now() - interval '40 days'),
    ('start-asked', 'ann', 'pending', 'k8s-1', NULL, NULL, NULL, NULL, now()),
    ('broken', 'ann', 'failed', 'k8s-1', NULL, 'image not found', NULL, NULL, now()),
    ('ended-now', 'ann', 'terminated', 'k8s-1', NULL, 'user asked', now(), NULL, now()),
    ('ended-old', 'ann', 'terminated', 'k8s-1', NULL, 'user asked', now() - interval '30 days', NULL, now()),
    ('twin-old', 'ann', 'running', 'k8s-1', 'twin-pod', NULL, NULL, now() - interval '2 days', now()),
    ('twin-new', 'ann', 'running', 'k8s-2', 'twin-pod', NULL, NULL, now() - interval '1 day', now()),
    ('stop-lost', 'ann', 'pending', NULL, 'lost-pod', NULL, NULL, NULL, now()),
    ('loud', 'ann', 'RUNNING', 'k8s-1', 'loud-pod', NULL, NULL, NULL, now()),
    ('weird-state', 'ann', 'zombie', 'k8s-1', NULL, NULL, NULL, NULL, now()),
    ('null-state', 'ann', NULL, 'k8s-1', NULL, NULL, NULL, NULL, now()),
    ('line
break', E'a\tb\u202e', 'pending', 'k8s-1', NULL, NULL, NULL, NULL, now());
INSERT INTO sessions (id, user_id, state, agent_id, idle_timeout, max_session_duration) VALUES
    ('bad-durations', 'ann', 'running', 'docker-1', '2h30', '-5m'),
    ('tiny-durations', 'ann', 'running', 'docker-1', '300ms', '1d'),
    ('huge-durations', 'ann', 'running', 'docker-1', '9999999h', '99999999999h'),
    ('zero-durations', 'ann', 'running', 'docker-1', '', '0'),
    ('fine-durations', 'ann', 'running', 'docker-1', '2h30m', '8h');
INSERT INTO sessions (id, user_id, state, agent_id, streaming_port) VALUES
    ('negative-port', 'ann', 'running', 'docker-1', -1),
    ('zero-port', 'ann', 'running', 'docker-1', 0);
INSERT INTO sessions (id, user_id, state, agent_id, tags) VALUES
    ('bad-tags', 'ann', 'running', 'docker-1', ARRAY[repeat('x', 300), 'user_id=bob', '=v']),
    ('many-tags', 'ann', 'running', 'docker-1', (SELECT array_agg('tag-' || g) FROM generate_series(1, 70) g));
INSERT INTO sessions (id, user_id, state, agent_id, created_at) VALUES ('no-times', 'ann', 'running', 'docker-1', NULL);
INSERT INTO sessions (id, user_id, state, agent_id, created_at, last_activity) VALUES
    ('far-times', 'ann', 'running', 'docker-1', '9000-01-01', 'infinity');

INSERT INTO agent_commands (command_id, agent_id, session_id, action, payload, status, created_at) VALUES
    ('cmd-1', 'k8s-1', 'k8s-run', 'start_session', '{"templateManifest": {"spec": {"baseImage": "img:1"}}}', 'completed', '2025-12-01'),
    ('cmd-2', 'k8s-1', 'k8s-run', 'start_session', '{"templateManifest": {"spec": {"baseImage": "img:2"}}}', 'completed', '2025-12-02'),
    ('cmd-stop', 'k8s-1', 'stop-asked', 'stop_session', '{"deletePVC": true}', 'pending', now()),
    ('cmd-stop-pending', 'k8s-1', 'stop-pending', 'stop_session', NULL, 'Sent', now()),
    ('cmd-stop-lost', 'k8s-1', 'stop-lost', 'stop_session', NULL, 'pending', now()),
    ('cmd-start', 'k8s-1', 'start-asked', 'start_session', '{}', 'pending', now()),
    ('cmd-done', 'k8s-1', 'loud', 'stop_session', '{}', 'failed', now()),
    ('cmd-hibernate', 'k8s-1', 'loud', 'hibernate_session', '{}', 'pending', now()),
    ('cmd-lost', 'k8s-1', 'nowhere', 'stop_session', '{}', 'pending', now()),
    ('cmd-odd', 'k8s-1', 'loud', 'reboot_session', '[]', 'ack', now());
