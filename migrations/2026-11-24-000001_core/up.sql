-- The core of Lessor: pools, agents, sessions, and the history of who held what.
--
-- Conventions: a duration is a double precision in a column that ends in _seconds; a point in time
-- is a timestamptz by the database's clock. CHECKs tie a session's state to its columns.

CREATE TABLE pools (
    name                      text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,127}$'),
    platform                  text NOT NULL,
    region                    text,
    lease_ttl_seconds         double precision NOT NULL CHECK (lease_ttl_seconds BETWEEN 2 AND 3600),
    accept_timeout_seconds    double precision NOT NULL CHECK (accept_timeout_seconds BETWEEN 1 AND 3600),
    placement                 text NOT NULL CHECK (placement IN ('spread', 'pack')),
    on_lost                   text NOT NULL CHECK (on_lost IN ('wait', 'restart', 'fail')),
    adopt_timeout_seconds     double precision NOT NULL CHECK (adopt_timeout_seconds >= 0),
    max_attempts              integer NOT NULL CHECK (max_attempts >= 1),
    attempt_reset_seconds     double precision NOT NULL CHECK (attempt_reset_seconds >= 0),
    backoff_initial_seconds   double precision NOT NULL CHECK (backoff_initial_seconds >= 0),
    backoff_max_seconds       double precision NOT NULL CHECK (backoff_max_seconds >= backoff_initial_seconds),
    start_timeout_seconds     double precision NOT NULL CHECK (start_timeout_seconds > 0),
    terminate_timeout_seconds double precision NOT NULL CHECK (terminate_timeout_seconds > 0),
    inventory_every_seconds   double precision NOT NULL CHECK (inventory_every_seconds > 0),
    quarantine_seconds        double precision NOT NULL CHECK (quarantine_seconds >= 0),
    keep_ended_seconds        double precision NOT NULL CHECK (keep_ended_seconds >= 0),
    agent_retention_seconds   double precision NOT NULL CHECK (agent_retention_seconds >= 0),
    slots_per_agent           integer NOT NULL CHECK (slots_per_agent >= 1),
    labels                    jsonb NOT NULL DEFAULT '{}',
    version                   bigint NOT NULL DEFAULT 1,
    created_at                timestamptz NOT NULL DEFAULT now(),
    updated_at                timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE pools IS 'Named sets of interchangeable agents, each on one platform in one region';
COMMENT ON COLUMN pools.name IS 'Its name, in the API and in every other table';
COMMENT ON COLUMN pools.platform IS 'What its agents drive; fixed once the pool exists';
COMMENT ON COLUMN pools.region IS 'Where its agents are';
COMMENT ON COLUMN pools.lease_ttl_seconds IS 'How long an agent''s lease lasts without a heartbeat';
COMMENT ON COLUMN pools.accept_timeout_seconds IS 'How long an offer stands before it lapses';
COMMENT ON COLUMN pools.placement IS 'How sessions are shared out among agents';
COMMENT ON COLUMN pools.on_lost IS 'What happens to the sessions of a lost resource domain';
COMMENT ON COLUMN pools.adopt_timeout_seconds IS 'How long a domain may be without a live agent before on_lost decides';
COMMENT ON COLUMN pools.max_attempts IS 'Attempts before a session is a dead letter';
COMMENT ON COLUMN pools.attempt_reset_seconds IS 'After how long of running the count of attempts begins anew';
COMMENT ON COLUMN pools.backoff_initial_seconds IS 'The first pause before another attempt; it doubles';
COMMENT ON COLUMN pools.backoff_max_seconds IS 'The longest such pause';
COMMENT ON COLUMN pools.start_timeout_seconds IS 'Phase deadline of starting and waking';
COMMENT ON COLUMN pools.terminate_timeout_seconds IS 'Phase deadline of terminating and hibernating';
COMMENT ON COLUMN pools.inventory_every_seconds IS 'How frequently agents report what they see';
COMMENT ON COLUMN pools.quarantine_seconds IS 'How long an unknown resource is kept';
COMMENT ON COLUMN pools.keep_ended_seconds IS 'How long a terminated session is kept';
COMMENT ON COLUMN pools.agent_retention_seconds IS 'How long an expired agent is kept';
COMMENT ON COLUMN pools.slots_per_agent IS 'Slots an agent is expected to bring, for scaling from zero';
COMMENT ON COLUMN pools.labels IS 'Labels for people and filters';
COMMENT ON COLUMN pools.version IS 'The ETag; rises with every change of the settings';
COMMENT ON COLUMN pools.created_at IS 'When it was created';
COMMENT ON COLUMN pools.updated_at IS 'When its settings last changed';

