//! What headers and fields say about the caller: how long it waits, for whom it asks, before whom it goes.

use std::{
    future::{Future, poll_fn},
    task::Poll,
    time::Duration,
};

use axum::http::header::AUTHORIZATION;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ribbon_core::{Refusal, SequenceRequest, StreamError};
use serde_json::json;
use tokio::time::Instant;

use super::*;

async fn asked_with(server: &Server, headers: &[(&str, &str)]) -> Answer {
    let mut request = post("/generate", json!({"inputs": "Hi"}).to_string());
    for (name, value) in headers {
        let name = header::HeaderName::try_from(*name).unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    Answer::read(server.call(request).await).await
}

fn deadline_in(request: &SequenceRequest) -> Option<Duration> {
    let deadline = Instant::from_std(request.deadline?);
    Some(deadline.saturating_duration_since(Instant::now()))
}

#[tokio::test(start_paused = true)]
async fn a_request_may_say_how_long_it_waits() {
    let mut settings = HttpSettings::new("demo");
    settings.request_timeout = Some(Duration::from_secs(40));
    let server = Server::with(FakeEngine::new(ended("a")), settings);
    asked_with(&server, &[("x-request-timeout", "2.5")]).await;
    assert_eq!(
        deadline_in(&server.engine.last()),
        Some(Duration::from_millis(2500))
    );
    asked_with(&server, &[]).await;
    assert_eq!(
        deadline_in(&server.engine.last()),
        Some(Duration::from_secs(40))
    );
}

#[tokio::test]
async fn a_time_that_is_none_is_refused_by_name() {
    let server = Server::saying(ended("a"));
    for bad in ["0", "-1", "nan", "inf", "1e9", "soon", ""] {
        let answer = asked_with(&server, &[("x-request-timeout", bad)]).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
        assert!(
            answer.text.contains("`X-Request-Timeout`"),
            "{}",
            answer.text
        );
    }
    let twice = [("x-request-timeout", "1"), ("x-request-timeout", "2")];
    let answer = asked_with(&server, &twice).await;
    assert!(answer.text.contains("twice"), "{}", answer.text);
    assert!(server.engine.asked.lock().unwrap().is_empty());
    asked_with(&server, &[]).await;
    assert_eq!(
        server.engine.last().deadline,
        None,
        "no time unless it is asked for"
    );
}

#[tokio::test]
async fn texts_that_are_only_tokenized_have_a_deadline_too() {
    let settings = HttpSettings {
        validation_workers: 1,
        ..HttpSettings::new("demo")
    };
    let server = Server::with(FakeEngine::new(ended("a")), settings);
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let long = 1 << 20;
    let mut held = Box::pin(server.state.workers.run(long, move || wait.recv()));
    let is_pending = poll_fn(|cx| Poll::Ready(held.as_mut().poll(cx).is_pending()));
    assert!(is_pending.await, "it holds the only place for long texts");
    let text = "a ".repeat(long as usize / 2);
    for (path, body) in [
        ("/tokenize", json!({"inputs": text})),
        (
            "/chat_tokenize",
            json!({"messages": [{"role": "user", "content": text}]}),
        ),
    ] {
        let mut request = post(path, body.to_string());
        let headers = request.headers_mut();
        headers.insert("x-request-timeout", "0.05".parse().unwrap());
        let answer = Answer::read(server.call(request).await).await;
        assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT, "{path}");
        assert_eq!(answer.json()["error_type"], "timeout", "{path}");
    }
    release.send(()).unwrap();
    held.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_expired_request_is_504_or_an_event() {
    let expired = || Item::Fail(StreamError::Expired);
    let server = Server::saying(vec![expired()]);
    let native = server
        .post("/generate_stream", &json!({"inputs": "Hi"}))
        .await;
    assert_eq!(
        (native.status, &native.json()["error_type"]),
        (StatusCode::GATEWAY_TIMEOUT, &json!("timeout"))
    );
    let openai = server
        .post("/v1/completions", &json!({"prompt": "Hi"}))
        .await;
    assert_eq!(
        (openai.status, &openai.json()["error"]["code"]),
        (StatusCode::GATEWAY_TIMEOUT, &json!("timeout"))
    );
    let mut script = tokens("a b");
    script.push(expired());
    let server = Server::saying(script);
    let stream = server
        .post("/generate_stream", &json!({"inputs": "Hi"}))
        .await;
    assert_eq!(stream.status, StatusCode::OK);
    assert_eq!(
        stream.json_events().last().unwrap()["error_type"],
        "timeout"
    );
}

#[tokio::test]
async fn tenants_are_told_apart_without_their_keys() {
    let server = Server::saying(ended("a"));
    let mut tenants = Vec::new();
    for (key, user) in [
        (None, None),
        (Some("Bearer secret"), None),
        (Some("Bearer secret"), Some("me")),
        (Some("Bearer secret"), Some("me")),
        (None, Some("me")),
        (Some("Bearer other"), Some("me")),
    ] {
        let mut request = post(
            "/v1/completions",
            json!({"prompt": "Hi", "user": user}).to_string(),
        );
        if let Some(key) = key {
            request
                .headers_mut()
                .insert(AUTHORIZATION, key.parse().unwrap());
        }
        assert_eq!(server.call(request).await.status(), StatusCode::OK);
        tenants.push(server.engine.last().tenant);
    }
    assert_eq!(tenants[0], None);
    assert_eq!(tenants[2], tenants[3]);
    let distinct: std::collections::HashSet<_> = tenants.iter().flatten().collect();
    assert_eq!(distinct.len(), 4);
    assert!(!format!("{tenants:?}").contains("secret"));
}

#[tokio::test]
async fn priority_and_salt_reach_the_engine_from_every_route() {
    let server = Server::saying(ended("a"));
    let fields = json!({"priority": -3, "cache_salt": "mine"});
    let openai = json!({"prompt": "Hi", "priority": -3, "cache_salt": "mine"});
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}], "priority": -3, "cache_salt": "mine"});
    for (path, body) in [
        ("/generate", json!({"inputs": "Hi", "parameters": fields})),
        ("/v1/completions", openai),
        ("/v1/chat/completions", chat),
    ] {
        let answer = server.post(path, &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let asked = server.engine.last();
        assert_eq!(
            (asked.priority, asked.cache_salt.as_deref()),
            (-3, Some("mine"))
        );
    }
}

