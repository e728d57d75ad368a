//! Health and readiness, clients that go away, and how requests are counted.

use std::{future::Future, time::Duration};

use axum::http::StatusCode;
use ribbon_core::EngineState;
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet, time::timeout};

use super::*;

async fn statuses(server: &Server) -> [u16; 4] {
    let mut statuses = [0; 4];
    for (status, path) in statuses.iter_mut().zip(["/health", "/", "/live", "/ready"]) {
        *status = server.get(path).await.status.as_u16();
    }
    statuses
}

#[tokio::test]
async fn probes_follow_the_engine() {
    let server = Server::saying(Vec::new());
    for (state, expected) in [
        (EngineState::Starting, [503, 503, 200, 503]),
        (EngineState::Ready, [200, 200, 200, 200]),
        (EngineState::Recovering, [503, 503, 200, 503]),
        (EngineState::Draining, [200, 200, 200, 503]),
    ] {
        *server.engine.state.lock().unwrap() = state;
        assert_eq!(statuses(&server).await, expected, "{state:?}");
    }
    let is_gone = &server.engine.shard_is_gone;
    is_gone.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(
        statuses(&server).await,
        [503, 503, 200, 503],
        "it drains, and its shard is gone"
    );
    *server.engine.state.lock().unwrap() = EngineState::Recovering;
    assert_eq!(
        server.get("/health").await.json(),
        json!({"error": "unhealthy", "error_type": "healthcheck"})
    );
    assert_eq!(server.get("/ready").await.header("retry-after"), "5");
}

#[tokio::test]
async fn before_the_first_shard_requests_are_told_to_come_back() {
    let mut engine = FakeEngine::new(Vec::new());
    engine.limits = None;
    *engine.state.lock().unwrap() = EngineState::Starting;
    let server = Server::with(engine, HttpSettings::new("demo"));
    for (path, body) in [
        ("/generate", json!({"inputs": "Hi"})),
        ("/generate_stream", json!({"inputs": "Hi"})),
        ("/v1/completions", json!({"prompt": "Hi"})),
    ] {
        let answer = server.post(path, &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("retry-after")),
            (503, "5")
        );
    }
    assert_eq!(
        server.get("/info").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn while_recovering_requests_are_taken() {
    let server = Server::saying(ended("a"));
    *server.engine.state.lock().unwrap() = EngineState::Recovering;
    assert_eq!(
        server
            .post("/generate", &json!({"inputs": "Hi"}))
            .await
            .status,
        StatusCode::OK
    );
    *server.engine.state.lock().unwrap() = EngineState::Draining;
    let answer = server.post("/generate", &json!({"inputs": "Hi"})).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error_type"]),
        (503, &json!("shutting_down"))
    );
}

#[tokio::test]
async fn a_leaving_server_takes_its_connections_with_it() {
    let server = Server::saying(ended("a"));
    assert!(
        server
            .get("/ready")
            .await
            .headers
            .get("connection")
            .is_none()
    );
    *server.engine.state.lock().unwrap() = EngineState::Draining;
    for path in ["/ready", "/health", "/nowhere"] {
        assert_eq!(
            server.get(path).await.header("connection"),
            "close",
            "{path}"
        );
    }
}

#[tokio::test]
async fn info_has_the_resolved_limits() {
    let server = Server::saying(Vec::new());
    insta::assert_snapshot!("info", server.get("/info").await.text);
}

fn slow() -> Vec<Item> {
    let mut script = tokens("a");
    script.push(Item::Pause(Duration::from_hours(1)));
    script.extend(ended("b"));
    script
}

