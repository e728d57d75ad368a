//! Bodies that nobody would send: whatever they hold, the answer is a request in range, or an error that says what is wrong.

use std::cell::Cell;

use proptest::{
    prelude::*,
    sample::select,
    test_runner::{RngSeed, TestRunner},
};
use ribbon_core::Pooling;
use serde_json::{Map, Value, json};

use super::*;
use crate::{
    error::{ApiError, Cause},
    extract::{self, RawJson},
    routes::prompts,
    schema::{
        embeddings::{EmbeddingRequest, RULES as EMBEDDINGS},
        native::{GenerateRequest, PARAMETERS, TOP_LEVEL},
        openai::OpenAiRequest,
        openai_fields::RULES,
    },
    submit::ready_model,
    wish::{Model, Wish},
};

/// In `make test`; a million with `-- --ignored`.
const BODIES: u32 = 50_000;
/// Bodies that go all the way through a server.
const SERVED: u32 = 1_000;

const NATIVE_BODY: &str = r#"{"inputs": "Hi", "stream": false, "parameters": {"temperature": 0.5, "top_k": 3, "stop": ["a"], "best_of": 2, "max_new_tokens": 9}}"#;
const CHAT_BODY: &str = r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}], "logit_bias": {"5": 1}, "n": 2, "stream_options": {"include_usage": true}, "stream": true, "stop": "x"}"#;
const EMBEDDING_BODY: &str =
    r#"{"input": ["a", "b"], "encoding_format": "base64", "priority": 3, "cache_salt": "s"}"#;
const COMPLETION_BODY: &str = r#"{"prompt": ["a", "b"], "max_tokens": 9, "seed": -7, "echo": true, "logprobs": 2, "best_of": 2, "top_p": 0.5}"#;

/// Names inside fields, and one that nobody reads. Those of the bodies are in the rules of their schemas.
const INNER_NAMES: &[&str] = &[
    "role",
    "content",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "type",
    "text",
    "include_usage",
    "input",
    "encoding_format",
    "dimensions",
    "prompt_logprobs",
    "nonsense",
];

/// Every name that some route reads or refuses, and one that none does.
fn names() -> Vec<&'static str> {
    let mut names = INNER_NAMES.to_vec();
    for rules in [&TOP_LEVEL, &PARAMETERS, &RULES, &EMBEDDINGS] {
        names.extend(rules.known);
        names.extend(rules.unsupported.iter().map(|(name, _)| name));
    }
    names
}

/// Numbers at the ends of every type, as JSON has them.
const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "1",
    "-1",
    "2",
    "0.5",
    "1e-9",
    "-1e-9",
    "1e300",
    "-1e300",
    "1e999",
    "4294967295",
    "4294967296",
    "2147483648",
    "-2147483649",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1.5",
    "100.5",
    "3.4028236e38",
    "1e-46",
    "201",
    "256",
    "257",
    "2047",
    "2048",
];

fn leaf() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => select(NUMBERS).prop_map(str::to_owned),
        2 => any::<String>().prop_map(|text| json!(text).to_string()),
        2 => select(vec!["null", "true", "false", "\"\"", "\"Hi\"", "[]", "{}", "\"user\"", "\"\\u0000\"", "\"\\ud800\"", "NaN"])
            .prop_map(str::to_owned),
    ]
}

/// JSON, or nearly, as text.
fn value() -> impl Strategy<Value = String> {
    leaf().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|list| format!("[{}]", list.join(","))),
            prop::collection::vec((select(names()), inner), 0..5)
                .prop_map(|fields| object(&fields)),
        ]
    })
}

fn object(fields: &[(&str, String)]) -> String {
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", fields.join(","))
}

