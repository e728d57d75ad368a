//! Beam search on the OpenAI routes, over an engine whose next tokens are written down here.

use std::sync::atomic::Ordering;

use ribbon_core::PromptRuns;
use serde_json::json;

use super::*;

const A: u32 = 100;
const B: u32 = 101;
const C: u32 = 102;
const D: u32 = 103;
const E: u32 = 104;

/// `A` is the likeliest first token, and `B E` the likeliest text.
fn forked(history: &[u32]) -> Vec<(u32, f32)> {
    match history {
        [] => vec![(A, -0.7), (B, -0.9), (C, -3.0)],
        [A] => vec![(C, -1.6), (D, -1.7), (EOS, -2.0)],
        [B] => vec![(E, -0.1), (EOS, -3.0), (D, -4.0)],
        [_, _] => vec![(EOS, -0.1), (A, -3.0)],
        _ => vec![(EOS, -0.2), (A, -2.0)],
    }
}

fn searching(listed: fn(&[u32]) -> Vec<(u32, f32)>) -> Server {
    let mut engine = FakeEngine::new(ended("one two"));
    engine.listed = listed;
    let mut settings = HttpSettings::new("demo");
    settings.max_best_of = 4;
    Server::with(engine, settings)
}

fn asking(more: &Value) -> Value {
    let mut body = json!({"prompt": "Hi", "use_beam_search": true, "best_of": 2, "max_tokens": 8});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn text(ids: &[u32]) -> String {
    tokenizer().decode(ids)
}

fn at_rest(server: &Server) {
    assert_eq!(server.engine.alive(), 0, "a search was left running");
}

#[tokio::test]
async fn the_likeliest_text_is_found_where_the_likeliest_token_leads_elsewhere() {
    let server = searching(forked);
    let answer = server.post("/v1/completions", &asking(&json!({}))).await;
    let body = answer.json();
    let choices = body["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 1);
    assert_eq!(choices[0]["text"], text(&[B, E]));
    assert_eq!(choices[0]["finish_reason"], "stop");
    assert_eq!(body["usage"]["completion_tokens"], 3);
    let prompt = server.engine.last().prompt;
    assert_eq!(body["usage"]["prompt_tokens"], prompt.len());
    at_rest(&server);
}

#[tokio::test]
async fn a_round_asks_for_one_token_behind_every_beam() {
    let server = searching(forked);
    server.post("/v1/completions", &asking(&json!({}))).await;
    let rounds = server.engine.rounds.lock().unwrap();
    let asked: Vec<Vec<&[u32]>> = rounds
        .iter()
        .map(|lines| lines.iter().map(|line| line.generated.as_slice()).collect())
        .collect();
    let expected: [Vec<&[u32]>; 3] = [vec![&[]], vec![&[A], &[B]], vec![&[B, E], &[A, C]]];
    assert_eq!(asked, expected);
    for line in rounds.iter().flatten() {
        let sampling = &line.request.sampling;
        assert!(sampling.greedy);
        assert_eq!(sampling.top_tokens, 4, "two go on though two end");
        assert_eq!(
            line.request.max_new_tokens as usize,
            line.generated.len() + 1
        );
    }
    let taken = server.engine.last();
    assert_eq!(taken.max_new_tokens, 8, "room is taken for all of it");
    assert_eq!(
        server.engine.rooms.lock().unwrap().len(),
        2,
        "one request: before and after tokenizing"
    );
}

#[tokio::test]
async fn the_best_come_in_order_with_their_own_logprobs() {
    let server = searching(forked);
    let body = asking(&json!({"n": 2, "logprobs": 2}));
    let answer = server.post("/v1/completions", &body).await.json();
    let choices = answer["choices"].as_array().unwrap();
    let texts: Vec<&Value> = choices.iter().map(|choice| &choice["text"]).collect();
    assert_eq!(texts, [&json!(text(&[B, E])), &json!(text(&[A, C]))]);
    let logprobs = |choice: usize| -> Vec<f64> {
        let values = choices[choice]["logprobs"]["token_logprobs"].as_array();
        let values = values.unwrap().iter().map(|value| value.as_f64().unwrap());
        values.map(|value| (value * 10.0).round() / 10.0).collect()
    };
    assert_eq!(logprobs(0), [-0.9, -0.1, -0.1]);
    assert_eq!(logprobs(1), [-0.7, -1.6, -0.1]);
    let top = choices[0]["logprobs"]["top_logprobs"].as_array().unwrap();
    assert!(
        top.iter().all(|top| top.as_object().unwrap().len() == 2),
        "{top:?}"
    );
    assert_eq!(answer["usage"]["completion_tokens"], 6);
    at_rest(&server);
}

#[tokio::test]
async fn a_found_text_has_a_first_token_and_no_times_between_tokens() {
    let server = searching(forked);
    server.post("/v1/completions", &asking(&json!({}))).await;
    let plain = json!({"prompt": "Hi", "max_tokens": 8});
    let answer = server.post("/v1/completions", &plain).await.json();
    let plain = answer["usage"]["completion_tokens"].as_u64().unwrap();
    assert_eq!(server.sample("ribbon_time_to_first_token_seconds_count"), 2);
    assert_eq!(server.sample("ribbon_inter_token_seconds_count"), plain - 1);
}

#[tokio::test]
async fn chat_searches_and_a_stream_shows_the_same() {
    let server = searching(forked);
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}], "use_beam_search": true,
        "best_of": 4, "n": 2, "max_tokens": 8});
    let whole = server.post("/v1/chat/completions", &body).await.json();
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let events = server.post("/v1/chat/completions", &body).await;
    let events = events.json_events();
    for index in 0..2 {
        let mine = events.iter().filter_map(|event| event["choices"].get(0));
        let mine: Vec<&Value> = mine.filter(|choice| choice["index"] == index).collect();
        let pieces = mine
            .iter()
            .filter_map(|choice| choice["delta"]["content"].as_str());
        assert_eq!(
            whole["choices"][index]["message"]["content"],
            pieces.collect::<String>()
        );
        assert_eq!(mine.last().unwrap()["finish_reason"], "stop");
    }
    assert_eq!(
        events.last().unwrap()["usage"]["completion_tokens"],
        whole["usage"]["completion_tokens"]
    );
    at_rest(&server);
}

