//! When a stream's headers go out, and what becomes of an error before and after.

use std::time::Duration;

use axum::http::StatusCode;
use ribbon_core::{Refusal, StreamError};
use serde_json::json;

use super::*;

/// A route and a body for it.
type Route = (&'static str, fn() -> Value);

const ROUTES: [Route; 3] = [
    ("/generate_stream", || json!({"inputs": "Hi"})),
    (
        "/v1/chat/completions",
        || json!({"messages": [{"role": "user", "content": "Hi"}], "stream": true}),
    ),
    (
        "/v1/completions",
        || json!({"prompt": "Hi", "stream": true}),
    ),
];

fn failure() -> Item {
    Item::Fail(StreamError::Generation("the shard died 3 times".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn an_error_before_the_first_token_has_its_real_status() {
    let server = Server::saying(vec![failure()]);
    for (path, body) in ROUTES {
        let answer = server.post(path, &body()).await;
        let is_native = path == "/generate_stream";
        assert_eq!(answer.status.as_u16(), if is_native { 424 } else { 500 });
        assert_eq!(answer.header("content-type"), "application/json");
        let kind = if is_native {
            answer.json()["error_type"].clone()
        } else {
            answer.json()["error"]["type"].clone()
        };
        assert_eq!(
            kind,
            if is_native {
                "generation"
            } else {
                "server_error"
            }
        );
    }
}

/// A letter, and the first byte of one that has two.
const BROKEN: [Item; 2] = [Item::Token(78), Item::Token(134)];

/// Id and text of a token, wherever it is listed.
fn shown(token: &Value) -> (u64, &str) {
    (
        token["id"].as_u64().unwrap(),
        token["text"].as_str().unwrap(),
    )
}

#[tokio::test]
async fn what_the_end_token_cuts_shows_with_the_token_that_began_it() {
    let script = [&BROKEN[..], &[Item::Token(EOS)]].concat();
    let server = Server::saying(script);
    let body = json!({"inputs": "Hi", "parameters": {"details": true}});
    let whole = server.post("/generate", &body).await.json();
    let events = server.post("/generate_stream", &body).await.json_events();
    let expected = [(78, "h"), (134, "\u{FFFD}"), (2, "<|end|>")];
    assert_eq!(whole["generated_text"], "h\u{FFFD}");
    let listed = whole["details"]["tokens"].as_array().unwrap();
    assert_eq!(listed.iter().map(shown).collect::<Vec<_>>(), expected);
    let streamed = events.iter().map(|event| shown(&event["token"]));
    assert_eq!(streamed.collect::<Vec<_>>(), expected);
    let numbers = events.iter().map(|event| event["index"].as_u64().unwrap());
    assert_eq!(numbers.collect::<Vec<_>>(), [1, 2, 3]);
    let texts = events.iter().map(|event| &event["generated_text"]);
    let last = json!("h\u{FFFD}");
    assert_eq!(
        texts.collect::<Vec<_>>(),
        [&Value::Null, &Value::Null, &last]
    );
    assert!(events[1]["details"].is_null() && events[2]["details"].is_object());
}

#[tokio::test]
async fn a_token_that_ends_inside_a_character_comes_before_an_error() {
    let server = Server::saying([&BROKEN[..], &[failure()]].concat());
    let answer = server
        .post("/generate_stream", &json!({"inputs": "Hi"}))
        .await;
    let events = answer.json_events();
    let streamed = events[..2].iter().map(|event| shown(&event["token"]));
    assert_eq!(streamed.collect::<Vec<_>>(), [(78, "h"), (134, "")]);
    assert_eq!(
        (events.len(), &events[2]["error_type"]),
        (3, &json!("generation"))
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_after_the_first_token_is_the_last_event() {
    let mut script = tokens("a");
    script.extend([Item::Pause(Duration::from_secs(1)), failure()]);
    let server = Server::saying(script);
    for (path, body) in ROUTES {
        let answer = server.post(path, &body()).await;
        assert_eq!(answer.status, StatusCode::OK);
        let error = answer.json_events().last().unwrap().clone();
        if path == "/generate_stream" {
            assert_eq!(error["error_type"], "generation");
            assert!(!answer.text.contains("[DONE]"));
        } else {
            assert_eq!(error["error"]["code"], "generation");
            assert_eq!(answer.events().last(), Some(&"[DONE]"));
        }
    }
    assert_eq!(server.sample("tgi_request_failure{err=\"generation\"}"), 3);
}

#[tokio::test(start_paused = true)]
async fn headers_wait_for_the_first_token_but_not_longer_than_the_keep_alive() {
    let mut script = vec![Item::Pause(Duration::from_secs(40))];
    script.extend(ended("a"));
    let server = Server::saying(script);
    let before = tokio::time::Instant::now();
    let response = server
        .call(post(
            "/generate_stream",
            json!({"inputs": "Hi"}).to_string(),
        ))
        .await;
    assert_eq!(before.elapsed().as_secs(), 15);
    let answer = Answer::read(response).await;
    assert_eq!(before.elapsed().as_secs(), 40);
    assert!(
        answer.text.starts_with(":\n\n:\n\ndata: "),
        "{}",
        answer.text
    );
    assert_eq!(answer.text.matches(":\n\n").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn comments_come_only_in_silence() {
    let mut script = Vec::new();
    for _ in 0..5 {
        script.extend(tokens("a"));
        script.push(Item::Pause(Duration::from_secs(10)));
    }
    script.push(Item::Pause(Duration::from_secs(10)));
    script.extend(ended("a"));
    let answer = Server::saying(script)
        .post("/generate_stream", &json!({"inputs": "Hi"}))
        .await;
    assert_eq!(answer.text.matches(":\n\n").count(), 1, "{}", answer.text);
    assert!(answer.text.find(":\n\n").unwrap() > answer.text.find("\"index\":5").unwrap());
}

#[tokio::test]
async fn tokens_that_end_too_early_are_an_error() {
    let server = Server::saying(vec![Item::Token(9), Item::Break]);
    let stream = server
        .post("/generate_stream", &json!({"inputs": "Hi"}))
        .await;
    assert_eq!(
        stream.json_events().last().unwrap()["error_type"],
        "incomplete_generation_stream"
    );
    let answer = server.post("/generate", &json!({"inputs": "Hi"})).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error_type"]),
        (500, &json!("incomplete_generation"))
    );
}

#[tokio::test]
async fn a_full_house_says_when_to_come_back() {
    let mut engine = FakeEngine::new(ended("a"));
    let retry_after = Duration::from_millis(2300);
    engine.refusal = Some(Refusal::Overloaded {
        running: 8,
        limit: 8,
        retry_after,
    });
    let server = Server::with(engine, HttpSettings::new("demo"));
    for (path, body) in ROUTES {
        let answer = server.post(path, &body()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("retry-after")),
            (429, "3"),
            "{}",
            answer.text
        );
    }
    assert_eq!(server.sample("tgi_request_failure{err=\"overloaded\"}"), 3);
}

#[tokio::test]
async fn overload_is_noticed_before_tokenizing() {
    let mut engine = FakeEngine::new(ended("a"));
    engine.refusal = Some(Refusal::QueueFull {
        queued: 9000,
        limit: 8000,
        retry_after: Duration::from_secs(17),
    });
    let server = Server::with(engine, HttpSettings::new("demo"));
    let answer = server.post("/generate", &json!({"inputs": "Hi"})).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("retry-after")),
        (429, "17")
    );
    assert!(
        answer.json()["error"]
            .as_str()
            .unwrap()
            .starts_with("Model is overloaded")
    );
    assert_eq!(
        server.engine.rooms.lock().unwrap().len(),
        1,
        "asked once, and not submitted"
    );
}

#[tokio::test(start_paused = true)]
async fn the_usage_so_far_comes_before_an_error() {
    let mut script = tokens("a");
    script.extend([Item::Pause(Duration::from_secs(1)), failure()]);
    let server = Server::saying(script);
    let prompt = tokenizer().encode("Hi", SpecialTokens::Add).unwrap().len();
    let generated = tokens("a").len();
    let body = json!({"prompt": "Hi", "stream": true, "stream_options": {"include_usage": true}});
    let events = server.post("/v1/completions", &body).await.json_events();
    let [.., usage, error] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(error["error"]["code"], "generation");
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["prompt_tokens"], prompt);
    assert_eq!(usage["usage"]["completion_tokens"], generated);
}

#[tokio::test]
async fn the_usage_in_a_choices_chunk_has_its_prompt_and_its_own_tokens() {
    let server = Server::saying(ended("a"));
    let prompt = tokenizer().encode("Hi", SpecialTokens::Add).unwrap().len();
    let continuous = json!({"include_usage": true, "continuous_usage_stats": true});
    for options in [json!({}), continuous] {
        let body = json!({"prompt": "Hi", "n": 2, "best_of": 2, "temperature": 1.0, "stream": true, "stream_options": options});
        let events = server.post("/v1/completions", &body).await.json_events();
        let shown = |event: &&Value| !event["usage"].is_null() && event["choices"][0].is_object();
        let chunks: Vec<_> = events.iter().filter(shown).collect();
        assert!(chunks.len() >= 2, "{events:?}");
        for chunk in &chunks {
            assert_eq!(chunk["usage"]["prompt_tokens"], prompt, "{chunk}");
        }
        let ends = chunks
            .iter()
            .filter(|chunk| !chunk["choices"][0]["finish_reason"].is_null());
        let counts: Vec<_> = ends
            .map(|chunk| &chunk["usage"]["completion_tokens"])
            .collect();
        assert_eq!(counts, vec![&json!(ended("a").len()); 2]);
        if options != json!({}) {
            let total = &events.last().unwrap()["usage"];
            assert_eq!(total["prompt_tokens"], prompt, "once for both choices");
            assert_eq!(total["completion_tokens"], 2 * ended("a").len());
        }
    }
}