/// A good body with some fields replaced or added, at the top and among the parameters.
fn altered(good: &'static str) -> impl Strategy<Value = String> {
    let changes = prop::collection::vec((any::<bool>(), select(names()), value()), 0..4);
    changes.prop_map(move |changes| {
        let mut body: Map<String, Value> = serde_json::from_str(good).unwrap();
        for (is_top, name, value) in changes {
            let value = serde_json::from_str(&value).unwrap_or(Value::Null);
            match body.get_mut("parameters").and_then(Value::as_object_mut) {
                Some(parameters) if !is_top => parameters.insert(name.to_owned(), value),
                _ => body.insert(name.to_owned(), value),
            };
        }
        Value::Object(body).to_string()
    })
}

/// A good body with some bytes replaced, dropped or doubled.
fn damaged(good: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..4);
    damage.prop_map(move |damage| {
        let mut body = good.as_bytes().to_vec();
        for (place, byte, kind) in damage {
            if body.is_empty() {
                break;
            }
            let at = place.index(body.len());
            match kind {
                0 => body[at] = byte,
                1 => drop(body.remove(at)),
                2 => body.insert(at, byte),
                _ => body.truncate(at.max(1)),
            }
        }
        body
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let good = prop_oneof![
        Just(NATIVE_BODY),
        Just(CHAT_BODY),
        Just(COMPLETION_BODY),
        Just(EMBEDDING_BODY)
    ];
    prop_oneof![
        2 => value().prop_map(String::into_bytes),
        2 => altered(NATIVE_BODY).prop_map(String::into_bytes),
        1 => altered(CHAT_BODY).prop_map(String::into_bytes),
        1 => altered(COMPLETION_BODY).prop_map(String::into_bytes),
        1 => altered(EMBEDDING_BODY).prop_map(String::into_bytes),
        1 => damaged(NATIVE_BODY),
        1 => damaged(CHAT_BODY),
        1 => damaged(COMPLETION_BODY),
        1 => damaged(EMBEDDING_BODY),
        1 => good.prop_map(|good| good.as_bytes().to_vec()),
    ]
}

/// What becomes of a native body; a refusal is as good as a request.
fn native(body: &RawJson, model: &Model) -> Result<Wish, ApiError> {
    let mut request: GenerateRequest = body.parse()?;
    let wish = request.wish(&HttpSettings::new("demo"), request.stream == Some(true))?;
    fitting(wish, model, 1)
}

fn openai(body: &RawJson, model: &Model) -> Result<Wish, ApiError> {
    let mut request: OpenAiRequest = body.parse()?;
    let wish = request.wish(&HttpSettings::new("demo"))?;
    let reads = request.echoes() || request.prompt_logprobs(5)?.is_some();
    if request.prompt.is_some() {
        request.completion_logprobs(5)?;
        request.check_completion_fields()?;
    } else {
        request.chat_logprobs(5)?;
        request.check_chat_fields()?;
        request.chat.conversation(request.messages.take(), None)?;
    }
    fitting(wish, model, u32::from(!reads))
}

fn embeddings(body: &RawJson, model: &Model) -> Result<Wish, ApiError> {
    let mut request: EmbeddingRequest = body.parse()?;
    let wish = request.wish(Pooling::Mean)?;
    prompts("input", request.input.take(), (2048, ""))?;
    let wish = fitting(wish, model, 0)?;
    assert_eq!(wish.max_new_tokens, Some(0));
    Ok(wish)
}

/// Only who wants to know of the prompt may do without a token: `least` is 0 then.
fn fitting(wish: Wish, model: &Model, least: u32) -> Result<Wish, ApiError> {
    wish.check(model)?;
    for request in wish.sequences(vec![7; 20], 0, model)? {
        let sampling = &request.sampling;
        assert!(sampling.temperature.is_finite() && sampling.temperature > 0.0);
        assert!(sampling.top_p > 0.0 && sampling.top_p <= 1.0);
        assert!(sampling.typical_p > 0.0 && sampling.typical_p <= 1.0);
        assert!((0.0..=1.0).contains(&sampling.min_p) && sampling.top_tokens <= 5);
        assert!(sampling.repetition_penalty.is_finite() && sampling.repetition_penalty > 0.0);
        let penalties = [
            sampling.frequency_penalty,
            sampling.presence_penalty,
            sampling.count_penalty,
        ];
        assert!(penalties.iter().all(|penalty| penalty.abs() <= 2.0));
        assert!(request.max_new_tokens >= least && request.max_new_tokens <= 236);
        assert!(request.min_tokens <= request.max_new_tokens);
        assert!(request.stop_token_ids.iter().all(|id| *id < 2048));
        assert!(
            sampling
                .logit_bias
                .iter()
                .all(|(id, bias)| *id < 2048 && bias.is_finite())
        );
    }
    Ok(wish)
}

fn says_what_is_wrong(error: &ApiError) {
    let status = error.cause.row().native;
    assert!(status.is_client_error(), "{error:?}");
    assert!(
        !error.message.is_empty() && error.message.len() < 4096,
        "{error:?}"
    );
    assert!(
        error.cause != Cause::Validation || error.param.is_some(),
        "{error:?}"
    );
}

/// So many bodies, the same each time: what a run finds is there in the next one too. `RngSeed::Random` looks further.
fn runner(bodies: u32, seed: RngSeed) -> TestRunner {
    TestRunner::new(ProptestConfig {
        rng_seed: seed,
        failure_persistence: None,
        ..ProptestConfig::with_cases(bodies)
    })
}

fn fuzz(bodies: u32, seed: RngSeed) {
    let server = Server::saying(Vec::new());
    let model = ready_model(server.engine.as_ref()).unwrap();
    let (requests, refusals) = (Cell::new(0_u32), Cell::new(0_u32));
    let outcome = runner(bodies, seed).run(&body(), |bytes| {
        let body = extract::raw(bytes);
        let fates = [
            native(&body, &model),
            openai(&body, &model),
            embeddings(&body, &model),
        ];
        for fate in fates {
            match fate {
                Ok(_) => requests.set(requests.get() + 1),
                Err(error) => {
                    says_what_is_wrong(&error);
                    refusals.set(refusals.get() + 1);
                }
            }
        }
        Ok(())
    });
    outcome.unwrap();
    let (requests, refusals) = (requests.get(), refusals.get());
    assert!(
        requests > bodies / 20,
        "{requests} of {bodies} were requests"
    );
    assert!(refusals > bodies / 2, "{refusals} of {bodies} were refused");
}

#[test]
fn any_body_is_a_request_in_range_or_an_error_that_says_why() {
    fuzz(BODIES, RngSeed::Fixed(1));
}

#[test]
#[ignore = "minutes"]
fn a_million_bodies() {
    fuzz(1_000_000, RngSeed::Fixed(2));
}

/// The whole way: no route answers with a fault of the server's, and none forgets to settle its request.
#[test]
fn no_body_is_a_fault_of_the_server() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let settings = HttpSettings {
        pooling: Some(Pooling::Mean),
        ..HttpSettings::new("demo")
    };
    let server = Server::with(FakeEngine::new(ended("a b")), settings);
    let paths = vec![
        "/generate",
        "/generate_stream",
        "/",
        "/tokenize",
        "/chat_tokenize",
        "/invocations",
        "/vertex",
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/embeddings",
    ];
    let bodies = (select(paths), body());
    let outcome = runner(SERVED, RngSeed::Fixed(1)).run(&bodies, |(path, body)| {
        let response =
            runtime.block_on(async { Answer::read(server.call(post(path, body)).await).await });
        let is_fine = response.status.is_success() || response.status.is_client_error();
        prop_assert!(is_fine, "{path}: {} {}", response.status, response.text);
        prop_assert!(response.status.is_success() || !response.text.is_empty());
        Ok(())
    });
    outcome.unwrap();
    let sum = |name: &str| -> u64 {
        let text = server.metrics.render();
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    };
    let settled = sum("tgi_request_success ") + sum("tgi_request_failure{");
    assert_eq!(sum("tgi_request_count "), settled);
    assert_eq!(server.engine.alive(), 0);
}
