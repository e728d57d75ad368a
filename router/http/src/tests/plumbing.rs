//! Unknown paths and methods, scrapes, and bodies at the limit.

use std::{
    future::{Future, poll_fn},
    task::Poll,
};

use axum::http::{Method, StatusCode};
use serde_json::json;

use super::*;

async fn call(server: &Server, method: Method, path: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .body(Body::empty())
        .unwrap();
    Answer::read(server.call(request).await).await
}

#[tokio::test]
async fn unknown_paths_and_methods_are_json_under_v1_only() {
    let server = Server::saying(Vec::new());
    for (method, path, status) in [
        (Method::GET, "/v1/nothing", 404),
        (Method::POST, "/v1/embeddings", 404),
        (Method::GET, "/v1/completions", 405),
    ] {
        let answer = call(&server, method, path).await;
        assert_eq!(answer.status.as_u16(), status);
        assert_eq!(
            answer.json()["error"]["type"],
            "invalid_request_error",
            "{path}"
        );
    }
    for (method, path, status) in [
        (Method::GET, "/nothing", 404),
        (Method::GET, "/generate", 405),
        (Method::PUT, "/", 405),
    ] {
        let answer = call(&server, method, path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text.as_str()),
            (status, ""),
            "{path}"
        );
    }
    assert_eq!(
        call(&server, Method::GET, "/generate")
            .await
            .header("allow"),
        "POST"
    );
    assert_eq!(
        call(&server, Method::GET, "/v1/completions")
            .await
            .header("allow"),
        "POST"
    );
}

#[tokio::test]
async fn metrics_answer_get_and_head_and_every_name_is_described() {
    let server = Server::saying(ended("a"));
    server.post("/generate", &json!({"inputs": "Hi"})).await;
    let answer = server.get("/metrics").await;
    assert!(answer.header("content-type").starts_with("text/plain"));
    let head = call(&server, Method::HEAD, "/metrics").await;
    assert_eq!((head.status, head.text.as_str()), (StatusCode::OK, ""));
    let described: Vec<&str> = answer
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next())
        .collect();
    for line in answer
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
    {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(described.contains(&name), "{name} has no HELP");
        assert!(
            kind == "counter" || kind == "histogram",
            "{name} is a {kind}"
        );
    }
    assert!(
        answer
            .text
            .contains("tgi_request_duration_bucket{le=\"0.00015000000000000001\"}"),
        "{}",
        answer.text
    );
    assert!(answer.text.lines().count() < 1200);
}

