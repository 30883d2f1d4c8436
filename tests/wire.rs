//! The wire without TLS: both versions of HTTP, slow clients, crowds, other sites, proxies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lessor::app::Settings;
use lessor::http::Proxies;
use lessor::wire::Limits;
use lessor_protocol::Heartbeat;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{TestServer, database, eventually};

async fn server(limits: Limits, change: impl FnOnce(&mut Settings)) -> TestServer {
    TestServer::wired(database().await, change, limits, None).await
}

fn address(server: &TestServer) -> &str {
    server.url.trim_start_matches("http://")
}

async fn connect(server: &TestServer) -> TcpStream {
    TcpStream::connect(address(server))
        .await
        .expect("it connects")
}

/// What comes until the other end closes, at most for 20 s.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut got = Vec::new();
    let read = stream.read_to_end(&mut got);
    let ended = tokio::time::timeout(Duration::from_secs(20), read).await;
    // A reset is an end, too.
    let _ = ended.expect("it is closed in time");
    String::from_utf8_lossy(&got).into_owned()
}

/// A connection that speaks HTTP/2 from its first byte.
async fn h2(server: &TestServer) -> h2::client::SendRequest<bytes::Bytes> {
    let (send, connection) = h2::client::handshake(connect(server).await)
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    send.ready().await.expect("ready")
}

async fn call(
    send: &h2::client::SendRequest<bytes::Bytes>,
    method: &str,
    path: &str,
    body: Option<String>,
) -> (u16, String) {
    let request = http::Request::builder()
        .method(method)
        .uri(format!("http://lessor{path}"))
        .header("content-type", "application/json")
        .body(())
        .expect("a request");
    let mut send = send.clone().ready().await.expect("ready");
    let (answer, mut stream) = send
        .send_request(request, body.is_none())
        .expect("it is sent");
    if let Some(body) = body {
        stream.send_data(body.into(), true).expect("it is sent");
    }
    let answer = answer.await.expect("an answer");
    let status = answer.status().as_u16();
    let mut body = answer.into_body();
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.expect("data");
        text.extend_from_slice(&data);
        let _ = body.flow_control().release_capacity(data.len());
    }
    (status, String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn polls_and_beats_share_one_http2_connection() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 3).await;
    let send = h2(&server).await;
    let claim = serde_json::to_string(&agent.claim_body(1, 30.0)).expect("JSON");
    let parked = tokio::spawn({
        let send = send.clone();
        async move { call(&send, "POST", "/v1/agents/a/claim", Some(claim)).await }
    });
    server.has_parked("p", 1).await;
    let beat = Heartbeat {
        incarnation: agent.incarnation,
        activity: Vec::new(),
        dropped: Vec::new(),
    };
    let beat = serde_json::to_string(&beat).expect("JSON");
    let (status, text) = call(&send, "POST", "/v1/agents/a/heartbeat", Some(beat)).await;
    assert_eq!(status, 200, "{text}");
    let (status, text) = call(&send, "GET", "/v1/nothing", None).await;
    assert_eq!(status, 404, "{text}");
    assert!(text.contains("urn:lessor:problem:not_found"), "{text}");
    let session = server.session("p").await;
    let (status, text) = parked.await.expect("it ends");
    assert_eq!(status, 200);
    assert!(text.contains(&session.id.to_string()), "{text}");
    // A stop ends the connection once its requests are answered.
    let other = server.agent("b", "p", "d", 3).await;
    let claim = serde_json::to_string(&other.claim_body(0, 30.0)).expect("JSON");
    let parked = tokio::spawn({
        let send = send.clone();
        async move { call(&send, "POST", "/v1/agents/b/claim", Some(claim)).await }
    });
    server.has_parked("p", 1).await;
    server.stop().await;
    assert_eq!(parked.await.expect("it ends").0, 200);
}

