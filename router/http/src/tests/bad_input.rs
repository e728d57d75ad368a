//! Bad bodies, one row each: the status and the error that a client sees. The same rows must fail a stub that always says yes.

use axum::{Router, body::Body, http::header};
use serde_json::Value;
use tower::ServiceExt;

use super::*;

struct Row {
    path: &'static str,
    body: &'static [u8],
    status: u16,
    /// `error_type`, OpenAI's `type`, or `text` for a plain answer.
    kind: &'static str,
    /// Part of the message.
    says: &'static str,
}

const fn row(
    path: &'static str,
    body: &'static str,
    status: u16,
    kind: &'static str,
    says: &'static str,
) -> Row {
    Row {
        path,
        body: body.as_bytes(),
        status,
        kind,
        says,
    }
}

const GENERATE: &str = "/generate";
const STREAM: &str = "/generate_stream";
const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const INVALID: &str = "invalid_request_error";

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row(GENERATE, "", 400, "text", "EOF"),
    row(GENERATE, "{\"inputs\": \"Hi\"", 400, "text", "EOF"),
    row(GENERATE, "{\"inputs\": \"Hi\"} trailing", 400, "text", "trailing"),
    row(GENERATE, "nonsense", 400, "text", "expected"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"temperature": NaN}}"#, 400, "text", "line 1"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"temperature": Infinity}}"#, 400, "text", "line 1"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"temperature": 1e999}}"#, 400, "text", "out of range"),
    row(GENERATE, "[]", 422, "text", "sequence"),
    row(GENERATE, "{}", 422, "text", "inputs"),
    row(GENERATE, r#"{"inputs": null}"#, 422, "text", "inputs"),
    row(GENERATE, r#"{"inputs": ["Hi"]}"#, 422, "text", "inputs"),
    row(GENERATE, r#"{"inputs": "Hi", "inputs": "Ho"}"#, 422, "text", "duplicate"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": []}"#, 422, "text", "parameters"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"max_new_tokens": -1}}"#, 422, "text", "parameters.max_new_tokens"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"max_new_tokens": 1.5}}"#, 422, "text", "parameters.max_new_tokens"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"temperature": "hot"}}"#, 422, "text", "parameters.temperature"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"stop": [3]}}"#, 422, "text", "parameters.stop"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"seed": -1}}"#, 422, "text", "parameters.seed"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"seed": 18446744073709551616}}"#, 422, "text", "parameters.seed"),
    row(GENERATE, r#"{"inputs": "Hi", "stream": true}"#, 422, "validation", "/generate_stream"),
    row(GENERATE, r#"{"inputs": ""}"#, 422, "validation", "`inputs` is empty"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"temperature": 0}}"#, 422, "validation", "`temperature` is 0"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"temperature": -1}}"#, 422, "validation", "`temperature` is -1"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"temperature": 1e300}}"#, 422, "validation", "`temperature`"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"repetition_penalty": 0}}"#, 422, "validation", "`repetition_penalty`"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"repetition_penalty": 1e-40}}"#, 422, "validation", "`repetition_penalty`"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"frequency_penalty": 2.1}}"#, 422, "validation", "`frequency_penalty`"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"top_p": 0}}"#, 422, "validation", "`top_p`"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"top_p": 1.1}}"#, 422, "validation", "`top_p`"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"typical_p": -0.1}}"#, 422, "validation", "`typical_p`"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"top_k": 0}}"#, 422, "validation", "`top_k`"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"max_new_tokens": 0}}"#, 422, "validation", "`max_new_tokens` is 0"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"max_new_tokens": 9000}}"#, 422, "validation", "--max-total-tokens"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"max_new_tokens": 18446744073709551615}}"#, 422, "validation", "--max-total-tokens"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"stop": ["a", "b", "c", "d", "e"]}}"#, 422, "validation", "--max-stop-sequences"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"stop": [""]}}"#, 422, "validation", "`stop`"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"top_n_tokens": 6}}"#, 422, "validation", "--max-top-n-tokens"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"truncate": 0}}"#, 422, "validation", "`truncate`"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"truncate": 201}}"#, 422, "validation", "--max-input-tokens"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"best_of": 3}}"#, 422, "validation", "--max-best-of"),
    row(STREAM, r#"{"inputs": "Hi", "parameters": {"best_of": 0}}"#, 422, "validation", "`best_of`"),
    row(STREAM, r#"{"inputs": "Hi", "parameters": {"best_of": 2, "do_sample": true}}"#, 422, "validation", "a stream has exactly 1"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"best_of": 2}}"#, 422, "validation", "do_sample"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"best_of": 2, "do_sample": true, "seed": 1}}"#, 422, "validation", "`seed`"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"priority": 1000001}}"#, 422, "validation", "1000000"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"cache_salt": ""}}"#, 422, "validation", "`cache_salt`"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"max_new_tokens": 5000000000}}"#, 422, "validation", "5000000000 tokens"),
    row(STREAM, r#"{"inputs": ""}"#, 422, "validation", "`inputs`"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"min_tokens": 5, "max_new_tokens": 4}}"#, 422, "validation", "`min_tokens`"),
    row(GENERATE, r#"{"inputs": "Hi", "parameters": {"stop_token_ids": [2048]}}"#, 422, "validation", "`stop_token_ids`"),
    row("/", r#"{"inputs": "", "stream": true}"#, 422, "validation", "`inputs`"),
    row("/tokenize", r#"{"inputs": 3}"#, 422, "text", "inputs"),
    row("/tokenize", r#"{"inputs": "Hi", "parameterz": {}}"#, 422, "validation", "did you mean `parameters`?"),
    row("/tokenize", r#"{"inputs": "Hi", "parameters": {"truncat": 3}}"#, 422, "validation", "did you mean `truncate`?"),
    row(CHAT, "nonsense", 400, INVALID, "JSON"),
    row(CHAT, "{}", 422, INVALID, "`messages` is missing"),
    row(CHAT, r#"{"messages": []}"#, 422, INVALID, "`messages` is empty"),
    row(CHAT, r#"{"messages": "Hi"}"#, 422, INVALID, "messages"),
    row(CHAT, r#"{"messages": [{"content": "Hi"}]}"#, 422, INVALID, "`messages[0].role`"),
    row(CHAT, r#"{"messages": [{"role": "user", "content": "Hi"}], "n": 0}"#, 422, INVALID, "`n`"),
    row(CHAT, r#"{"messages": [{"role": "user", "content": "Hi"}], "n": 3}"#, 422, INVALID, "--max-best-of"),
    row(CHAT, r#"{"messages": [{"role": "user", "content": "Hi"}], "best_of": 2}"#, 422, INVALID, "/v1/completions"),
    row(CHAT, r#"{"messages": [{"role": "user"}]}"#, 422, INVALID, "`messages[0].content`"),
    row(CHAT, r#"{"messages": [{"role": "user", "content": 3}]}"#, 422, INVALID, "`messages[0].content`"),
    row(CHAT, r#"{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#, 422, INVALID, "`image_url`"),
    row(CHAT, r#"{"messages": [{"role": "assistant", "tool_calls": [{}]}]}"#, 422, INVALID, "`messages[0].tool_calls[0].function.name`"),
    row(CHAT, r#"{"messages": [{"role": "assistant", "function_call": {"arguments": "{}"}}]}"#, 422, INVALID, "`messages[0].function_call.name`"),
    row(CHAT, r#"{"messages": [{"role": "assistant", "content": null, "refusal": 3}]}"#, 422, INVALID, "`messages[0].refusal`"),
    row(CHAT, r#"{"messages": [{"role": "assistant", "content": null, "refusal": null}]}"#, 422, INVALID, "`messages[0].content`"),
    row(CHAT, r#"{"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": 3}]}]}"#, 422, INVALID, "`messages[0].content[0].refusal`"),
    row(CHAT, r#"{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "max_completion_tokens": 4}"#, 422, INVALID, "give one"),
    row(CHAT, r#"{"messages": [{"role": "user", "content": "Hi"}], "temperature": -1}"#, 422, INVALID, "`temperature`"),
    row(CHAT, r#"{"messages": [{"role": "user", "content": "Hi"}], "presence_penalty": 3}"#, 422, INVALID, "`presence_penalty`"),
    row(CHAT, r#"{"messages": [{"role": "user", "content": "Hi"}], "top_logprobs": 2}"#, 422, INVALID, "`logprobs: true`"),
    row(CHAT, r#"{"messages": [{"role": "user", "content": "Hi"}], "logprobs": true, "top_logprobs": 20}"#, 422, INVALID, "--max-top-n-tokens"),
    row(CHAT, r#"{"messages": [{"role": "user", "content": "Hi"}], "seed": 1.5}"#, 422, INVALID, r#""param":"seed""#),
    row(COMPLETIONS, r#"{"prompt": "Hi", "seed": 18446744073709551616}"#, 422, INVALID, r#""param":"seed""#),
    row(CHAT, r#"{"messages": [{"role": "user", "content": "Hi"}], "stream_options": {"include_usage": true}}"#, 422, INVALID, "`stream: true`"),
    row(CHAT, r#"{"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi"}"#, 422, INVALID, "`prompt`"),
    row(CHAT, r#"{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 500}"#, 422, INVALID, "--max-total-tokens"),
    row(COMPLETIONS, "{}", 422, INVALID, "`prompt` is missing"),
    row(COMPLETIONS, r#"{"prompt": ""}"#, 422, INVALID, "`prompt` is empty"),
    row(COMPLETIONS, r#"{"prompt": []}"#, 422, INVALID, "empty list"),
    row(COMPLETIONS, r#"{"prompt": [[]]}"#, 422, INVALID, "`prompt` is empty"),
    row(COMPLETIONS, r#"{"prompt": [2048]}"#, 422, INVALID, "2048"),
    row(COMPLETIONS, r#"{"prompt": [-1]}"#, 422, INVALID, "prompt"),
    row(COMPLETIONS, r#"{"prompt": ["a", 3]}"#, 422, INVALID, "a list of strings"),
    row(COMPLETIONS, r#"{"prompt": ["a", "b", "c", "d", "e"]}"#, 422, INVALID, "--max-client-batch-size"),
    row(COMPLETIONS, r#"{"prompt": "Hi", "messages": []}"#, 422, INVALID, "`messages`"),
];

/// What differs from the row; `None` if nothing does.
async fn mismatch(router: &Router, row: &Row, content_type: &str) -> Option<String> {
    let request = Request::post(row.path)
        .header(header::CONTENT_TYPE, content_type)
        .body(Body::from(row.body))
        .unwrap();
    let answer = Answer::read(router.clone().oneshot(request).await.unwrap()).await;
    let body: Value = serde_json::from_str(&answer.text).unwrap_or(Value::Null);
    let kind = [&body["error_type"], &body["error"]["type"]]
        .into_iter()
        .find_map(Value::as_str)
        .unwrap_or("text");
    let is_right =
        answer.status.as_u16() == row.status && kind == row.kind && answer.text.contains(row.says);
    (!is_right).then(|| {
        format!(
            "{} {}: {} {}",
            row.path,
            String::from_utf8_lossy(row.body),
            answer.status,
            answer.text
        )
    })
}

#[tokio::test]
async fn every_bad_body_has_its_answer() {
    let server = Server::saying(ended("a"));
    let mut wrong = Vec::new();
    for row in ROWS {
        wrong.extend(mismatch(&server.router, row, "application/json; charset=utf-8").await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(server.engine.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn no_row_passes_a_server_that_always_says_yes() {
    let stub = Router::new().fallback(|| async { "{}" });
    for row in ROWS {
        assert!(mismatch(&stub, row, "application/json").await.is_some());
    }
}

#[tokio::test]
async fn a_stop_string_may_be_long_but_not_endless() {
    let server = Server::saying(ended("a"));
    for (length, status) in [(16 << 10, 200), ((16 << 10) + 1, 422)] {
        let parameters = serde_json::json!({"stop": ["x".repeat(length)]});
        let body = serde_json::json!({"inputs": "Hi", "parameters": parameters});
        assert_eq!(server.post(GENERATE, &body).await.status.as_u16(), status);
    }
}

#[tokio::test]
async fn a_body_must_be_declared_as_json() {
    let server = Server::saying(ended("a"));
    let native = row(
        GENERATE,
        r#"{"inputs": "Hi"}"#,
        415,
        "text",
        "application/json",
    );
    let openai = row(
        COMPLETIONS,
        r#"{"prompt": "Hi"}"#,
        415,
        INVALID,
        "application/json",
    );
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "json"] {
        assert_eq!(mismatch(&server.router, &native, content_type).await, None);
        assert_eq!(mismatch(&server.router, &openai, content_type).await, None);
    }
}

#[tokio::test]
async fn a_prompt_may_be_as_long_as_the_limit() {
    let server = Server::saying(ended("a"));
    for (length, status) in [(200, 200), (201, 422)] {
        let answer = server
            .post(
                COMPLETIONS,
                &serde_json::json!({"prompt": vec![9; length], "max_tokens": 1}),
            )
            .await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    }
    for (room, status) in [(56, 200), (57, 422)] {
        let answer = server
            .post(
                COMPLETIONS,
                &serde_json::json!({"prompt": vec![9; 200], "max_tokens": room}),
            )
            .await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    }
    let long = server
        .post(
            GENERATE,
            &serde_json::json!({"inputs": "word ".repeat(300)}),
        )
        .await;
    assert_eq!(
        (long.status.as_u16(), &long.json()["error_type"]),
        (422, &serde_json::json!("validation"))
    );
}

#[tokio::test]
async fn a_name_too_long_to_be_misspelt_is_not_compared() {
    let server = Server::saying(Vec::new());
    for (behind, hint) in [
        (43, "did you mean `decoder_input_details`?"),
        (44, "leave it out"),
    ] {
        let name = format!("decoder_input_details{}", "x".repeat(behind));
        let body = serde_json::json!({"inputs": "Hi", "parameters": {name: true}});
        let answer = server.post("/generate", &body).await;
        assert!(answer.text.contains(hint), "{}", answer.text);
    }
}