#[tokio::test]
async fn a_text_is_weighed_before_it_is_tokenized() {
    let server = Server::saying(ended("a"));
    let inputs = "word ".repeat(32);
    server.post("/generate", &json!({"inputs": inputs})).await;
    let body = json!({"prompt": [5, 6, 7]});
    server.post("/v1/completions", &body).await;
    let rooms = server.engine.rooms.lock().unwrap();
    assert_eq!(
        (rooms[0], rooms[2]),
        (40, 3),
        "160 bytes at 4 a token; token ids are known"
    );
}

#[tokio::test]
async fn what_is_cut_away_is_not_weighed() {
    let server = Server::saying(ended("a"));
    let inputs = "word ".repeat(32);
    for truncate in [7, 50] {
        let body = json!({"inputs": inputs, "parameters": {"truncate": truncate}});
        server.post("/generate", &body).await;
    }
    let rooms = server.engine.rooms.lock().unwrap();
    let first_estimate = 40;
    assert_eq!(rooms[0], 7);
    assert!((8..=first_estimate).contains(&rooms[2]), "{rooms:?}");
}

#[tokio::test]
async fn a_refusal_by_an_estimate_says_so() {
    let mut engine = FakeEngine::new(Vec::new());
    engine.refusal = Some(Refusal::QueueFull {
        queued: 90,
        limit: 100,
        retry_after: Duration::from_secs(3),
    });
    let server = Server::with(engine, HttpSettings::new("demo"));
    let body = json!({"inputs": "word ".repeat(32)});
    let answer = server.post("/generate", &body).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let says = "this request has about 40, estimated by its 160 bytes";
    assert!(answer.text.contains(says), "{}", answer.text);
    let body = json!({"prompt": [5, 6, 7]});
    let answer = server.post("/v1/completions", &body).await;
    assert!(!answer.text.contains("estimated"), "{}", answer.text);
}

fn endless(path: &str) -> Request<Body> {
    let beginning = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{\"inp"))]);
    post(path, Body::from_stream(beginning.chain(stream::pending())))
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_given_up() {
    let server = Server::saying(ended("a"));
    for path in ["/generate", "/v1/completions"] {
        let answer = Answer::read(server.call(endless(path)).await).await;
        assert_eq!(answer.status, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(answer.header("connection"), "close");
        assert!(answer.text.contains("60 s"), "{}", answer.text);
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_covers_the_body() {
    let server = Server::saying(ended("a"));
    for path in ["/generate", "/v1/completions", "/tokenize"] {
        for (time, status) in [
            ("2.5", StatusCode::GATEWAY_TIMEOUT),
            ("100", StatusCode::REQUEST_TIMEOUT),
        ] {
            let mut request = endless(path);
            let time = time.parse().unwrap();
            request.headers_mut().insert("x-request-timeout", time);
            let answer = Answer::read(server.call(request).await).await;
            assert_eq!(answer.status, status, "{path}");
            assert_eq!(answer.header("connection"), "close");
        }
    }
    let mut settings = HttpSettings::new("demo");
    settings.request_timeout = Some(Duration::from_secs(40));
    let server = Server::with(FakeEngine::new(ended("a")), settings);
    let answer = Answer::read(server.call(endless("/generate")).await).await;
    assert_eq!(answer.json()["error_type"], "timeout");
}
