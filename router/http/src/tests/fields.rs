//! Fields that are not read: refused by name, unless they ask for nothing.

use serde_json::{Value, json};

use super::*;

/// Every parameter of a route that is not built yet, with a value that asks for something.
/// A field's name and a value for it.
type Field = (&'static str, fn() -> Value);

const NATIVE: [Field; 2] = [
    ("adapter_id", || json!("mine")),
    ("presence_penalty", || json!(1.0)),
];

const OPENAI: [Field; 8] = [
    (
        "tools",
        || json!([{"type": "function", "function": {"name": "f"}}]),
    ),
    ("tool_choice", || json!("required")),
    ("suffix", || json!("x")),
    ("functions", || json!([{"name": "f"}])),
    ("chat_template_kwargs", || json!({"a": 1})),
    ("reasoning_effort", || json!("low")),
    ("length_penalty", || json!(0.5)),
    ("top_logprobs", || json!(1)),
];

#[tokio::test]
async fn what_is_not_built_is_refused_by_name() {
    let server = Server::saying(ended("a"));
    for (name, value) in NATIVE {
        let answer = server
            .post(
                "/generate",
                &json!({"inputs": "Hi", "parameters": {name: value()}}),
            )
            .await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error_type"]),
            (422, &json!("validation")),
            "{name}"
        );
        assert!(
            answer.json()["error"]
                .as_str()
                .unwrap()
                .contains(&format!("`{name}`")),
            "{}",
            answer.text
        );
    }
    for (name, value) in OPENAI {
        let answer = server
            .post("/v1/completions", &json!({"prompt": "Hi", name: value()}))
            .await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status.as_u16(), &error["param"]),
            (422, &json!(name)),
            "{}",
            answer.text
        );
    }
    assert!(server.engine.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn null_asks_for_nothing() {
    let server = Server::saying(ended("a"));
    for (name, _) in NATIVE {
        let answer = server
            .post(
                "/generate",
                &json!({"inputs": "Hi", "parameters": {name: null}}),
            )
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{name}: {}", answer.text);
    }
    for (name, _) in OPENAI {
        let answer = server
            .post("/v1/completions", &json!({"prompt": "Hi", name: null}))
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{name}: {}", answer.text);
    }
}

#[tokio::test]
async fn an_unknown_field_is_refused_with_the_nearest_name() {
    let server = Server::saying(ended("a"));
    let answer = server
        .post(
            "/generate",
            &json!({"inputs": "Hi", "parameters": {"max_tokens": 3}}),
        )
        .await;
    assert_eq!(answer.status.as_u16(), 422);
    let answer = server
        .post(
            "/generate",
            &json!({"inputs": "Hi", "parameters": {"temprature": 3}}),
        )
        .await;
    assert_eq!(
        answer.json()["error"],
        "Input validation error: `temprature` is no parameter of this route; did you mean `temperature`?"
    );
    let answer = server
        .post("/generate", &json!({"inputs": "Hi", "paramters": {}}))
        .await;
    assert!(
        answer.json()["error"]
            .as_str()
            .unwrap()
            .ends_with("did you mean `parameters`?")
    );
    let answer = server
        .post("/generate", &json!({"inputs": "Hi", "foo": 1}))
        .await;
    assert_eq!(
        answer.json()["error"],
        "Input validation error: `foo` is no parameter of this route; leave it out",
        "nothing is like it"
    );
}

#[tokio::test]
async fn the_openai_routes_ignore_what_they_do_not_know() {
    let server = Server::saying(ended("a"));
    let unknown = json!({"max_completion_token": 3, "x_mine": {"a": [1]}, "guideline_id": "b"});
    let mut completion = unknown.clone();
    completion["prompt"] = json!("Hi");
    let mut chat = unknown;
    chat["messages"] = json!([{"role": "user", "content": "Hi"}]);
    for (path, body) in [
        ("/v1/completions", completion),
        ("/v1/chat/completions", chat),
    ] {
        let answer = server.post(path, &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        assert!(server.engine.last().max_new_tokens > 3);
    }
}

#[tokio::test]
async fn a_bias_reaches_the_engine_or_is_refused_by_its_token() {
    let server = Server::saying(ended("a"));
    let bias = |bias: Value| json!({"prompt": "Hi", "logit_bias": bias});
    for (given, passed) in [
        (
            json!({"5": -100, "2047": 0.5}),
            vec![(2047, 0.5), (5, -100.0)],
        ),
        (json!({}), vec![]),
        (json!([]), vec![]),
        (json!(null), vec![]),
    ] {
        let answer = server.post("/v1/completions", &bias(given)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        assert_eq!(server.engine.last().sampling.logit_bias, passed);
    }
    for (given, says) in [
        (json!({"2048": 1}), "token id 2048"),
        (json!({"hello": 1}), "`hello`"),
        (json!({"-1": 1}), "`-1`"),
        (json!({"5": 100.5}), "<= 100"),
        (json!({"5": "x"}), "logit_bias"),
        (json!([1.0]), "logit_bias"),
    ] {
        let answer = server.post("/v1/completions", &bias(given.clone())).await;
        assert_eq!(answer.status.as_u16(), 422, "{given}");
        assert!(answer.text.contains(says), "{given}: {}", answer.text);
    }
    let many: Value = (0..1025).map(|id| (id.to_string(), json!(1))).collect();
    let answer = server.post("/v1/completions", &bias(many)).await;
    assert!(answer.text.contains("the limit is 1024"), "{}", answer.text);
}
