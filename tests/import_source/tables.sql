CREATE TABLE agents (
    agent_id varchar(255) UNIQUE NOT NULL, platform varchar(50), region varchar(100),
    status varchar(50) DEFAULT 'offline', capacity jsonb, api_key_hash varchar(255),
    cluster_id varchar(255), cluster_name varchar(255)
);
CREATE TABLE sessions (
    id varchar(255) PRIMARY KEY, user_id varchar(255), team_id varchar(255), template_name varchar(255),
    state varchar(50), app_type varchar(50) DEFAULT 'desktop', url text, namespace varchar(255) DEFAULT 'streamspace',
    created_at timestamp DEFAULT now(), updated_at timestamp DEFAULT now(), platform varchar(50) DEFAULT 'kubernetes',
    pod_name varchar(255), memory varchar(50), cpu varchar(50), persistent_home boolean DEFAULT false,
    idle_timeout varchar(50), max_session_duration varchar(50), last_activity timestamp,
    agent_id varchar(255), platform_metadata jsonb, cluster_id varchar(255), tags text[], org_id varchar(255),
    streaming_protocol varchar(50) DEFAULT 'vnc', streaming_port integer DEFAULT 5900, streaming_path varchar(255),
    termination_reason varchar(255), terminated_at timestamp
);
CREATE TABLE agent_commands (
    command_id varchar(255) UNIQUE NOT NULL, agent_id varchar(255), session_id varchar(255),
    action varchar(50) NOT NULL, payload jsonb, status varchar(50) DEFAULT 'pending', created_at timestamp DEFAULT now()
);
