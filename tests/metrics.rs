//! What `/metrics` shows: the names that the protocol pins, each with the number that a short story leads
//! to, and counters that are there before there is anything to count.

use lessor_protocol::{ProblemCode, ReportedState};

use crate::support::checks::refused;
use crate::support::{TestAgent, TestServer, eventually, report};

#[tokio::test]
async fn what_is_counted_is_there_from_the_beginning() {
    let server = TestServer::start().await;
    for line in [
        "lessor_claim_statements_total",
        "lessor_leases_expired_total",
        "lessor_outages_total",
        "lessor_phase_timeouts_total{phase=\"terminate\"}",
        "lessor_reports_total{outcome=\"accepted\"}",
        "lessor_reports_total{outcome=\"fenced\"}",
        "lessor_reports_total{outcome=\"rejected\"}",
        "lessor_drains_total{status=\"started\"}",
        "lessor_drains_total{status=\"completed\"}",
        "lessor_drains_total{status=\"cancelled\"}",
        "lessor_drains_total{status=\"failed\"}",
        "lessor_sessions_handed_over_total",
    ] {
        assert_eq!(server.metric(line).await, 0.0, "{line}");
    }
    server.stop().await;
}

#[tokio::test]
async fn reports_are_counted_by_their_outcome() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 5).await;
    server.session("p").await;
    let given = agent.runs_one().await;
    agent.accepts(&given, ReportedState::Running).await;
    let mut stale = report(&given, ReportedState::Running);
    stale.lease_epoch += 1;
    // No way leads from running back to there.
    let back = report(&given, ReportedState::Starting);
    let results = agent.try_report(vec![stale, back.clone(), back]).await;
    assert_eq!(results.expect("an answer").len(), 3);
    for (outcome, count) in [("accepted", 2.0), ("fenced", 1.0), ("rejected", 2.0)] {
        let line = format!("lessor_reports_total{{outcome=\"{outcome}\"}}");
        assert_eq!(server.metric(&line).await, count, "{outcome}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_waits_is_shown_by_pool() {
    let server = TestServer::start().await;
    for pool in ["busy", "idle"] {
        server.pool(pool, |_| {}).await;
    }
    server.sessions("busy", 3).await;
    let of = |name: &str, pool: &str| format!("lessor_{name}{{pool=\"{pool}\"}}");
    let waiting = of("sessions_waiting", "busy");
    eventually("they are seen to wait", || async {
        server.find_metric(&waiting).await == Some(3.0)
    })
    .await;
    let oldest = of("oldest_waiting_seconds", "busy");
    eventually("the oldest has waited for some time", || async {
        server.metric(&oldest).await > 0.0
    })
    .await;
    assert_eq!(server.metric(&of("sessions_waiting", "idle")).await, 0.0);
    let oldest = of("oldest_waiting_seconds", "idle");
    assert_eq!(server.metric(&oldest).await, 0.0);
    // Parked polls are counted as they come and go.
    let agent = server.agent("a", "idle", "d", 1).await;
    let parked = agent.park(1, 50.0);
    server.has_parked("idle", 1).await;
    server.session("idle").await;
    parked.await.expect("the task").expect("an answer");
    server.has_parked("idle", 0).await;
    for kind in ["work", "often", "beats"] {
        let open = format!("lessor_db_connections{{kind=\"{kind}\",state=\"open\"}}");
        assert!(server.metric(&open).await >= 1.0, "{kind}");
        let idle = format!("lessor_db_connections{{kind=\"{kind}\",state=\"idle\"}}");
        assert!(server.metric(&idle).await >= 0.0, "{kind}");
    }
    server.stop().await;
}

#[tokio::test]
async fn requests_are_counted_by_route() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    for _ in 0..3 {
        server.session("p").await;
    }
    let unknown = server.client.get_session("nobody").await;
    assert_eq!(refused(unknown), ProblemCode::SessionNotFound);
    for (method, route, status, count) in [
        ("PUT", "/v1/pools/{pool}", 201, 1.0),
        ("POST", "/v1/sessions", 201, 3.0),
        ("GET", "/v1/sessions/{session}", 404, 1.0),
    ] {
        let line = format!(
            "lessor_http_requests_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}"
        );
        assert_eq!(server.metric(&line).await, count, "{line}");
    }
    let timed =
        "lessor_http_request_duration_seconds_count{method=\"POST\",route=\"/v1/sessions\"}";
    assert_eq!(server.metric(timed).await, 3.0);
    server.stop().await;
}

#[tokio::test]
async fn a_lease_that_ends_and_an_end_that_hangs_are_alarms() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| pool.terminate_timeout_seconds = 1.0)
        .await;
    server.pool("q", |pool| pool.lease_ttl_seconds = 2.0).await;
    let agent = server.agent("a", "p", "d", 5).await;
    let session = server.session("p").await;
    agent.runs_one().await;
    let hangs = "lessor_phase_timeouts_total{phase=\"terminate\"}";
    assert_eq!(server.metric(hangs).await, 0.0);
    let how = lessor_client::DeleteSession::default();
    let id = session.id.to_string();
    server.client.delete_session(&id, &how).await.expect("202");
    let end = agent.claim(1, 5.0).await.remove(0);
    agent.accepts(&end, ReportedState::Terminating).await;
    // It accepted the end, and goes no further.
    eventually("that it hangs is noticed", || async {
        server.metric(hangs).await >= 1.0
    })
    .await;
    // One that is never renewed.
    let mut silent = TestAgent::new(&server.client, "silent", ("q", "e"), 1);
    silent.register(&[]).await;
    eventually("its lease ends", || async {
        server.metric("lessor_leases_expired_total").await == 1.0
    })
    .await;
    server.stop().await;
}
