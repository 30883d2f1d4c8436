//! The tables that Diesel's own query builder is used on; the migrations are the truth.

#![allow(
    missing_docs,
    reason = "the migration comments on every table and column"
)]

diesel::table! {
    pools (name) {
        name -> Text,
        platform -> Text,
        region -> Nullable<Text>,
        lease_ttl_seconds -> Double,
        accept_timeout_seconds -> Double,
        placement -> Text,
        on_lost -> Text,
        adopt_timeout_seconds -> Double,
        max_attempts -> Integer,
        attempt_reset_seconds -> Double,
        backoff_initial_seconds -> Double,
        backoff_max_seconds -> Double,
        start_timeout_seconds -> Double,
        terminate_timeout_seconds -> Double,
        inventory_every_seconds -> Double,
        quarantine_seconds -> Double,
        keep_ended_seconds -> Double,
        agent_retention_seconds -> Double,
        slots_per_agent -> Integer,
        labels -> Jsonb,
        version -> BigInt,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    agents (name) {
        name -> Text,
        pool -> Text,
        resource_domain -> Text,
        capacity -> Integer,
        slots_used -> Integer,
        labels -> Jsonb,
        agent_version -> Nullable<Text>,
        protocol_version -> Integer,
        instance_id -> Nullable<Text>,
        instance_host -> Nullable<Text>,
        instance_pid -> Nullable<BigInt>,
        incarnation -> BigInt,
        live -> Bool,
        lease_expires_at -> Timestamptz,
        last_heartbeat_at -> Timestamptz,
        claim_number -> BigInt,
        cordoned -> Bool,
        cordon_reason -> Nullable<Text>,
        cordon_by -> Nullable<Text>,
        cordon_since -> Nullable<Timestamptz>,
        cordon_until -> Nullable<Timestamptz>,
        offers_lapsed -> Integer,
        passed_over_until -> Nullable<Timestamptz>,
        expired_at -> Nullable<Timestamptz>,
        registered_at -> Timestamptz,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    sessions (id) {
        id -> Uuid,
        name -> Nullable<Text>,
        agent_pool -> Text,
        platform -> Text,
        region -> Nullable<Text>,
        owner -> Nullable<Text>,
        labels -> Jsonb,
        priority -> Integer,
        spec -> Json,
        desired_state -> Text,
        state -> Text,
        generation -> BigInt,
        observed_generation -> BigInt,
        lease_epoch -> BigInt,
        assigned_agent_id -> Nullable<Text>,
        assigned_incarnation -> Nullable<BigInt>,
        assigned_action -> Nullable<Text>,
        offered_until -> Nullable<Timestamptz>,
        deliver_at -> Nullable<Timestamptz>,
        deliveries -> Integer,
        resource_domain -> Nullable<Text>,
        platform_resource_id -> Nullable<Text>,
        platform_metadata -> Json,
        endpoint -> Nullable<Json>,
        requires -> Jsonb,
        prefers -> Jsonb,
        attempt -> Integer,
        attempts_used -> Integer,
        not_before -> Nullable<Timestamptz>,
        held_back_until -> Nullable<Timestamptz>,
        domain_lost -> Bool,
        offers_lapsed -> Integer,
        avoid_agent -> Nullable<Text>,
        avoid_until -> Nullable<Timestamptz>,
        phase_deadline_at -> Nullable<Timestamptz>,
        restart -> Text,
        start_timeout_seconds -> Nullable<Double>,
        terminate_timeout_seconds -> Nullable<Double>,
        idle_timeout_seconds -> Nullable<Double>,
        idle_action -> Text,
        max_duration_seconds -> Nullable<Double>,
        grace_seconds -> Nullable<Double>,
        delete_data -> Bool,
        failure -> Nullable<Json>,
        termination_reason -> Nullable<Text>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        queued_at -> Timestamptz,
        started_at -> Nullable<Timestamptz>,
        ended_at -> Nullable<Timestamptz>,
        version -> BigInt,
    }
}

diesel::table! {
    events (id) {
        id -> BigInt,
        kind -> Text,
        at -> Timestamptz,
        pool -> Text,
        session_id -> Nullable<Uuid>,
        agent -> Nullable<Text>,
        incarnation -> Nullable<BigInt>,
        lease_epoch -> Nullable<BigInt>,
        generation -> Nullable<BigInt>,
        actor_type -> Text,
        actor_name -> Text,
        from_value -> Nullable<Text>,
        to_value -> Nullable<Text>,
        reason -> Nullable<Text>,
        data -> Jsonb,
    }
}

diesel::table! {
    lease_ledger (session_id, lease_epoch) {
        session_id -> Uuid,
        lease_epoch -> BigInt,
        agent -> Text,
        incarnation -> BigInt,
        action -> Text,
        offered_at -> Timestamptz,
        accepted_at -> Nullable<Timestamptz>,
        ended_at -> Nullable<Timestamptz>,
        end_reason -> Nullable<Text>,
    }
}

diesel::table! {
    commands (id) {
        id -> Uuid,
        seq -> BigInt,
        session_id -> Uuid,
        kind -> Text,
        payload -> Json,
        status -> Text,
        redeliver -> Bool,
        lease_epoch -> Nullable<BigInt>,
        agent -> Nullable<Text>,
        result -> Nullable<Json>,
        failure -> Nullable<Json>,
        deadline_at -> Timestamptz,
        created_at -> Timestamptz,
        delivered_at -> Nullable<Timestamptz>,
        finished_at -> Nullable<Timestamptz>,
        holder -> Nullable<Text>,
        deliver_at -> Nullable<Timestamptz>,
        deliveries -> Integer,
        open -> Bool,
    }
}
