//! `/generate`, `/generate_stream`, `/`, `/tokenize`: bytes of answers, and what the engine is asked.

use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::*;

#[tokio::test]
async fn a_plain_answer_has_the_text_only_and_all_headers() {
    let server = Server::saying(ended("Hello world"));
    let answer = server
        .post(
            "/generate",
            &json!({"inputs": "Hi", "parameters": {"max_new_tokens": 20}}),
        )
        .await;
    assert_eq!(
        (answer.status, answer.text.as_str()),
        (StatusCode::OK, r#"{"generated_text":"Hello world"}"#)
    );
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("x-compute-type"), "cpu");
    assert_eq!(answer.header("x-compute-characters"), "2");
    assert_eq!(answer.header("x-queue-time"), "3");
    let prompt = tokenizer().encode("Hi", SpecialTokens::Add).unwrap();
    assert_eq!(answer.header("x-prompt-tokens"), prompt.len().to_string());
    assert_eq!(
        answer.header("x-generated-tokens"),
        ended("Hello world").len().to_string()
    );
    for name in [
        "x-compute-time",
        "x-total-time",
        "x-validation-time",
        "x-inference-time",
        "x-time-per-token",
    ] {
        answer.header(name).parse::<f64>().unwrap();
    }
}

#[tokio::test]
async fn details_list_every_token() {
    let server = Server::saying(ended("Hello €"));
    let answer = server.post("/generate", &json!({"inputs": "Hi", "parameters": {"details": true, "seed": 7, "do_sample": true, "top_n_tokens": 2}})).await;
    assert_snapshot!("native_details", answer.text);
}

#[tokio::test]
async fn a_stream_has_one_event_a_token_and_no_done() {
    let server = Server::saying(ended("Hello €"));
    let answer = server
        .post(
            "/generate_stream",
            &json!({"inputs": "Hi", "parameters": {"details": true}}),
        )
        .await;
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.header("cache-control"), "no-cache");
    assert_eq!(answer.header("x-accel-buffering"), "no");
    assert_snapshot!("native_stream", answer.text);
}