#[tokio::test]
async fn slow_clients_are_cut_off() {
    let limits = Limits {
        slow_after: Duration::from_secs(1),
        ..Limits::default()
    };
    let server = server(limits, |_| {}).await;
    let begun = Instant::now();
    let begin: [&[u8]; 5] = [
        b"",
        b"P",
        b"PRI * HT",
        b"GET /v1 HTTP/1.1\r\nHost: x\r\nX-Long: ",
        b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
    ];
    let mut ends = Vec::new();
    for begin in begin {
        let mut stream = connect(&server).await;
        stream.write_all(begin).await.expect("it is sent");
        ends.push(tokio::spawn(async move { until_closed(&mut stream).await }));
    }
    let mut said = Vec::new();
    for (end, begin) in ends.into_iter().zip(begin) {
        said.push((
            String::from_utf8_lossy(begin),
            end.await.expect("it is cut off"),
        ));
    }
    // Not at once: who takes his time is no slow client.
    assert!(begun.elapsed() >= Duration::from_millis(900));
    assert!(said[4].1.starts_with("HTTP/1.1 400"), "{said:?}");
    assert!(said[4].1.contains("did not come within 1 s"), "{said:?}");
    assert_eq!(server.fetch("/healthz").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn an_http2_connection_on_which_nothing_is_asked_is_closed() {
    let limits = Limits {
        slow_after: Duration::from_secs(1),
        ..Limits::default()
    };
    let server = server(limits, |_| {}).await;
    let (send, connection) = h2::client::handshake(connect(&server).await)
        .await
        .expect("HTTP/2");
    let open = tokio::spawn(connection);
    let send = send.ready().await.expect("ready");
    assert_eq!(call(&send, "GET", "/healthz", None).await.0, 200);
    // It is told to go, and answers to what it asked before.
    let ended = tokio::time::timeout(Duration::from_secs(20), open).await;
    ended
        .expect("it is closed in time")
        .expect("its task")
        .expect("in order");
    server.stop().await;
}

#[tokio::test]
async fn who_does_not_read_his_answers_is_cut_off() {
    let limits = Limits {
        slow_after: Duration::from_secs(1),
        ..Limits::default()
    };
    let server = server(limits, |_| {}).await;
    let mut stream = connect(&server).await;
    // Half a megabyte each, pipelined, and none of it is read.
    let request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(200);
    let _ = stream.write_all(&request).await;
    eventually("it is cut off", || async {
        server.metric("lessor_connections").await < 2.0
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn connections_are_limited_in_all_and_of_one_address() {
    for limits in [
        Limits {
            connections: 3,
            ..Limits::default()
        },
        Limits {
            connections_per_address: Some(3),
            ..Limits::default()
        },
    ] {
        let server = server(limits, |_| {}).await;
        let mut held = Vec::new();
        for _ in 0..3 {
            let mut stream = connect(&server).await;
            stream
                .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .expect("it is sent");
            let mut begin = [0; 15];
            stream.read_exact(&mut begin).await.expect("an answer");
            assert_eq!(&begin, b"HTTP/1.1 200 OK");
            held.push(stream);
        }
        let said = until_closed(&mut connect(&server).await).await;
        assert!(said.starts_with("HTTP/1.1 503"), "{said}");
        assert!(said.contains("Retry-After: 1"), "{said}");
        drop(held);
        // Places come back.
        eventually("there is room again", || async {
            let answer = reqwest::get(format!("{}/healthz", server.url)).await;
            answer.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_trusted_proxy_may_have_more_connections_than_one_address() {
    let limits = Limits {
        connections_per_address: Some(1),
        proxies: Proxies::new(vec!["127.0.0.0/8".parse().expect("a network")]),
        ..Limits::default()
    };
    let server = server(limits, |_| {}).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = connect(&server).await;
        let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).await.expect("it is sent");
        let mut begin = [0; 15];
        stream.read_exact(&mut begin).await.expect("an answer");
        assert_eq!(&begin, b"HTTP/1.1 200 OK");
        held.push(stream);
    }
    server.stop().await;
}

#[tokio::test]
async fn heads_are_limited() {
    let server = TestServer::start().await;
    let thousand: String = (0..1_000).map(|n| format!("X-{n}: y\r\n")).collect();
    let long = format!("X-Long: {}\r\n", "y".repeat(100_000));
    let target = format!("/{}", "p".repeat(100_000));
    for (what, request) in [
        (
            "a thousand headers",
            format!("GET /v1 HTTP/1.1\r\nHost: x\r\n{thousand}\r\n"),
        ),
        (
            "a long header",
            format!("GET /v1 HTTP/1.1\r\nHost: x\r\n{long}\r\n"),
        ),
        (
            "a long target",
            format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"),
        ),
    ] {
        let mut stream = connect(&server).await;
        let _ = stream.write_all(request.as_bytes()).await;
        let said = until_closed(&mut stream).await;
        let refused =
            said.is_empty() || said.starts_with("HTTP/1.1 431") || said.starts_with("HTTP/1.1 414");
        assert!(refused, "{what}: {said}");
    }
    // Over HTTP/2 it is the stream that is refused.
    let send = h2(&server).await;
    let mut request = http::Request::get("http://lessor/v1");
    for n in 0..1_000 {
        request = request.header(format!("x-{n}"), "y".repeat(100));
    }
    let mut sender = send.clone().ready().await.expect("ready");
    let sent = sender.send_request(request.body(()).expect("a request"), true);
    let refused = match sent {
        Ok((answer, _)) => answer.await.map_or(true, |answer| answer.status() == 431),
        Err(_) => true,
    };
    assert!(refused);
    assert_eq!(server.fetch("/healthz").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn callers_are_limited_and_agents_are_not() {
    let limits = Limits {
        proxies: Proxies::new(vec!["127.0.0.1/32".parse().expect("a network")]),
        ..Limits::default()
    };
    let server = server(limits, |settings| settings.rate_limit_per_minute = Some(5)).await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 1).await;
    for _ in 0..20 {
        agent.beat().await.expect("agents are not counted");
        agent.claim(1, 0.0).await;
    }
    // The pool was one of the five.
    let answer = server.fetch("/v1/pools/p").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("ratelimit-policy"), "\"calls\";q=5;w=60");
    assert!(
        answer.header("ratelimit").starts_with("\"calls\";r=3;t="),
        "{answer:?}"
    );
    let mut last = answer;
    for _ in 0..4 {
        last = server.fetch("/v1/pools/p").await;
    }
    last.is_problem(429, "rate_limited", "the sixth call");
    let wait: u32 = last.header("retry-after").parse().expect("seconds");
    assert!((1..=12).contains(&wait), "{last:?}");
    assert!(
        last.header("ratelimit").starts_with("\"calls\";r=0;t="),
        "{last:?}"
    );
    assert_eq!(server.fetch("/healthz").await.status, 200);
    // Another client of the same proxy, and another token, are others.
    let elsewhere = [("x-forwarded-for", "198.51.100.9")];
    let other = server.raw("GET", "/v1/pools/p", &elsewhere, "").await;
    assert_eq!(other.status, 200);
    let token = [("authorization", "Bearer other")];
    assert_eq!(
        server.raw("GET", "/v1/pools/p", &token, "").await.status,
        200
    );
    agent.beat().await.expect("agents are not counted");
    server.stop().await;
}

#[tokio::test]
async fn guesses_of_one_address_are_counted_together() {
    let server = server(Limits::default(), |settings| {
        settings.rate_limit_per_minute = Some(3);
        settings.admin_token = Some("s3cret".into());
    })
    .await;
    let mut statuses = Vec::new();
    for n in 0..5 {
        let guess = format!("Bearer guess-{n}");
        let headers = [("authorization", guess.as_str())];
        statuses.push(server.raw("GET", "/v1/pools", &headers, "").await.status);
    }
    assert_eq!(statuses, [401, 401, 401, 429, 429]);
    server.stop().await;
}

#[tokio::test]
async fn other_sites_are_kept_out_unless_they_are_named() {
    let asked = |origin| {
        [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            (
                "access-control-request-headers",
                "authorization,idempotency-key",
            ),
        ]
    };
    let closed = TestServer::start().await;
    for method in ["OPTIONS", "GET"] {
        let answer = closed
            .raw(method, "/v1/pools", &asked("https://a.example"), "")
            .await;
        let says = answer
            .headers
            .keys()
            .any(|name| name.as_str().starts_with("access-control-"));
        assert!(!says, "{answer:?}");
    }
    closed.stop().await;
    let open = server(Limits::default(), |settings| {
        settings.cors_origins = vec!["https://a.example".parse().expect("a header")];
        settings.admin_token = Some("s3cret".into());
    })
    .await;
    let preflight = open
        .raw("OPTIONS", "/v1/sessions", &asked("https://a.example"), "")
        .await;
    assert_eq!(preflight.status, 200, "{preflight:?}");
    assert_eq!(
        preflight.header("access-control-allow-origin"),
        "https://a.example"
    );
    assert!(
        preflight
            .header("access-control-allow-headers")
            .contains("idempotency-key")
    );
    assert_eq!(preflight.header("access-control-allow-credentials"), "");
    let other = open
        .raw("OPTIONS", "/v1/sessions", &asked("https://b.example"), "")
        .await;
    assert_eq!(other.header("access-control-allow-origin"), "", "{other:?}");
    // Refusals can be read by the page, too.
    let refused = open
        .raw("GET", "/v1/pools", &[("origin", "https://a.example")], "")
        .await;
    assert_eq!(refused.status, 401);
    assert_eq!(
        refused.header("access-control-allow-origin"),
        "https://a.example"
    );
    open.stop().await;
}

#[tokio::test]
async fn pages_and_answers_have_the_headers_that_keep_browsers_in_line() {
    let server = TestServer::start().await;
    let page = server.fetch("/docs/").await;
    assert_eq!(page.status, 200);
    for (name, part) in [
        ("content-security-policy", "default-src 'self'"),
        ("content-security-policy", "frame-ancestors 'none'"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert!(page.header(name).contains(part), "{name}: {page:?}");
    }
    assert!(
        !page.text.contains("<script>"),
        "an inline script would not run: {}",
        page.text
    );
    for path in ["/v1/pools", "/v1/nothing", "/metrics", "/openapi.json"] {
        let answer = server.fetch(path).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn many_connections_come_and_go_without_a_trace() {
    let server = Arc::new(server(Limits::default(), |_| {}).await);
    let crowd: Vec<_> = (0..200)
        .map(|n| {
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                let mut stream = connect(&server).await;
                let all = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
                let part = &all[..if n % 2 == 0 { all.len() } else { n % all.len() }];
                let _ = stream.write_all(part).await;
                if n % 2 == 0 {
                    let said = until_closed(&mut stream).await;
                    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
                }
            })
        })
        .collect();
    for one in crowd {
        one.await.expect("it went well");
    }
    eventually("their connections are gone", || async {
        server.metric("lessor_connections").await < 2.0
    })
    .await;
}