-- Incarnations come from one sequence of the whole database, so that a name that was deleted and
-- registered again never sees an old number twice.
CREATE SEQUENCE incarnations AS bigint;

CREATE TABLE agents (
    name              text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,127}$'),
    pool              text COLLATE "C" NOT NULL REFERENCES pools (name),
    resource_domain   text COLLATE "C" NOT NULL,
    capacity          integer NOT NULL CHECK (capacity BETWEEN 0 AND 1000000),
    slots_used        integer NOT NULL DEFAULT 0 CHECK (slots_used >= 0),
    labels            jsonb NOT NULL DEFAULT '{}',
    agent_version     text,
    protocol_version  integer NOT NULL,
    instance_id       text,
    instance_host     text,
    instance_pid      bigint,
    incarnation       bigint NOT NULL,
    live              boolean NOT NULL,
    lease_expires_at  timestamptz NOT NULL,
    last_heartbeat_at timestamptz NOT NULL,
    claim_number      bigint NOT NULL DEFAULT 0,
    cordoned          boolean NOT NULL DEFAULT false,
    cordon_reason     text,
    cordon_by         text,
    cordon_since      timestamptz,
    cordon_until      timestamptz,
    offers_lapsed     integer NOT NULL DEFAULT 0 CHECK (offers_lapsed >= 0),
    passed_over_until timestamptz,
    expired_at        timestamptz,
    registered_at     timestamptz NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT now(),
    CHECK (cordoned = (cordon_since IS NOT NULL)),
    CHECK (cordoned OR (cordon_reason IS NULL AND cordon_by IS NULL AND cordon_until IS NULL)),
    CHECK (live = (expired_at IS NULL))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
-- No index has lease_expires_at: every beat is then a HOT update.
CREATE INDEX agents_by_pool ON agents (pool, resource_domain);
COMMENT ON TABLE agents IS 'Processes that claim sessions of one pool; the lease is here, one per agent';
COMMENT ON COLUMN agents.name IS 'Chosen by who deploys it, the same over restarts';
COMMENT ON COLUMN agents.pool IS 'The pool whose sessions it claims';
COMMENT ON COLUMN agents.resource_domain IS 'The cluster or host whose resources it can reach';
COMMENT ON COLUMN agents.capacity IS 'Its session slots';
COMMENT ON COLUMN agents.slots_used IS 'Sessions assigned to it, offers included, that are not terminating or hibernating';
COMMENT ON COLUMN agents.labels IS 'Its labels';
COMMENT ON COLUMN agents.agent_version IS 'The version of its software, as it said';
COMMENT ON COLUMN agents.protocol_version IS 'The protocol version it speaks';
COMMENT ON COLUMN agents.instance_id IS 'The random id of the process that runs as this agent';
COMMENT ON COLUMN agents.instance_host IS 'The host of that process';
COMMENT ON COLUMN agents.instance_pid IS 'Its process id there';
COMMENT ON COLUMN agents.incarnation IS 'The number of that run; writes of an older one are refused';
COMMENT ON COLUMN agents.live IS 'Whether its lease holds; only the commit that clears this ends a lease';
COMMENT ON COLUMN agents.lease_expires_at IS 'When the lease may be ended, by the database''s clock';
COMMENT ON COLUMN agents.last_heartbeat_at IS 'When the lease was last renewed';
COMMENT ON COLUMN agents.claim_number IS 'Rises with each claim; only the newest claim can be given work';
COMMENT ON COLUMN agents.cordoned IS 'Whether it is given no new sessions';
COMMENT ON COLUMN agents.cordon_reason IS 'Why it is cordoned';
COMMENT ON COLUMN agents.cordon_by IS 'By whom';
COMMENT ON COLUMN agents.cordon_since IS 'Since when';
COMMENT ON COLUMN agents.cordon_until IS 'When the cordon lifts by itself';
COMMENT ON COLUMN agents.offers_lapsed IS 'Offers in a row that it let lapse';
COMMENT ON COLUMN agents.passed_over_until IS 'It is offered nothing new before this time';
COMMENT ON COLUMN agents.expired_at IS 'When its lease ended';
COMMENT ON COLUMN agents.registered_at IS 'When this incarnation registered';
COMMENT ON COLUMN agents.created_at IS 'When the name was first registered';