async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Drops a call once the engine has been asked for so many sequences in all.
async fn give_up(server: &Server, call: impl Future, asked: usize) {
    let reached = until(|| server.engine.asked.lock().unwrap().len() == asked);
    tokio::select! {
        _ = call => panic!("the call ended by itself"),
        () = reached => {}
    }
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_sequence_with_it() {
    let server = Server::saying(slow());
    let (one, two) = (json!({"inputs": "Hi"}), json!({"prompt": ["a", "b"]}));
    give_up(&server, server.post("/generate", &one), 1).await;
    give_up(&server, server.post("/generate_stream", &one), 2).await;
    give_up(&server, server.post("/v1/completions", &two), 4).await;
    assert_eq!(server.engine.alive(), 0);
    assert_eq!(server.sample("tgi_request_failure{err=\"dropped\"}"), 3);
}

#[tokio::test]
async fn a_closed_connection_is_noticed_streamed_or_not() {
    let server = Server::saying(slow());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    let router = server.router.clone();
    tasks.spawn(async move { axum::serve(listener, router).await });
    for path in ["/generate", "/generate_stream"] {
        let mut connection = TcpStream::connect(address).await.unwrap();
        let body = json!({"inputs": "Hi"}).to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        connection
            .write_all((head + &body).as_bytes())
            .await
            .unwrap();
        timeout(
            Duration::from_secs(10),
            until(|| server.engine.alive() == 1),
        )
        .await
        .unwrap();
        drop(connection);
        timeout(
            Duration::from_secs(10),
            until(|| server.engine.alive() == 0),
        )
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn each_request_is_counted_once() {
    let server = Server::saying(ended("ab"));
    server.post("/generate", &json!({"inputs": "Hi"})).await;
    server
        .post(
            "/v1/chat/completions",
            &json!({"messages": [{"role": "user", "content": "Hi"}], "stream": true}),
        )
        .await;
    server
        .post("/v1/completions", &json!({"prompt": ["a", "b"]}))
        .await;
    server.post("/generate", &json!({"inputs": ""})).await;
    server
        .post("/v1/completions", &json!({"prompt": 3.5}))
        .await;
    server.post("/tokenize", &json!({"inputs": "Hi"})).await;
    server.get("/health").await;
    server.get("/v1/completions").await;
    assert_eq!(server.sample("tgi_request_count"), 5);
    assert_eq!(server.sample("tgi_request_success"), 3);
    assert_eq!(server.sample("tgi_request_failure{err=\"validation\"}"), 2);
    for name in [
        "duration",
        "queue_duration",
        "inference_duration",
        "validation_duration",
        "mean_time_per_token_duration",
        "generated_tokens",
    ] {
        assert_eq!(
            server.sample(&format!("tgi_request_{name}_count")),
            4,
            "{name}"
        );
    }
    assert_eq!(server.sample("tgi_request_input_length_count"), 4);
    assert_eq!(server.sample("tgi_request_max_new_tokens_count"), 4);
    let generated = ended("ab").len() as u64;
    assert_eq!(
        server.sample("tgi_request_generated_tokens_sum"),
        4 * generated
    );
    assert_eq!(server.sample("ribbon_time_to_first_token_seconds_count"), 4);
    assert_eq!(
        server.sample("ribbon_inter_token_seconds_count"),
        4 * (generated - 1)
    );
}

/// Prompt and generated tokens of requests that ended so.
fn spent(server: &Server, outcome: &str) -> [u64; 2] {
    ["prompt", "generated"].map(|kind| {
        let labels = format!("{{kind=\"{kind}\",outcome=\"{outcome}\"}}");
        server.sample(&format!("ribbon_spent_tokens_total{labels}"))
    })
}

#[tokio::test]
async fn what_a_request_cost_is_known_however_it_ends() {
    let prompt = tokenizer().encode("Hi", SpecialTokens::Add).unwrap().len() as u64;
    let begun = tokens("a").len() as u64;
    let stream = json!({"inputs": "Hi"}).to_string();

    let server = Server::saying(ended("ab"));
    let body = json!({"prompt": "Hi", "n": 2, "temperature": 1});
    server.post("/v1/completions", &body).await;
    let whole = 2 * ended("ab").len() as u64;
    assert_eq!(spent(&server, "done"), [prompt, whole]);

    let server = Server::saying(slow());
    let response = server.call(post("/generate_stream", stream.clone())).await;
    assert_eq!(spent(&server, "dropped"), [0, 0]);
    drop(response);
    assert_eq!(spent(&server, "dropped"), [prompt, begun]);

    let mut script = tokens("a");
    script.push(Item::Break);
    let server = Server::saying(script);
    Answer::read(server.call(post("/generate_stream", stream)).await).await;
    assert_eq!(spent(&server, "failed"), [prompt, begun]);
}