#[tokio::test]
async fn the_root_answers_with_an_array_that_begins_with_the_prompt() {
    let server = Server::saying(ended(" world"));
    let answer = server.post("/", &json!({"inputs": "Hello"})).await;
    assert_eq!(answer.text, r#"[{"generated_text":"Hello world"}]"#);
    let answer = server
        .post(
            "/",
            &json!({"inputs": "Hello", "stream": false, "parameters": {"return_full_text": false}}),
        )
        .await;
    assert_eq!(answer.json(), json!([{"generated_text": " world"}]));
    let stream = server
        .post("/", &json!({"inputs": "Hello", "stream": true}))
        .await;
    assert_eq!(
        stream.json_events().last().unwrap()["generated_text"],
        "Hello world"
    );
}

#[tokio::test]
async fn absent_parameters_sample_and_empty_ones_are_greedy() {
    let server = Server::saying(ended("a"));
    let answer = server.post("/generate", &json!({"inputs": "Hi"})).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(!server.engine.last().sampling.greedy);
    for parameters in [
        json!({}),
        json!({"do_sample": null, "temperature": null, "stop": null, "watermark": false, "grammar": null}),
    ] {
        let answer = server
            .post(
                "/generate",
                &json!({"inputs": "Hi", "parameters": parameters}),
            )
            .await;
        assert_eq!(
            (answer.status, answer.text.as_str()),
            (StatusCode::OK, r#"{"generated_text":"a"}"#)
        );
        assert!(server.engine.last().sampling.greedy);
    }
    for parameters in [
        json!({"temperature": 0.5}),
        json!({"top_k": 3}),
        json!({"top_p": 0.9}),
        json!({"typical_p": 0.9}),
    ] {
        server
            .post(
                "/generate",
                &json!({"inputs": "Hi", "parameters": parameters}),
            )
            .await;
        assert!(!server.engine.last().sampling.greedy, "{parameters}");
    }
}

#[tokio::test]
async fn parameters_reach_the_engine() {
    let server = Server::saying(ended("a"));
    let parameters = json!({
        "temperature": 0.5, "top_k": 9, "top_p": 0.75, "typical_p": 0.25, "repetition_penalty": 1.5, "frequency_penalty": -0.5,
        "seed": u64::MAX, "max_new_tokens": 7, "top_n_tokens": 3, "truncate": 2, "min_tokens": 2, "stop_token_ids": [9, 2],
    });
    server
        .post(
            "/generate",
            &json!({"inputs": "one two three four", "parameters": parameters}),
        )
        .await;
    let asked = server.engine.last();
    let prompt = tokenizer()
        .encode("one two three four", SpecialTokens::Add)
        .unwrap();
    assert_eq!(asked.prompt[..], prompt[prompt.len() - 2..]);
    assert_eq!(
        (
            asked.max_new_tokens,
            asked.min_tokens,
            &asked.stop_token_ids[..]
        ),
        (7, 2, &[2, 9][..])
    );
    let sampling = &asked.sampling;
    assert_eq!(
        (
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            sampling.typical_p
        ),
        (0.5, 9, 0.75, 0.25)
    );
    assert_eq!(
        (
            sampling.repetition_penalty,
            sampling.frequency_penalty,
            sampling.count_penalty
        ),
        (1.5, -0.5, 0.0)
    );
    assert_eq!(
        (sampling.seed, sampling.top_tokens, sampling.greedy),
        (u64::MAX, 3, false)
    );
}

#[tokio::test]
async fn absent_limits_fill_up_and_absent_seeds_are_drawn_and_returned() {
    let server = Server::saying(ended("a"));
    let answer = server
        .post(
            "/generate",
            &json!({"inputs": "Hi", "parameters": {"details": true, "do_sample": true}}),
        )
        .await;
    let asked = server.engine.last();
    assert_eq!(asked.max_new_tokens as usize + asked.prompt.len(), 256);
    assert_eq!(answer.json()["details"]["seed"], asked.sampling.seed);
    let again = server
        .post(
            "/generate",
            &json!({"inputs": "Hi", "parameters": {"details": true}}),
        )
        .await;
    assert_eq!(again.json()["details"]["seed"], Value::Null);
}

#[tokio::test]
async fn the_text_ends_with_the_stop_string_cut_right_after_it() {
    let server = Server::saying(ended("one two three"));
    let body = json!({"inputs": "Hi", "parameters": {"stop": ["tw"], "details": true}});
    let answer = server.post("/generate", &body).await.json();
    assert_eq!(
        (
            &answer["generated_text"],
            &answer["details"]["finish_reason"]
        ),
        (&json!("one tw"), &json!("stop_sequence"))
    );
    let stream = server.post("/generate_stream", &body).await.json_events();
    let pieces: String = stream
        .iter()
        .map(|event| event["token"]["text"].as_str().unwrap())
        .collect();
    assert_eq!(pieces, "one tw");
    assert_eq!(server.engine.alive(), 0);
}

#[tokio::test]
async fn length_wins_on_the_last_allowed_token() {
    let server = Server::saying(ended("a"));
    let exact = ended("a").len();
    for (parameters, reason) in [
        (json!({"max_new_tokens": exact}), "length"),
        (json!({"max_new_tokens": exact + 1}), "eos_token"),
        (json!({"max_new_tokens": 1, "stop": "a"}), "length"),
        (
            json!({"max_new_tokens": exact, "stop": ["a"]}),
            "stop_sequence",
        ),
    ] {
        let mut parameters = parameters;
        parameters["details"] = json!(true);
        let answer = server
            .post(
                "/generate",
                &json!({"inputs": "Hi", "parameters": parameters}),
            )
            .await
            .json();
        assert_eq!(answer["details"]["finish_reason"], reason, "{parameters}");
    }
}

#[tokio::test]
async fn an_ignored_end_token_goes_on_and_is_not_in_the_text() {
    let mut script = ended("a");
    script.extend(tokens("b"));
    let server = Server::saying(script);
    let body = json!({"inputs": "Hi", "parameters": {"ignore_eos": true, "max_new_tokens": 3, "details": true}});
    let answer = server.post("/generate", &body).await.json();
    assert_eq!(
        (
            &answer["generated_text"],
            &answer["details"]["generated_tokens"]
        ),
        (&json!("ab"), &json!(3))
    );
    assert!(server.engine.last().stop_token_ids.is_empty());
}

#[tokio::test]
async fn tokenize_gives_byte_offsets() {
    let server = Server::saying(Vec::new());
    let answer = server.post("/tokenize", &json!({"inputs": "Hé you"})).await;
    assert_snapshot!("tokenize", answer.text);
}

#[tokio::test]
async fn min_tokens_hold_back_stop_strings() {
    let said = "one two three";
    let all = tokenizer().encode(said, SpecialTokens::Skip).unwrap().len();
    for (min_tokens, text) in [(0, "o"), (all, said)] {
        let server = Server::saying(ended(said));
        let parameters = json!({"stop": ["o"], "min_tokens": min_tokens});
        let body = json!({"inputs": "Hi", "parameters": parameters});
        let answer = server.post("/generate", &body).await;
        assert_eq!(answer.json()["generated_text"], text);
    }
}

#[tokio::test]
async fn a_share_too_small_for_single_precision_stays_above_zero() {
    let server = Server::saying(ended("a"));
    let body = json!({"inputs": "Hi", "parameters": {"top_p": 1e-46, "do_sample": true}});
    assert_eq!(server.post("/generate", &body).await.status, StatusCode::OK);
    assert!(server.engine.last().sampling.top_p > 0.0);
}

#[tokio::test]
async fn a_temperature_near_zero_is_greedy() {
    let server = Server::saying(ended("a"));
    for (temperature, is_greedy) in [(0.00005, true), (0.001, false)] {
        let parameters = json!({"temperature": temperature, "do_sample": true});
        let body = json!({"inputs": "Hi", "parameters": parameters});
        assert_eq!(server.post("/generate", &body).await.status, StatusCode::OK);
        assert_eq!(server.engine.last().sampling.greedy, is_greedy);
    }
}