CREATE TABLE agent_instances (
    agent       text COLLATE "C" NOT NULL REFERENCES agents (name) ON DELETE CASCADE,
    instance_id text NOT NULL,
    incarnation bigint NOT NULL,
    PRIMARY KEY (agent, instance_id)
);
COMMENT ON TABLE agent_instances IS 'Past instances of each agent, so that a superseded one is told so';
COMMENT ON COLUMN agent_instances.agent IS 'The agent';
COMMENT ON COLUMN agent_instances.instance_id IS 'The random id of the process';
COMMENT ON COLUMN agent_instances.incarnation IS 'The newest incarnation it had';

CREATE TABLE resource_domains (
    pool       text COLLATE "C" NOT NULL REFERENCES pools (name) ON DELETE CASCADE,
    name       text COLLATE "C" NOT NULL,
    lost_since timestamptz,
    PRIMARY KEY (pool, name)
);
COMMENT ON TABLE resource_domains IS 'Domains in which a pool has had agents, and since when one has no live agent';
COMMENT ON COLUMN resource_domains.pool IS 'The pool';
COMMENT ON COLUMN resource_domains.name IS 'The domain';
COMMENT ON COLUMN resource_domains.lost_since IS 'When its last live agent went, moved on by the length of every outage since; null while one is live';

