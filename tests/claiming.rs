//! Claims: who gets which session, and how soon.

use std::time::{Duration, Instant};

use lessor_protocol::{Action, ReportedState, SessionState};

use crate::support::TestServer;

#[tokio::test]
async fn a_session_goes_from_post_to_running_to_terminated() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 2).await;
    let session = server.session("p").await;
    let assignment = agent.runs_one().await;
    assert_eq!(
        (assignment.action, assignment.session.id),
        (Action::Start, session.id)
    );
    assert_eq!(server.get(session.id).await.state, SessionState::Running);
    server
        .client
        .delete_session(&session.id.to_string(), &Default::default())
        .await
        .expect("202");
    let end = agent.claim(0, 5.0).await.pop().expect("its end is told");
    assert_eq!(end.action, Action::Terminate);
    agent.accepts(&end, ReportedState::Terminated).await;
    assert_eq!(server.get(session.id).await.state, SessionState::Terminated);
    server.stop().await;
}

#[tokio::test]
async fn a_session_posted_while_an_agent_is_parked_reaches_it_at_once() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 2).await;
    let parked = agent.park(1, 20.0);
    server.has_parked("p", 1).await;
    let posted = Instant::now();
    let session = server.session("p").await;
    let claimed = parked.await.expect("the task").expect("it may claim");
    let took = posted.elapsed();
    assert_eq!(claimed.assignments[0].session.id, session.id);
    assert!(took < Duration::from_secs(1), "took {took:?}");
    server.stop().await;
}
