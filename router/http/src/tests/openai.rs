//! `/v1/chat/completions`, `/v1/completions`, `/v1/models`: bytes of answers, and what the engine is asked.

use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::*;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

#[expect(
    clippy::needless_pass_by_value,
    reason = "callers write the fields in place"
)]
fn chat(fields: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn a_chat_answer() {
    let server = Server::saying(ended("Hello €"));
    let answer = server
        .post(CHAT, &chat(json!({"model": "tgi", "max_tokens": 20})))
        .await;
    assert_eq!(answer.header("content-type"), "application/json");
    answer.header("x-compute-time").parse::<f64>().unwrap();
    assert_snapshot!("chat", stable(&answer.text));
    let prompt = tokenizer()
        .encode(
            "<|begin|><|user|>Hi<|end|><|assistant|>",
            SpecialTokens::Skip,
        )
        .unwrap();
    assert_eq!(server.engine.last().prompt[..], prompt[..]);
}

#[tokio::test]
async fn a_chat_stream() {
    let server = Server::saying(ended("Hello €"));
    let fields =
        json!({"stream": true, "stream_options": {"include_usage": true}, "model": "mine"});
    assert_snapshot!(
        "chat_stream",
        stable(&server.post(CHAT, &chat(fields)).await.text)
    );
}

#[tokio::test]
async fn chat_logprobs_come_with_bytes_and_top_tokens() {
    let server = Server::saying(ended("a"));
    let fields = json!({"logprobs": true, "top_logprobs": 2});
    assert_snapshot!(
        "chat_logprobs",
        stable(&server.post(CHAT, &chat(fields.clone())).await.text)
    );
    let mut streamed = fields;
    streamed["stream"] = json!(true);
    let events = server.post(CHAT, &chat(streamed)).await.json_events();
    assert_eq!(
        events[0]["choices"][0]["logprobs"]["content"][0]["token"],
        "a"
    );
}

#[tokio::test]
async fn a_completion_answer_has_its_choices_in_order() {
    let server = Server::saying(ended("x"));
    let answer = server
        .post(
            COMPLETIONS,
            &json!({"prompt": ["one", "two"], "max_tokens": 5}),
        )
        .await;
    assert!(answer.headers.get("x-compute-time").is_none());
    assert_snapshot!("completions", stable(&answer.text));
    let choices: Vec<u32> = server
        .engine
        .asked
        .lock()
        .unwrap()
        .iter()
        .map(|asked| asked.sampling.choice)
        .collect();
    assert_eq!(choices, [0, 1]);
}

#[tokio::test]
async fn a_completion_stream() {
    let server = Server::saying(ended("x"));
    let answer = server
        .post(
            COMPLETIONS,
            &json!({"prompt": ["one", "two"], "stream": true}),
        )
        .await;
    assert_snapshot!("completions_stream", stable(&answer.text));
    let continuous = json!({"prompt": "one", "stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true}});
    let events = server.post(COMPLETIONS, &continuous).await.json_events();
    let used: Vec<&Value> = events
        .iter()
        .map(|event| &event["usage"]["completion_tokens"])
        .collect();
    assert_eq!(used, [1, 2, 2]);
}

#[tokio::test]
async fn prompts_may_be_tokens() {
    let server = Server::saying(ended("x"));
    for (prompt, number) in [(json!([5, 6, 7]), 1), (json!([[5, 6, 7], [8]]), 2)] {
        let answer = server.post(COMPLETIONS, &json!({"prompt": prompt})).await;
        assert_eq!(
            answer.json()["choices"].as_array().unwrap().len(),
            number,
            "{}",
            answer.text
        );
    }
    assert_eq!(server.engine.asked.lock().unwrap()[0].prompt[..], [5, 6, 7]);
}

#[tokio::test]
async fn the_text_ends_before_the_stop_string_and_says_stop() {
    let server = Server::saying(ended("one two three"));
    let answer = server.post(CHAT, &chat(json!({"stop": "tw"}))).await.json();
    assert_eq!(
        (
            &answer["choices"][0]["message"]["content"],
            &answer["choices"][0]["finish_reason"]
        ),
        (&json!("one "), &json!("stop"))
    );
    let events = server
        .post(CHAT, &chat(json!({"stop": ["tw"], "stream": true})))
        .await
        .json_events();
    let text: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "one ");
    assert_eq!(
        events.last().unwrap()["choices"][0]["finish_reason"],
        "stop"
    );
    let not_found = server
        .post(CHAT, &chat(json!({"stop": ["three hundred"]})))
        .await
        .json();
    assert_eq!(
        not_found["choices"][0]["message"]["content"],
        "one two three"
    );
}

#[tokio::test]
async fn an_end_on_the_last_allowed_token_is_a_stop() {
    let server = Server::saying(ended("a"));
    for (limit, reason) in [(ended("a").len(), "stop"), (ended("a").len() - 1, "length")] {
        let answer = server
            .post(CHAT, &chat(json!({"max_completion_tokens": limit})))
            .await
            .json();
        assert_eq!(answer["choices"][0]["finish_reason"], reason);
    }
}

#[tokio::test]
async fn parameters_reach_the_engine() {
    let mut script = ended("a");
    script.push(Item::Token(11));
    let server = Server::saying(script);
    let fields = json!({
        "temperature": 0.5, "top_k": 9, "top_p": 1.0, "min_p": 0.125, "repetition_penalty": 1.5, "frequency_penalty": -0.5,
        "presence_penalty": 2, "seed": -1, "max_tokens": 7, "max_completion_tokens": 7, "ignore_eos": true, "min_tokens": 1,
        "stop_token_ids": [11], "user": "me", "n": 1, "logit_bias": {}, "tools": [], "response_format": {"type": "text"},
        "tool_choice": null, "logprobs": null, "stream_options": null, "service_tier": "auto",
    });
    let answer = server.post(CHAT, &chat(fields)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let asked = server.engine.last();
    assert_eq!(
        (asked.max_new_tokens, &asked.stop_token_ids[..]),
        (7, &[11][..])
    );
    let sampling = &asked.sampling;
    assert_eq!(
        (
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            sampling.min_p
        ),
        (0.5, 9, 1.0, 0.125)
    );
    assert_eq!(
        (sampling.repetition_penalty, sampling.frequency_penalty),
        (1.5, 0.0)
    );
    assert_eq!(
        (
            sampling.count_penalty,
            sampling.presence_penalty,
            sampling.seed
        ),
        (-0.5, 2.0, u64::MAX)
    );
    assert_eq!(answer.json()["usage"]["completion_tokens"], 3);
    server.post(CHAT, &chat(json!({"temperature": 0}))).await;
    assert!(server.engine.last().sampling.greedy);
    server.post(CHAT, &chat(json!({"top_k": -1}))).await;
    assert_eq!(
        (
            server.engine.last().sampling.top_k,
            server.engine.last().sampling.greedy
        ),
        (0, false)
    );
}

#[tokio::test]
async fn messages_may_have_parts_calls_and_a_beginning_of_the_answer() {
    let server = Server::saying(ended("a"));
    let messages = json!([
        {"role": "user", "content": [{"type": "text", "text": "two "}, {"type": "text", "text": "parts"}], "name": "me"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"b\": 1}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "3"},
        {"role": "assistant", "content": "The answer "},
    ]);
    let answer = server.post(CHAT, &json!({"messages": messages})).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let expected = r#"<|begin|><|user|>two parts<|end|><|assistant|>{"name": "f", "arguments": {"b": 1}}<|end|><|tool|>3<|end|><|assistant|>The answer"#;
    let prompt = tokenizer().encode(expected, SpecialTokens::Skip).unwrap();
    assert_eq!(server.engine.last().prompt[..], prompt[..]);
}

#[tokio::test]
async fn a_history_of_openai_is_taken_as_its_sdk_sends_it() {
    let server = Server::saying(ended("a"));
    let arguments = json!({"name": "f", "arguments": "{\"b\": 1}"});
    let aliased = json!({"name": "f", "parameters": {"b": 1}});
    let call = |function: &Value| json!([{"id": "1", "type": "function", "function": function}]);
    let refusal = json!([{"type": "text", "text": "Oh "}, {"type": "refusal", "refusal": "no"}]);
    let called = r#"{"name": "f", "arguments": {"b": 1}}"#;
    for (fields, shown) in [
        (json!({"content": null, "refusal": "no"}), "no"),
        (json!({"refusal": "no"}), "no"),
        (json!({"content": "yes", "refusal": null}), "yes"),
        (json!({"content": refusal}), "Oh no"),
        (json!({"content": null, "function_call": arguments}), called),
        (
            json!({"function_call": aliased, "tool_calls": null}),
            called,
        ),
        (json!({"content": "", "tool_calls": call(&aliased)}), called),
        (
            json!({"content": "", "tool_calls": call(&json!({"name": "f", "arguments": null, "parameters": {"b": 1}}))}),
            called,
        ),
    ] {
        let mut said = fields.clone();
        said["role"] = json!("assistant");
        let user = json!({"role": "user", "content": "Hi"});
        let body = json!({"messages": [said, user]});
        let answer = server.post(CHAT, &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{fields}: {}", answer.text);
        let prompt = server.engine.last().prompt;
        let prompt: String = prompt.iter().map(|&id| tokenizer().text_of(id)).collect();
        let expected = format!("<|assistant|>{shown}<|end|><|user|>Hi<|end|><|assistant|>");
        assert!(prompt.ends_with(&expected), "{fields}: {prompt}");
    }
}

#[tokio::test]
async fn an_answer_may_begin_like_a_closing_token() {
    let server = Server::saying(ended("a"));
    for beginning in ["e", "|", "end", "<|end|"] {
        let messages = json!([
            {"role": "user", "content": "Go on"},
            {"role": "assistant", "content": beginning},
        ]);
        let answer = server.post(CHAT, &json!({"messages": messages})).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let expected = format!("<|begin|><|user|>Go on<|end|><|assistant|>{beginning}");
        let prompt = tokenizer().encode(&expected, SpecialTokens::Skip).unwrap();
        assert_eq!(server.engine.last().prompt[..], prompt[..]);
    }
}

#[tokio::test]
async fn models_are_listed() {
    let server = Server::saying(Vec::new());
    assert_snapshot!("models", server.get("/v1/models").await.text);
}