#[tokio::test]
async fn a_body_may_be_as_large_as_the_limit() {
    let settings = HttpSettings {
        payload_limit: 64,
        ..HttpSettings::new("demo")
    };
    let server = Server::with(FakeEngine::new(ended("a")), settings);
    let body = |length: usize| format!("{:length$}", json!({"inputs": "Hi"}).to_string());
    assert_eq!(
        server.call(post("/generate", body(64))).await.status(),
        StatusCode::OK
    );
    assert_eq!(
        server.call(post("/generate", body(65))).await.status(),
        StatusCode::PAYLOAD_TOO_LARGE
    );
    let chunks = futures_util::stream::iter([Ok::<_, std::io::Error>(body(65))]);
    let undeclared = server
        .call(post("/generate", Body::from_stream(chunks)))
        .await;
    assert_eq!(undeclared.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_trace_context_goes_on_to_the_engine() {
    let server = Server::saying(ended("a"));
    let context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (sent, passed) in [
        (context, Some(context)),
        ("00-xyz", None),
        (
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            None,
        ),
    ] {
        let mut request = post("/generate", json!({"inputs": "Hi"}).to_string());
        request
            .headers_mut()
            .insert("traceparent", sent.parse().unwrap());
        server.call(request).await;
        assert_eq!(server.engine.last().traceparent.as_deref(), passed);
    }
}

#[tokio::test]
async fn web_pages_may_call() {
    let server = Server::saying(ended("a"));
    let preflight = Request::options("/generate")
        .header("origin", "http://page.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type");
    let answer = Answer::read(server.call(preflight.body(Body::empty()).unwrap()).await).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("access-control-allow-methods"), "GET,POST");
    assert_eq!(
        answer.header("access-control-allow-headers"),
        "content-type,authorization,x-request-timeout"
    );
    let vary = "origin, access-control-request-method, access-control-request-headers";
    assert_eq!(answer.header("vary"), vary);
    for path in ["/health", "/nowhere"] {
        let answer = server.get(path).await;
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert_eq!(answer.header("vary"), vary, "{path}");
    }
}

#[tokio::test]
async fn too_long_has_openais_code() {
    let server = Server::saying(ended("a"));
    let body = json!({"prompt": "Hi", "max_tokens": 500});
    let answer = server.post("/v1/completions", &body).await;
    let error = &answer.json()["error"];
    assert_eq!(
        (&error["code"], &error["param"]),
        (&json!("context_length_exceeded"), &json!("max_tokens"))
    );
}

#[tokio::test]
async fn a_text_far_too_long_is_refused_by_its_beginning() {
    let server = Server::saying(ended("a"));
    let text = "a b ".repeat(100_000);
    let chat = json!([{"role": "user", "content": text}]);
    for (path, body) in [
        ("/generate", json!({"inputs": text})),
        ("/v1/completions", json!({"prompt": ["Hi", text]})),
        ("/v1/chat/completions", json!({"messages": chat})),
    ] {
        let answer = server.post(path, &body).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
        let says = "more than 200 tokens; this server allows 200 (`--max-input-tokens`)";
        assert!(answer.text.contains(says), "{}", answer.text);
        // What LangChain and LiteLLM know a prompt that is too long by.
        for words in ["exceeds the context window", "exceed context limit"] {
            assert!(answer.text.contains(words), "{}", answer.text);
        }
    }
    assert!(server.engine.asked.lock().unwrap().is_empty());
    let cut = json!({"inputs": text, "parameters": {"truncate": 3}});
    let answer = server.post("/generate", &cut).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(server.engine.last().prompt.len(), 3);
}

#[tokio::test]
async fn the_kv_memory_is_shown_only_where_the_operator_asked_for_it() {
    let closed = Server::saying(Vec::new());
    let answer = closed.get("/debug/ribbons").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let mut settings = HttpSettings::new("demo");
    settings.debug_routes = true;
    let open = Server::with(FakeEngine::new(Vec::new()), settings);
    let shown = open.get("/debug/ribbons").await.json();
    for name in ["pages", "slots", "free_slots", "storages"] {
        assert!(shown.get(name).is_some(), "{name}: {shown}");
    }
    *open.engine.state.lock().unwrap() = ribbon_core::EngineState::Recovering;
    let answer = open.get("/debug/ribbons").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_request_without_a_validation_place_is_told_when_to_come_again() {
    let settings = HttpSettings {
        max_concurrent_requests: 0,
        validation_workers: 1,
        ..HttpSettings::new("demo")
    };
    let server = Server::with(FakeEngine::new(ended("a")), settings);
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let mut held = Box::pin(server.state.workers.run(0, move || wait.recv()));
    let is_pending = poll_fn(|cx| Poll::Ready(held.as_mut().poll(cx).is_pending()));
    assert!(is_pending.await);
    let no_short_text = json!({"inputs": "Hi ".repeat(100)});
    for path in ["/generate", "/tokenize"] {
        let answer = server.post(path, &no_short_text).await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{path}");
        assert_eq!(answer.header("retry-after"), "7", "the engine's advice");
        assert!(answer.text.contains("--validation-workers"));
    }
    let turned_away = &server.engine.turned_away;
    assert_eq!(turned_away.load(std::sync::atomic::Ordering::SeqCst), 2);
    let ids = json!({"prompt": [5, 6, 7]});
    for (path, body) in [
        ("/generate", &json!({"inputs": "Hi"})),
        ("/v1/completions", &ids),
    ] {
        let answer = server.post(path, body).await;
        assert_eq!(
            answer.status,
            StatusCode::OK,
            "{path} needs no place: {}",
            answer.text
        );
    }
    release.send(()).unwrap();
    held.await.unwrap().unwrap();
    let answer = server.post("/tokenize", &no_short_text).await;
    assert_eq!(answer.status, StatusCode::OK);
}