#[tokio::test]
async fn every_prompt_has_its_own_search_in_one_request() {
    let server = searching(forked);
    let body = asking(&json!({"prompt": ["a", "b"], "n": 2}));
    let answer = server.post("/v1/completions", &body).await.json();
    let choices = answer["choices"].as_array().unwrap();
    let texts: Vec<&Value> = choices.iter().map(|choice| &choice["text"]).collect();
    let (first, second) = (json!(text(&[B, E])), json!(text(&[A, C])));
    assert_eq!(texts, [&first, &second, &first, &second]);
    assert_eq!(server.engine.asked.lock().unwrap().len(), 2);
    assert_eq!(server.engine.rooms.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_stop_string_ends_a_beam_and_keeps_its_score() {
    let server = searching(forked);
    let stop = text(&[B, E]);
    let stop = stop.trim();
    let body = asking(&json!({"stop": [stop]}));
    let answer = server.post("/v1/completions", &body).await.json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "stop");
    assert!(!choice["text"].as_str().unwrap().contains(stop), "{choice}");
    assert_eq!(answer["usage"]["completion_tokens"], 2);
    at_rest(&server);
}

#[tokio::test]
async fn the_length_ends_all_beams_and_the_score_decides() {
    let server = searching(forked);
    let answer = server
        .post(
            "/v1/completions",
            &asking(&json!({"max_tokens": 1, "n": 2})),
        )
        .await
        .json();
    for (index, id) in [A, B].into_iter().enumerate() {
        assert_eq!(answer["choices"][index]["text"], text(&[id]));
        assert_eq!(answer["choices"][index]["finish_reason"], "length");
    }
}

#[tokio::test]
async fn one_beam_is_greedy_and_runs_as_any_request() {
    let server = searching(forked);
    let body = asking(&json!({"best_of": 1, "temperature": 1.0}));
    let answer = server.post("/v1/completions", &body).await.json();
    assert_eq!(answer["choices"][0]["text"], "one two");
    assert!(server.engine.last().sampling.greedy);
    assert!(server.engine.rounds.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_has_no_say_in_a_search_is_refused_by_name() {
    let server = searching(forked);
    for (name, value) in [
        ("temperature", json!(0.7)),
        ("top_p", json!(0.9)),
        ("top_k", json!(5)),
        ("min_p", json!(0.1)),
        ("typical_p", json!(0.5)),
        ("best_of", json!(5)),
        ("length_penalty", json!(10.5)),
        ("early_stopping", json!("soon")),
        ("early_stopping", json!(1)),
    ] {
        let answer = server
            .post("/v1/completions", &asking(&json!({name: value})))
            .await;
        let error = &answer.json()["error"];
        let found = (answer.status.as_u16(), &error["param"]);
        assert_eq!(found, (422, &json!(name)), "{}", answer.text);
    }
    for (name, value) in [
        ("length_penalty", json!(2)),
        ("early_stopping", json!(true)),
    ] {
        let body = json!({"prompt": "Hi", name: value});
        let answer = server.post("/v1/completions", &body).await;
        assert_eq!(answer.json()["error"]["param"], name);
    }
    let more = asking(&json!({"n": 3}));
    let answer = server.post("/v1/completions", &more).await;
    assert_eq!(answer.json()["error"]["param"], "best_of");
    assert!(server.engine.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_says_nothing_new_is_taken() {
    let server = searching(forked);
    let body = json!({"temperature": 0, "top_p": 1, "top_k": -1, "seed": 3, "length_penalty": 1.0,
        "early_stopping": "never", "repetition_penalty": 1.3, "logit_bias": {"5": 1}});
    let answer = server.post("/v1/completions", &asking(&body)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let body = json!({"prompt": "Hi", "use_beam_search": false, "length_penalty": 1.0, "early_stopping": false});
    let answer = server.post("/v1/completions", &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
}

#[tokio::test]
async fn too_many_stop_tokens_for_the_list_of_a_shard_are_refused() {
    let mut engine = FakeEngine::new(Vec::new());
    engine.listed = forked;
    let mut settings = HttpSettings::new("demo");
    settings.max_best_of = 200;
    let server = Server::with(engine, settings);
    let wide = asking(&json!({"best_of": 120}));
    let answer = server.post("/v1/completions", &wide).await;
    assert_eq!(
        answer.json()["error"]["param"],
        "best_of",
        "{}",
        answer.text
    );
    assert!(answer.text.contains("239"));
}

#[tokio::test]
async fn an_encoder_decoder_has_no_beams() {
    let mut engine = FakeEngine::new(ended("one"));
    engine.prompt_runs = PromptRuns::Whole { start_token: 0 };
    let server = Server::with(engine, HttpSettings::new("demo"));
    let answer = server.post("/v1/completions", &asking(&json!({}))).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(answer.json()["error"]["param"], "use_beam_search");
}

#[tokio::test]
async fn fewer_texts_than_wanted_are_an_error_that_says_how_many() {
    let server = searching(|history| match history {
        [] => vec![(A, -0.1), (B, -2.0)],
        _ => vec![(EOS, 0.0)],
    });
    let body = asking(&json!({"n": 3, "best_of": 3}));
    let answer = server.post("/v1/completions", &body).await;
    assert_eq!(
        answer.status,
        StatusCode::UNPROCESSABLE_ENTITY,
        "{}",
        answer.text
    );
    assert_eq!(answer.json()["error"]["param"], "n");
    assert!(answer.text.contains("found 2"), "{}", answer.text);
    at_rest(&server);
}

#[tokio::test]
async fn a_beam_that_fails_ends_the_request() {
    let mut engine = FakeEngine::new(Vec::new());
    engine.listed = forked;
    engine.breaks_behind = Some(1);
    let server = Server::with(engine, HttpSettings::new("demo"));
    let answer = server.post("/v1/completions", &asking(&json!({}))).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(server.engine.alive.load(Ordering::SeqCst), 0);
}
