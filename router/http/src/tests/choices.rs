//! Several sequences of one prompt: `n`, `best_of`, and what is counted once.

use serde_json::json;

use super::*;

/// Three runs: the second is the shortest, which the fake engine finds the likeliest.
fn three() -> Server {
    let mut engine = FakeEngine::new(ended("one one one one one one"));
    engine.others = vec![ended("one"), ended("one one one")];
    let mut settings = HttpSettings::new("demo");
    settings.max_best_of = 3;
    Server::with(engine, settings)
}

fn chat(more: &Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}], "seed": 7});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

#[tokio::test]
async fn n_choices_share_prompt_and_seed_and_differ_in_their_index() {
    let server = three();
    let answer = server
        .post("/v1/chat/completions", &chat(&json!({"n": 3})))
        .await;
    let body = answer.json();
    let said: Vec<&Value> = (0..3)
        .map(|i| &body["choices"][i]["message"]["content"])
        .collect();
    assert_eq!(said, ["one one one one one one", "one", "one one one"]);
    let indexes: Vec<&Value> = (0..3).map(|i| &body["choices"][i]["index"]).collect();
    assert_eq!(indexes, [0, 1, 2]);
    let asked = server.engine.asked.lock().unwrap();
    let picks: Vec<(u64, u32)> = asked
        .iter()
        .map(|one| (one.sampling.seed, one.sampling.choice))
        .collect();
    assert_eq!(picks, [(7, 0), (7, 1), (7, 2)]);
    assert!(
        Arc::ptr_eq(&asked[0].prompt, &asked[2].prompt),
        "one prompt"
    );
    let prompt = asked[0].prompt.len();
    let usage = &body["usage"];
    assert_eq!(usage["prompt_tokens"], prompt, "counted once");
    assert_eq!(usage["prompt_tokens_details"], json!({"cached_tokens": 2}));
    let total = usage["completion_tokens"].as_u64().unwrap() + prompt as u64;
    assert_eq!(usage["total_tokens"], total);
    assert_eq!(answer.header("x-prompt-tokens"), prompt.to_string());
    assert_eq!(
        server.engine.rooms.lock().unwrap().len(),
        2,
        "one group: before and after tokenizing"
    );
}

#[tokio::test]
async fn a_stream_says_which_choice_it_is_about() {
    let server = three();
    let body = chat(&json!({"n": 2, "stream": true, "stream_options": {"include_usage": true}}));
    let events = server
        .post("/v1/chat/completions", &body)
        .await
        .json_events();
    for (index, expected) in ["one one one one one one", "one"].iter().enumerate() {
        let mine = events
            .iter()
            .filter(|event| event["choices"][0]["index"] == index);
        let choices: Vec<&Value> = mine.map(|event| &event["choices"][0]).collect();
        let text: String = choices
            .iter()
            .map(|choice| choice["delta"]["content"].as_str().unwrap())
            .collect();
        assert_eq!(text, *expected);
        let roles = choices
            .iter()
            .filter(|choice| choice["delta"]["role"] == "assistant");
        assert_eq!(roles.count(), 1);
        assert_eq!(choices[0]["delta"]["role"], "assistant");
        assert_eq!(choices.last().unwrap()["finish_reason"], "stop");
    }
    let usage = &events.last().unwrap()["usage"];
    assert_eq!(usage["prompt_tokens"], server.engine.last().prompt.len());
}

#[tokio::test]
async fn completions_count_choices_over_all_prompts() {
    let server = three();
    let body = json!({"prompt": ["a", "b"], "n": 2, "seed": 1});
    let choices = server.post("/v1/completions", &body).await.json()["choices"].clone();
    let indexes: Vec<&Value> = (0..4).map(|i| &choices[i]["index"]).collect();
    assert_eq!(indexes, [0, 1, 2, 3]);
    let asked = server.engine.asked.lock().unwrap();
    let picks: Vec<u32> = asked.iter().map(|one| one.sampling.choice).collect();
    assert_eq!(picks, [0, 1, 2, 3]);
    assert_eq!(asked[0].prompt, asked[1].prompt);
    assert_ne!(asked[1].prompt, asked[2].prompt);
}

#[tokio::test]
async fn openai_best_of_keeps_the_likeliest() {
    let server = three();
    let body = json!({"prompt": "a", "n": 2, "best_of": 3});
    let answer = server.post("/v1/completions", &body).await.json();
    let said: Vec<&Value> = answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| &choice["text"])
        .collect();
    assert_eq!(said, ["one", "one one one"]);
    assert_eq!(answer["choices"][1]["index"], 1);
    let generated = answer["usage"]["completion_tokens"].as_u64().unwrap();
    assert!(generated > 8, "those that are not shown were generated too");
    for body in [
        json!({"prompt": "a", "n": 2, "best_of": 1}),
        json!({"prompt": "a", "n": 2, "best_of": 3, "stream": true}),
    ] {
        let answer = server.post("/v1/completions", &body).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(answer.json()["error"]["param"], "best_of");
    }
}

#[tokio::test]
async fn native_best_of_draws_a_seed_per_run_and_shows_the_losers() {
    let server = three();
    let parameters = json!({"best_of": 3, "do_sample": true, "details": true});
    let body = json!({"inputs": "Hi", "parameters": parameters});
    let answer = server.post("/generate", &body).await.json();
    assert_eq!(answer["generated_text"], "one");
    let others = answer["details"]["best_of_sequences"].as_array().unwrap();
    let texts: Vec<&Value> = others.iter().map(|one| &one["generated_text"]).collect();
    assert_eq!(texts, ["one one one", "one one one one one one"]);
    for name in [
        "finish_reason",
        "generated_tokens",
        "seed",
        "prefill",
        "tokens",
    ] {
        assert!(
            others[0].get(name).is_some(),
            "{name} is missing: {}",
            others[0]
        );
    }
    assert!(others[0].get("best_of_sequences").is_none());
    let asked = server.engine.asked.lock().unwrap();
    assert!(asked.iter().all(|one| one.sampling.choice == 0));
    let seeds: Vec<u64> = asked.iter().map(|one| one.sampling.seed).collect();
    assert!(seeds[0] != seeds[1] && seeds[1] != seeds[2]);
    assert_eq!(
        answer["details"]["seed"], seeds[1],
        "the best run's own seed"
    );
    assert_eq!(others[0]["seed"], seeds[2]);
}

#[tokio::test]
async fn one_run_has_no_losers() {
    let server = three();
    let body = json!({"inputs": "Hi", "parameters": {"best_of": 1, "details": true}});
    let answer = server.post("/generate", &body).await.json();
    assert!(answer["details"].get("best_of_sequences").is_none());
}

#[tokio::test]
async fn a_stop_string_ends_a_sequence_that_nobody_left() {
    let server = Server::saying(ended("one two three"));
    let body = json!({"inputs": "Hi", "parameters": {"stop": ["two"]}});
    let answer = server.post("/generate", &body).await.json();
    assert_eq!(answer["generated_text"], "one two");
    let satisfied = server
        .engine
        .satisfied
        .load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!((satisfied, server.engine.alive()), (1, 0));
}
