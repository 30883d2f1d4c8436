//! Every operation that takes a body, given what is none: cut short, too deep, too large for 64 bits, no
//! text. And what an `Idempotency-Key` promises, in any order.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::TestServer;
use crate::support::random::Random;

/// Operations with a body: method, path, example.
fn with_bodies() -> Vec<(String, String, String)> {
    let document = lessor::api::openapi();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            for (_, content) in operation["requestBody"]["content"]
                .as_object()
                .into_iter()
                .flatten()
            {
                let example = content.get("example").or_else(|| {
                    content["examples"]
                        .as_object()?
                        .values()
                        .next()?
                        .get("value")
                });
                let example = example.expect("an example").to_string();
                let path = path.replace("{pool}", "p").replace("{agent}", "a");
                let path = path.replace(['{', '}'], "x");
                found.push((method.to_uppercase(), path, example));
            }
        }
    }
    assert!(found.len() > 15, "{found:?}");
    found
}

/// The example with one of its values replaced by this text, for each of its fields.
fn replaced(example: &str, by: &str) -> Vec<String> {
    let Value::Object(fields) = serde_json::from_str(example).expect("JSON") else {
        return Vec::new();
    };
    let with = |name: &String| {
        let parts: Vec<String> = fields
            .iter()
            .map(|(key, value)| {
                let value = if key == name {
                    by.to_owned()
                } else {
                    value.to_string()
                };
                format!("{}:{value}", Value::from(key.as_str()))
            })
            .collect();
        format!("{{{}}}", parts.join(","))
    };
    fields.keys().map(with).collect()
}

#[tokio::test]
async fn no_operation_stumbles_over_a_body_that_is_none() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let deep = format!("{}1{}", "[".repeat(1_000), "]".repeat(1_000));
    let deep_object = format!("{}1{}", "{\"a\":".repeat(1_000), "}".repeat(1_000));
    for (method, path, example) in with_bodies() {
        let at = format!("{method} {path}");
        let half = example.len() / 2;
        let mut malformed: Vec<Vec<u8>> = vec![
            example.as_bytes()[..half].to_vec(),
            example.as_bytes()[..example.len() - 1].to_vec(),
            format!("{example}{example}").into_bytes(),
            deep.clone().into_bytes(),
            deep_object.clone().into_bytes(),
            b"{\"x\":\"\xff\xfe\"}".to_vec(),
            b"{\"x\":\"\xed\xa0\x80\"}".to_vec(),
            b"\xef\xbb\xbf{}".to_vec(),
            b"{\"x\":\"\\ud800\"}".to_vec(),
        ];
        malformed.extend(
            replaced(&example, &deep)
                .into_iter()
                .map(String::into_bytes),
        );
        for body in malformed {
            let answer = server.send(&method, &path, body.clone()).await;
            // What is half a surrogate is a value that cannot be, and no fault of the syntax.
            let refused = [400, 404, 422].contains(&answer.status);
            assert!(
                refused,
                "{at}: {:?} {answer:?}",
                String::from_utf8_lossy(&body)
            );
            let syntax = serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_err();
            if syntax || body.len() > 2_000 {
                assert_ne!(answer.status, 422, "{at}: {answer:?}");
            }
        }
        for number in [
            "9223372036854775808",
            "-9223372036854775809",
            "340282366920938463463374607431768211456",
            "1e400",
            "-1e400",
            "0.00000000000000000000000000000000001e-400",
        ] {
            for body in replaced(&example, number) {
                let answer = server.send(&method, &path, body.clone()).await;
                assert!(answer.status < 500, "{at}: {body} {answer:?}");
                assert!(!answer.text.contains("internal"), "{at}: {body} {answer:?}");
            }
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_ends_early_leaves_nothing_behind() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let address = server.url.trim_start_matches("http://").to_owned();
    tokio::task::spawn_blocking(move || {
        let body = "{\"pool\":\"p\",\"spec\":{}}";
        for sent in [0, 1, body.len() - 1] {
            for framing in [format!("Content-Length: {}", body.len()), "Transfer-Encoding: chunked".to_owned()] {
                let mut socket = std::net::TcpStream::connect(&address).expect("it connects");
                let timeout = Some(Duration::from_secs(20));
                socket.set_read_timeout(timeout).expect("set");
                let part = if framing.starts_with('T') {
                    format!("{:x}\r\n{}", body.len(), &body[..sent])
                } else {
                    body[..sent].to_owned()
                };
                let request = format!(
                    "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{framing}\r\n\r\n{part}"
                );
                socket.write_all(request.as_bytes()).expect("it is sent");
                socket.shutdown(std::net::Shutdown::Write).expect("it ends");
                let mut answer = String::new();
                let _ = socket.read_to_string(&mut answer);
                let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 400");
                assert!(refused, "{answer}");
            }
        }
    })
    .await
    .expect("it went well");
    let none = server.fetch("/v1/sessions").await.ok(200);
    assert_eq!(none["items"], json!([]));
    server.stop().await;
}

/// A model of what keys promise: by path and key, the body and its answer.
#[tokio::test]
async fn a_key_has_one_effect_and_one_answer_whatever_comes_between() {
    let random = Random::seeded();
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let mut known: HashMap<(&str, String), (String, Value)> = HashMap::new();
    let mut made = 0;
    for n in 0..200 {
        let path = *random.pick(&["/v1/sessions", "/v1/sessions/batch"]);
        let key = format!("k{}", random.below(12));
        let quoted = format!("\"{key}\"");
        let one = json!({"pool": "p", "spec": {"n": random.below(2)}});
        let body = if path.ends_with("batch") {
            json!({"sessions": [one]}).to_string()
        } else {
            one.to_string()
        };
        // Now and then it is a body that fails: that is remembered by nobody.
        let fails = random.percent(10);
        let sent = if fails {
            "{\"pool\":7}".to_owned()
        } else {
            body.clone()
        };
        let header = if random.percent(50) { &key } else { &quoted };
        let headers = [
            ("content-type", "application/json"),
            ("idempotency-key", header.as_str()),
        ];
        let answer = server.raw("POST", path, &headers, sent).await;
        match known.get(&(path, key.clone())) {
            _ if fails => assert_eq!(answer.status, 422, "{n}: {answer:?}"),
            None => {
                assert_eq!(answer.header("idempotency-replayed"), "", "{n}");
                made += 1;
                known.insert((path, key), (body, answer.ok(201)));
            }
            Some((first, _)) if *first != body => {
                answer.is_problem(422, "idempotency_key_reused", "another body");
            }
            Some((_, said)) => {
                assert_eq!(answer.header("idempotency-replayed"), "true", "{n}");
                assert_eq!(&answer.ok(201), said, "{n}");
            }
        }
    }
    let all = crate::support::checks::count(&server, "SELECT count(*) FROM sessions").await;
    assert_eq!(all, made);
    server.stop().await;
}