CREATE TABLE sessions (
    id                        uuid PRIMARY KEY,
    name                      text COLLATE "C",
    agent_pool                text COLLATE "C" NOT NULL REFERENCES pools (name),
    platform                  text NOT NULL,
    region                    text,
    owner                     text,
    labels                    jsonb NOT NULL DEFAULT '{}',
    priority                  integer NOT NULL DEFAULT 0 CHECK (priority BETWEEN -1000 AND 1000),
    spec                      json NOT NULL,
    desired_state             text NOT NULL CHECK (desired_state IN ('running', 'hibernated', 'terminated')),
    state                     text NOT NULL CHECK (state IN ('pending', 'starting', 'running', 'hibernating',
                                  'hibernated', 'waking', 'terminating', 'terminated', 'failed')),
    generation                bigint NOT NULL DEFAULT 1,
    observed_generation       bigint NOT NULL DEFAULT 0 CHECK (observed_generation <= generation),
    lease_epoch               bigint NOT NULL DEFAULT 0,
    assigned_agent_id         text COLLATE "C",
    assigned_incarnation      bigint,
    assigned_action           text CHECK (assigned_action IN ('start', 'adopt', 'wake', 'hibernate', 'terminate', 'release')),
    offered_until             timestamptz,
    deliver_at                timestamptz,
    deliveries                integer NOT NULL DEFAULT 0,
    resource_domain           text COLLATE "C",
    platform_resource_id      text,
    platform_metadata         json NOT NULL DEFAULT '{}',
    endpoint                  json,
    requires                  jsonb NOT NULL DEFAULT '{}',
    prefers                   jsonb NOT NULL DEFAULT '{}',
    attempt                   integer NOT NULL DEFAULT 1,
    attempts_used             integer NOT NULL DEFAULT 0,
    not_before                timestamptz,
    held_back_until           timestamptz,
    domain_lost               boolean NOT NULL DEFAULT false,
    offers_lapsed             integer NOT NULL DEFAULT 0,
    avoid_agent               text COLLATE "C",
    avoid_until               timestamptz,
    phase_deadline_at         timestamptz,
    restart                   text NOT NULL CHECK (restart IN ('on_failure', 'never')),
    start_timeout_seconds     double precision,
    terminate_timeout_seconds double precision,
    idle_timeout_seconds      double precision,
    idle_action               text NOT NULL DEFAULT 'hibernate' CHECK (idle_action IN ('hibernate', 'terminate')),
    max_duration_seconds      double precision,
    grace_seconds             double precision,
    delete_data               boolean NOT NULL DEFAULT false,
    failure                   json,
    termination_reason        text,
    created_at                timestamptz NOT NULL,
    updated_at                timestamptz NOT NULL,
    queued_at                 timestamptz NOT NULL,
    started_at                timestamptz,
    ended_at                  timestamptz,
    version                   bigint NOT NULL DEFAULT 1,

    -- The order of a queue, as a column that only the queue's indexes serve: the planner can then
    -- not prefer another index and filter.
    queue_rank smallint NOT NULL GENERATED ALWAYS AS (-priority) STORED,

    -- What the agents of its resource domain could claim now. This is the action table of the
    -- protocol for a session that nobody is assigned to; `wake_hibernated` is the wake that needs
    -- a free slot.
    domain_work text GENERATED ALWAYS AS (
        CASE
            WHEN assigned_agent_id IS NOT NULL OR held_back_until IS NOT NULL OR resource_domain IS NULL THEN NULL
            WHEN state = 'terminated' OR (state = 'failed' AND desired_state <> 'terminated') THEN NULL
            WHEN desired_state = 'terminated' OR state = 'terminating' THEN 'terminate'
            WHEN desired_state = 'hibernated' THEN
                CASE WHEN state IN ('starting', 'waking', 'running', 'hibernating') THEN 'hibernate' END
            WHEN state = 'starting' THEN 'start'
            WHEN state = 'running' THEN 'adopt'
            WHEN state = 'hibernated' THEN 'wake_hibernated'
            WHEN state IN ('hibernating', 'waking') THEN 'wake'
        END) STORED,

    -- Whether any agent of the pool could start it now.
    pool_work text GENERATED ALWAYS AS (
        CASE
            WHEN assigned_agent_id IS NULL AND held_back_until IS NULL AND desired_state = 'running'
                AND (state = 'pending' OR (domain_lost AND state NOT IN ('terminating', 'terminated', 'failed')))
                THEN 'start'
        END) STORED,

    -- The next moment at which time alone changes something.
    due_at timestamptz GENERATED ALWAYS AS (least(offered_until, phase_deadline_at, held_back_until)) STORED,

    CONSTRAINT assignment_is_whole CHECK ((assigned_agent_id IS NULL) = (assigned_incarnation IS NULL)
        AND (assigned_agent_id IS NULL) = (assigned_action IS NULL)),
    CONSTRAINT only_an_assignment_is_offered CHECK (offered_until IS NULL OR assigned_agent_id IS NOT NULL),
    CONSTRAINT only_an_assignment_is_delivered CHECK (deliver_at IS NULL OR assigned_agent_id IS NOT NULL),
    CONSTRAINT only_a_hold_has_a_phase CHECK (phase_deadline_at IS NULL
        OR (assigned_agent_id IS NOT NULL AND offered_until IS NULL)),
    CONSTRAINT a_hold_has_a_domain CHECK (assigned_agent_id IS NULL OR offered_until IS NOT NULL
        OR resource_domain IS NOT NULL),
    CONSTRAINT what_came_up_has_a_domain CHECK (state IN ('pending', 'terminated', 'failed') OR resource_domain IS NOT NULL),
    CONSTRAINT what_rests_is_held_by_nobody CHECK (state NOT IN ('terminated') OR assigned_agent_id IS NULL),
    CONSTRAINT terminated_is_wanted CHECK (state <> 'terminated' OR desired_state = 'terminated'),
    CONSTRAINT only_what_ended_has_an_end CHECK ((ended_at IS NOT NULL) = (state IN ('terminated', 'failed'))),
    CONSTRAINT only_the_unassigned_is_held_back CHECK (held_back_until IS NULL OR assigned_agent_id IS NULL),
    CONSTRAINT a_lost_domain_is_a_domain CHECK (NOT domain_lost OR resource_domain IS NOT NULL)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);
CREATE UNIQUE INDEX sessions_by_name ON sessions (name) WHERE name IS NOT NULL;
CREATE INDEX sessions_by_pool ON sessions (agent_pool, id);
CREATE INDEX sessions_by_owner ON sessions (owner, id) WHERE owner IS NOT NULL;
CREATE INDEX sessions_by_assignee ON sessions (assigned_agent_id) WHERE assigned_agent_id IS NOT NULL;
CREATE INDEX sessions_to_deliver ON sessions (assigned_agent_id, deliver_at) WHERE deliver_at IS NOT NULL;
CREATE INDEX sessions_domain_queue ON sessions (agent_pool, resource_domain, domain_work, queue_rank, queued_at)
    WHERE domain_work IS NOT NULL;
