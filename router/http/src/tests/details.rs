//! What is said about tokens: scores of prompts, logprobs of completions in their own shape, watermarks.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::*;

const COMPLETIONS: &str = "/v1/completions";

fn prompt_ids(text: &str) -> Vec<u32> {
    tokenizer().encode(text, SpecialTokens::Add).unwrap()
}

#[tokio::test]
async fn decoder_input_details_list_the_prompt_with_its_logprobs() {
    let server = Server::saying(ended("a"));
    let body = json!({"inputs": "one two", "parameters": {"decoder_input_details": true}});
    let answer = server.post("/generate", &body).await.json();
    let prefill = answer["details"]["prefill"].as_array().unwrap();
    let ids = prompt_ids("one two");
    let listed: Vec<u32> = prefill
        .iter()
        .map(|token| token["id"].as_u64().unwrap() as u32)
        .collect();
    assert_eq!(listed, ids);
    let logprobs: Vec<&Value> = prefill.iter().map(|token| &token["logprob"]).collect();
    assert_eq!(logprobs[..3], [&Value::Null, &json!(-8.0), &json!(-4.0)]);
    assert_eq!(prefill[0]["text"], tokenizer().text_of(ids[0]));
    assert_eq!(server.engine.last().sampling.prompt_top_tokens, Some(0));
}

#[tokio::test]
async fn without_them_the_prompt_is_not_scored() {
    let server = Server::saying(ended("a"));
    let body = json!({"inputs": "one two", "parameters": {"details": true}});
    let answer = server.post("/generate", &body).await.json();
    assert_eq!(answer["details"]["prefill"], json!([]));
    assert_eq!(server.engine.last().sampling.prompt_top_tokens, None);
    let body = json!({"inputs": "one two", "parameters": {"decoder_input_details": false}});
    let answer = server.post("/generate", &body).await.json();
    assert_eq!(answer, json!({"generated_text": "a"}));
}

#[tokio::test]
async fn every_run_of_best_of_shows_the_prompt() {
    let server = Server::saying(ended("a"));
    let parameters = json!({"decoder_input_details": true, "best_of": 2, "do_sample": true});
    let body = json!({"inputs": "one two", "parameters": parameters});
    let details = server.post("/generate", &body).await.json()["details"].clone();
    assert!(!details["prefill"].as_array().unwrap().is_empty());
    assert_eq!(
        details["best_of_sequences"][0]["prefill"],
        details["prefill"]
    );
}

#[tokio::test]
async fn a_stream_has_no_place_for_the_prompt() {
    let server = Server::saying(ended("a"));
    let body = json!({"inputs": "Hi", "parameters": {"decoder_input_details": true}});
    let answer = server.post("/generate_stream", &body).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer.text.contains("`decoder_input_details`"));
    assert!(server.engine.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_watermark_is_asked_for_with_the_servers_own_strength() {
    let server = Server::saying(ended("a"));
    for (wanted, expected) in [
        (json!(true), Some(HttpSettings::new("any").watermark)),
        (json!(false), None),
        (json!(null), None),
    ] {
        let body = json!({"inputs": "Hi", "parameters": {"watermark": wanted}});
        assert_eq!(server.post("/generate", &body).await.status, StatusCode::OK);
        assert_eq!(server.engine.last().sampling.watermark, expected);
    }
}

#[tokio::test]
async fn completions_list_logprobs_side_by_side() {
    let server = Server::saying(ended("Hello €"));
    let body = json!({"prompt": "one", "logprobs": 1});
    let answer = server.post(COMPLETIONS, &body).await.json();
    let choice = &answer["choices"][0];
    let lists = &choice["logprobs"];
    let tokens: Vec<String> = ended("Hello €").iter().map(spoken).collect();
    assert_eq!(lists["tokens"], json!(tokens));
    let length = tokens.len();
    for name in ["token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(lists[name].as_array().unwrap().len(), length, "{name}");
    }
    assert_eq!(lists["token_logprobs"][1], json!(-0.5));
    assert_eq!(lists["top_logprobs"][0], json!({&tokens[0]: -0.5}));
    assert_eq!(lists["text_offset"][0], json!(0));
    let last = lists["text_offset"][length - 1].as_u64().unwrap() as usize;
    assert_eq!(last, choice["text"].as_str().unwrap().chars().count());
    assert_eq!(server.engine.last().sampling.top_tokens, 1);
}

fn spoken(item: &Item) -> String {
    let Item::Token(id) = item else {
        panic!("only tokens are said");
    };
    tokenizer().text_of(*id)
}

#[tokio::test]
async fn the_token_itself_is_listed_where_it_is_not_among_the_likeliest() {
    let server = Server::saying(ended("a"));
    let body = json!({"prompt": "one", "logprobs": 0});
    let lists = server.post(COMPLETIONS, &body).await.json()["choices"][0]["logprobs"].clone();
    assert_eq!(lists["top_logprobs"][0], json!({"a": -0.25}));
}

#[tokio::test]
async fn an_echo_begins_with_the_prompt() {
    let server = Server::saying(ended("x"));
    let body = json!({"prompt": ["one", "two €"], "echo": true});
    let answer = server.post(COMPLETIONS, &body).await.json();
    assert_eq!(answer["choices"][0]["text"], "onex");
    assert_eq!(answer["choices"][1]["text"], "two €x");
    assert_eq!(answer["choices"][0]["logprobs"], Value::Null);
    assert_eq!(server.engine.last().sampling.prompt_top_tokens, None);
    let ids = tokenizer().encode("two €", SpecialTokens::Skip).unwrap();
    let body = json!({"prompt": ids, "echo": true, "n": 2});
    let answer = server.post(COMPLETIONS, &body).await.json();
    assert_eq!(answer["choices"][0]["text"], "two €x");
    assert_eq!(answer["choices"][1]["text"], "two €x");
}

#[tokio::test]
async fn an_echo_with_logprobs_scores_the_prompt() {
    let server = Server::saying(ended("x"));
    let body = json!({"prompt": "two €", "echo": true, "logprobs": 2});
    let answer = server.post(COMPLETIONS, &body).await.json();
    let (text, lists) = (
        answer["choices"][0]["text"].as_str().unwrap(),
        &answer["choices"][0]["logprobs"],
    );
    let prompt = prompt_ids("two €");
    assert_eq!(server.engine.last().sampling.prompt_top_tokens, Some(2));
    assert_eq!(lists["token_logprobs"][0], Value::Null);
    assert_eq!(lists["top_logprobs"][0], Value::Null);
    assert_eq!(lists["token_logprobs"][1], json!(-8.0));
    assert_eq!(
        lists["tokens"].as_array().unwrap().len(),
        prompt.len() + ended("x").len()
    );
    assert_eq!(
        lists["text_offset"][prompt.len()],
        json!("two €".chars().count())
    );
    let starts: Vec<usize> = lists["text_offset"]
        .as_array()
        .unwrap()
        .iter()
        .map(|offset| offset.as_u64().unwrap() as usize)
        .collect();
    assert!(starts.is_sorted());
    assert!(starts.iter().all(|start| *start <= text.chars().count()));
    assert!(tokenizer().is_special(prompt[0]));
    assert_eq!(starts[..2], [0, 0], "the begin token has no text");
}

/// Where the texts of the tokens begin, which a stream says too.
async fn offsets(script: Vec<Item>, fields: &Value) -> Vec<usize> {
    let server = Server::saying(script);
    let mut body = json!({"prompt": "Hi", "echo": true, "logprobs": 0});
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    let read = |choice: &Value| {
        let list = choice["logprobs"]["text_offset"].as_array().unwrap();
        let offset = |offset: &Value| offset.as_u64().unwrap() as usize;
        list.iter().map(offset).collect::<Vec<_>>()
    };
    let whole = read(&server.post(COMPLETIONS, &body).await.json()["choices"][0]);
    body["stream"] = json!(true);
    let events = server.post(COMPLETIONS, &body).await.json_events();
    let streamed = events.iter().flat_map(|event| read(&event["choices"][0]));
    assert_eq!(whole, streamed.collect::<Vec<_>>());
    whole
}

#[tokio::test]
async fn text_offsets_count_what_is_held_back_for_a_stop_string() {
    let script = ended("a large fish named Mia");
    let prompt = prompt_ids("Hi").len();
    for stop in [
        json!("a large fish named Toby"),
        json!("fish named"),
        Value::Null,
    ] {
        let found = offsets(script.clone(), &json!({"stop": stop})).await;
        let mut expected = vec!["Hi".len()];
        for token in &script {
            expected.push(expected.last().unwrap() + spoken(token).chars().count());
        }
        let generated = &found[prompt..];
        assert_eq!(generated, &expected[..generated.len()], "{stop}");
        assert!(generated.len() > 3);
    }
}

#[tokio::test]
async fn text_offsets_of_parts_of_characters_are_the_characters() {
    let emoji = tokenizer()
        .encode("\u{1F600}", SpecialTokens::Skip)
        .unwrap();
    assert_eq!(emoji.len(), 4, "a token for each byte");
    let broken = vec![emoji[0]; 4];
    for (ids, expected) in [(&emoji, [0, 0, 0, 0]), (&broken, [0, 1, 2, 3])] {
        let script: Vec<Item> = ids.iter().copied().map(Item::Token).collect();
        let generated = offsets(script, &json!({"prompt": "a", "max_tokens": 4})).await;
        let begin = generated.len() - 4;
        assert_eq!(generated[begin..], expected.map(|place| place + 1));
        let read = offsets(ended("x"), &json!({"prompt": ids, "max_tokens": 0})).await;
        assert_eq!(read, expected);
    }
}

#[tokio::test]
async fn a_stream_shows_what_a_whole_answer_does() {
    let server = Server::saying(ended("Hello € x"));
    let mut body = json!({"prompt": ["two €", "one"], "echo": true, "logprobs": 1, "n": 2});
    let whole = server.post(COMPLETIONS, &body).await.json();
    body["stream"] = json!(true);
    let events = server.post(COMPLETIONS, &body).await.json_events();
    for choice in whole["choices"].as_array().unwrap() {
        let mine: Vec<&Value> = events
            .iter()
            .map(|event| &event["choices"][0])
            .filter(|piece| piece["index"] == choice["index"])
            .collect();
        let text: String = mine
            .iter()
            .map(|piece| piece["text"].as_str().unwrap())
            .collect();
        assert_eq!(text, choice["text"]);
        for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            let list = mine
                .iter()
                .flat_map(|piece| piece["logprobs"][name].as_array().unwrap().clone());
            assert_eq!(json!(list.collect::<Vec<_>>()), choice["logprobs"][name]);
        }
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let server = Server::saying(ended("a"));
    let chat = json!([{"role": "user", "content": "Hi"}]);
    for (route, body, param) in [
        (
            COMPLETIONS,
            json!({"prompt": "Hi", "logprobs": 6}),
            "logprobs",
        ),
        (
            COMPLETIONS,
            json!({"prompt": "Hi", "logprobs": -1}),
            "logprobs",
        ),
        (
            COMPLETIONS,
            json!({"prompt": "Hi", "logprobs": true}),
            "logprobs",
        ),
        (
            COMPLETIONS,
            json!({"prompt": "Hi", "top_logprobs": 1}),
            "top_logprobs",
        ),
        (
            "/v1/chat/completions",
            json!({"messages": chat, "echo": true}),
            "echo",
        ),
        (
            "/v1/chat/completions",
            json!({"messages": chat, "logprobs": 1}),
            "logprobs",
        ),
    ] {
        let answer = server.post(route, &body).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert_eq!(answer.json()["error"]["param"], param, "{body}");
    }
    assert!(server.engine.asked.lock().unwrap().is_empty());
}