CREATE INDEX sessions_start_queue ON sessions (agent_pool, queue_rank, queued_at) WHERE pool_work = 'start';
CREATE INDEX sessions_due ON sessions (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX sessions_avoiding ON sessions (avoid_agent, avoid_until) WHERE avoid_agent IS NOT NULL;
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE state = 'terminated';
COMMENT ON TABLE sessions IS 'What users run. A session belongs to a pool; an agent only holds it under its lease';
COMMENT ON COLUMN sessions.id IS 'A UUID, version 7';
COMMENT ON COLUMN sessions.name IS 'A second name, unique among the sessions kept';
COMMENT ON COLUMN sessions.agent_pool IS 'The pool it is bound to';
COMMENT ON COLUMN sessions.platform IS 'The pool''s platform';
COMMENT ON COLUMN sessions.region IS 'The pool''s region';
COMMENT ON COLUMN sessions.owner IS 'Whose it is';
COMMENT ON COLUMN sessions.labels IS 'Its labels';
COMMENT ON COLUMN sessions.priority IS 'Higher goes first';
COMMENT ON COLUMN sessions.spec IS 'What to run; opaque, kept as it was sent (json, not jsonb)';
COMMENT ON COLUMN sessions.desired_state IS 'What is wanted';
COMMENT ON COLUMN sessions.state IS 'What was last observed';
COMMENT ON COLUMN sessions.generation IS 'Rises when what is wanted changes';
COMMENT ON COLUMN sessions.observed_generation IS 'The newest generation that its agent has reported on';
COMMENT ON COLUMN sessions.lease_epoch IS 'The fencing token: rises with every assignment, never reset';
COMMENT ON COLUMN sessions.assigned_agent_id IS 'The present agent, never an owner';
COMMENT ON COLUMN sessions.assigned_incarnation IS 'The run of that agent';
COMMENT ON COLUMN sessions.assigned_action IS 'What it was last told to do';
COMMENT ON COLUMN sessions.offered_until IS 'When the offer lapses; null once it has been accepted';
COMMENT ON COLUMN sessions.deliver_at IS 'From when on the assignee''s claims return it again; null when there is nothing to say';
COMMENT ON COLUMN sessions.deliveries IS 'How often the present work has been returned';
COMMENT ON COLUMN sessions.resource_domain IS 'The cluster or host whose agents can reach its resource; set by acceptance';
COMMENT ON COLUMN sessions.platform_resource_id IS 'The pod, container or process that runs it';
COMMENT ON COLUMN sessions.platform_metadata IS 'What its agent keeps about the resource';
COMMENT ON COLUMN sessions.endpoint IS 'Where users reach it';
COMMENT ON COLUMN sessions.requires IS 'Labels that an agent must have';
COMMENT ON COLUMN sessions.prefers IS 'Labels that an agent should have';
COMMENT ON COLUMN sessions.attempt IS 'The number of the attempt; names resources, only rises';
COMMENT ON COLUMN sessions.attempts_used IS 'The count held against the pool''s max_attempts';
COMMENT ON COLUMN sessions.not_before IS 'It is not started before this time';
COMMENT ON COLUMN sessions.held_back_until IS 'It cannot be claimed before this time; cleared when the time has come';
COMMENT ON COLUMN sessions.domain_lost IS 'Its domain was given up by on_lost = restart: other domains may start it';
COMMENT ON COLUMN sessions.offers_lapsed IS 'Offers of it in a row that lapsed';
COMMENT ON COLUMN sessions.avoid_agent IS 'The agent that is not to get it again at once';
COMMENT ON COLUMN sessions.avoid_until IS 'Until when that agent is avoided';
COMMENT ON COLUMN sessions.phase_deadline_at IS 'When the hold is taken away unless there is progress';
COMMENT ON COLUMN sessions.restart IS 'Whether it is tried again when it fails';
COMMENT ON COLUMN sessions.start_timeout_seconds IS 'Its own start timeout; null: the pool''s';
COMMENT ON COLUMN sessions.terminate_timeout_seconds IS 'Its own terminate timeout; null: the pool''s';
COMMENT ON COLUMN sessions.idle_timeout_seconds IS 'After how long of idleness idle_action is taken';
COMMENT ON COLUMN sessions.idle_action IS 'What is done with an idle session';
COMMENT ON COLUMN sessions.max_duration_seconds IS 'How long it may run in all';
COMMENT ON COLUMN sessions.grace_seconds IS 'How long its resource has to end by itself';
COMMENT ON COLUMN sessions.delete_data IS 'Whether its data goes with it';
COMMENT ON COLUMN sessions.failure IS 'Why it failed, the last time it did';
COMMENT ON COLUMN sessions.termination_reason IS 'Why it was ended';
COMMENT ON COLUMN sessions.created_at IS 'When it was created';
COMMENT ON COLUMN sessions.updated_at IS 'When it last changed';
COMMENT ON COLUMN sessions.queued_at IS 'When it became claimable; the order within a priority';
COMMENT ON COLUMN sessions.started_at IS 'When it began to run in this attempt';
COMMENT ON COLUMN sessions.ended_at IS 'When it ended';
COMMENT ON COLUMN sessions.version IS 'The ETag; rises with every change that appends an event';
COMMENT ON COLUMN sessions.queue_rank IS 'The priority turned round, for the indexes of the queues';
COMMENT ON COLUMN sessions.domain_work IS 'What agents of its domain could claim now';
COMMENT ON COLUMN sessions.pool_work IS 'Whether any agent of the pool could start it now';
COMMENT ON COLUMN sessions.due_at IS 'The next moment at which time alone changes something';

CREATE TABLE lost_holds (
    agent            text COLLATE "C" NOT NULL,
    incarnation      bigint NOT NULL,
    session_id       uuid NOT NULL,
    lease_epoch      bigint NOT NULL,
    lease_expires_at timestamptz NOT NULL,
    PRIMARY KEY (agent, session_id)
);
COMMENT ON TABLE lost_holds IS 'Holds taken from live agents, repeated to them as lost until they say that they dropped them';
COMMENT ON COLUMN lost_holds.agent IS 'The agent they were taken from';
COMMENT ON COLUMN lost_holds.incarnation IS 'The run of it';
COMMENT ON COLUMN lost_holds.session_id IS 'The session';
COMMENT ON COLUMN lost_holds.lease_epoch IS 'The epoch of the hold that was taken';
COMMENT ON COLUMN lost_holds.lease_expires_at IS 'When the lease that it had then runs out';

CREATE TABLE leftovers (
    id                   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pool                 text COLLATE "C" NOT NULL,
    resource_domain      text COLLATE "C" NOT NULL,
    session_id           uuid NOT NULL,
    attempt              integer NOT NULL,
    platform_resource_id text,
    platform_metadata    json NOT NULL,
    reason               text NOT NULL,
    created_at           timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX leftovers_by_domain ON leftovers (pool, resource_domain);
COMMENT ON TABLE leftovers IS 'Platform resources that no session wants any more and that their domain must delete';
COMMENT ON COLUMN leftovers.id IS 'Its number';
COMMENT ON COLUMN leftovers.pool IS 'The pool of the session';
COMMENT ON COLUMN leftovers.resource_domain IS 'The domain that can reach it';
COMMENT ON COLUMN leftovers.session_id IS 'The session it ran; the session may be gone';
COMMENT ON COLUMN leftovers.attempt IS 'The attempt that named it';
COMMENT ON COLUMN leftovers.platform_resource_id IS 'Its name on the platform, if it was known';
COMMENT ON COLUMN leftovers.platform_metadata IS 'What the agent kept about it';
COMMENT ON COLUMN leftovers.reason IS 'Why it is not wanted';
COMMENT ON COLUMN leftovers.created_at IS 'Since when';

CREATE TABLE lease_ledger (
    session_id  uuid NOT NULL,
    lease_epoch bigint NOT NULL,
    agent       text NOT NULL,
    incarnation bigint NOT NULL,
    action      text NOT NULL,
    offered_at  timestamptz NOT NULL,
    accepted_at timestamptz,
    ended_at    timestamptz,
    end_reason  text,
    PRIMARY KEY (session_id, lease_epoch),
    CHECK ((ended_at IS NULL) = (end_reason IS NULL))
);
COMMENT ON TABLE lease_ledger IS 'Who held each session, under which epoch, from when to when, and why it ended';
COMMENT ON COLUMN lease_ledger.session_id IS 'The session';
COMMENT ON COLUMN lease_ledger.lease_epoch IS 'The epoch of the assignment';
COMMENT ON COLUMN lease_ledger.agent IS 'The agent';
COMMENT ON COLUMN lease_ledger.incarnation IS 'The run of it';
COMMENT ON COLUMN lease_ledger.action IS 'What it was to do';
COMMENT ON COLUMN lease_ledger.offered_at IS 'When it was offered';
COMMENT ON COLUMN lease_ledger.accepted_at IS 'When it was accepted';
COMMENT ON COLUMN lease_ledger.ended_at IS 'When it ended';
COMMENT ON COLUMN lease_ledger.end_reason IS 'Why it ended';

CREATE TABLE events (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        text NOT NULL,
    at          timestamptz NOT NULL,
    pool        text COLLATE "C" NOT NULL,
    session_id  uuid,
    agent       text COLLATE "C",
    incarnation bigint,
    lease_epoch bigint,
    generation  bigint,
    actor_type  text NOT NULL CHECK (actor_type IN ('system', 'agent', 'user', 'token')),
    actor_name  text NOT NULL,
    from_value  text,
    to_value    text,
    reason      text,
    data        jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX events_by_session ON events (session_id, id) WHERE session_id IS NOT NULL;
COMMENT ON TABLE events IS 'What happened, written in the transaction in which it happened';
COMMENT ON COLUMN events.id IS 'Its number; within a session in the order of the changes, since the session''s row was locked';
COMMENT ON COLUMN events.kind IS 'What happened';
COMMENT ON COLUMN events.at IS 'When';
COMMENT ON COLUMN events.pool IS 'In which pool';
COMMENT ON COLUMN events.session_id IS 'To which session';
COMMENT ON COLUMN events.agent IS 'With which agent';
COMMENT ON COLUMN events.incarnation IS 'Which run of it';
COMMENT ON COLUMN events.lease_epoch IS 'Under which lease epoch';
COMMENT ON COLUMN events.generation IS 'At which generation';
COMMENT ON COLUMN events.actor_type IS 'What kind of actor caused it';
COMMENT ON COLUMN events.actor_name IS 'Which actor';
COMMENT ON COLUMN events.from_value IS 'What it was before';
COMMENT ON COLUMN events.to_value IS 'What it became';
COMMENT ON COLUMN events.reason IS 'Why';
COMMENT ON COLUMN events.data IS 'What else belongs to it';

CREATE TABLE idempotency_keys (
    caller       text NOT NULL,
    method       text NOT NULL,
    path         text NOT NULL,
    key          text NOT NULL,
    body_sha256  bytea NOT NULL,
    status       integer,
    location     text,
    response     text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (caller, method, path, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
COMMENT ON TABLE idempotency_keys IS 'Answers to creating calls, kept for 24 h, written in the transaction that created';
COMMENT ON COLUMN idempotency_keys.caller IS 'Who called';
COMMENT ON COLUMN idempotency_keys.method IS 'The HTTP method';
COMMENT ON COLUMN idempotency_keys.path IS 'The path';
COMMENT ON COLUMN idempotency_keys.key IS 'The key that the caller chose';
COMMENT ON COLUMN idempotency_keys.body_sha256 IS 'The digest of the body it came with';
COMMENT ON COLUMN idempotency_keys.status IS 'The status that was answered; null only inside the transaction';
COMMENT ON COLUMN idempotency_keys.location IS 'The Location header that was answered';
COMMENT ON COLUMN idempotency_keys.response IS 'The body that was answered';
COMMENT ON COLUMN idempotency_keys.created_at IS 'When';

CREATE TABLE pulse (
    single   boolean PRIMARY KEY DEFAULT true CHECK (single),
    at       timestamptz NOT NULL,
    gap_at   timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE pulse IS 'One row that every server writes each second with its heartbeats: a gap in it is an outage';
COMMENT ON COLUMN pulse.single IS 'There is one row';
COMMENT ON COLUMN pulse.at IS 'The newest pulse';
COMMENT ON COLUMN pulse.gap_at IS 'The end of the newest outage: nothing expires for a lease time after it';

CREATE TABLE fences (
    single            boolean PRIMARY KEY DEFAULT true CHECK (single),
    lease_epoch_floor bigint NOT NULL DEFAULT 0,
    incarnation_floor bigint NOT NULL DEFAULT 0
);
INSERT INTO fences DEFAULT VALUES;
COMMENT ON TABLE fences IS 'Floors under the fencing tokens, raised after a restore so that agents that saw the future are fenced';
COMMENT ON COLUMN fences.single IS 'There is one row';
COMMENT ON COLUMN fences.lease_epoch_floor IS 'No assignment has an epoch below this';
COMMENT ON COLUMN fences.incarnation_floor IS 'No registration has an incarnation below this';
