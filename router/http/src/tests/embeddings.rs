//! `/v1/embeddings`: what the engine is asked, the two forms of vectors, and every way to ask wrongly.

use ribbon_core::Pooling;
use serde_json::{Value, json};

use super::*;

const PATH: &str = "/v1/embeddings";

fn server(pooling: Option<Pooling>) -> Server {
    let settings = HttpSettings {
        pooling,
        ..HttpSettings::new("demo")
    };
    Server::with(FakeEngine::new(tokens("a")), settings)
}

fn vectors(answer: &Answer) -> Vec<Value> {
    let data = answer.json()["data"].as_array().unwrap().clone();
    data.into_iter()
        .map(|one| one["embedding"].clone())
        .collect()
}

#[tokio::test]
async fn every_form_of_input_has_its_vectors_in_order() {
    let server = server(Some(Pooling::Mean));
    for (input, number) in [
        (json!("red apple"), 1),
        (json!(["red", "a green table", "sky"]), 3),
        (json!([5, 6, 7]), 1),
        (json!([[5], [6, 7]]), 2),
    ] {
        let answer = server
            .post(PATH, &json!({"input": input, "model": "mine"}))
            .await;
        let body = answer.json();
        assert_eq!(
            (answer.status.as_u16(), &body["object"]),
            (200, &json!("list")),
            "{body}"
        );
        assert_eq!(body["model"], "mine");
        let data = body["data"].as_array().unwrap();
        let places: Vec<_> = data.iter().map(|one| one["index"].clone()).collect();
        assert_eq!(
            places,
            (0..number).map(|index| json!(index)).collect::<Vec<_>>()
        );
        assert!(data.iter().all(|one| one["object"] == "embedding"));
        assert_eq!(vectors(&answer), vec![json!([0.6, -0.8]); number]);
        let asked = server
            .engine
            .asked
            .lock()
            .unwrap()
            .drain(..)
            .collect::<Vec<_>>();
        let tokens: usize = asked.iter().map(|request| request.prompt.len()).sum();
        assert!(asked.iter().all(|request| request.max_new_tokens == 0));
        assert_eq!(
            body["usage"],
            json!({"prompt_tokens": tokens, "total_tokens": tokens})
        );
        assert_eq!(answer.header("x-prompt-tokens"), tokens.to_string());
        assert_eq!(answer.header("x-generated-tokens"), "0");
    }
    assert_eq!(server.sample("tgi_request_success"), 4);
    assert_eq!(server.sample("ribbon_time_to_first_token_seconds_count"), 0);
}

#[tokio::test]
async fn as_many_inputs_as_openai_takes_are_read_a_few_at_a_time() {
    let server = server(Some(Pooling::Mean));
    let texts: Vec<String> = (0..2048).map(|number| format!("n{number}")).collect();
    let answer = server.post(PATH, &json!({"input": texts})).await;
    assert_eq!(vectors(&answer).len(), 2048, "{}", answer.status);
    let asked = server.engine.asked.lock().unwrap();
    let prompts: Vec<_> = asked.iter().map(|request| &request.prompt[..]).collect();
    let expected: Vec<_> = texts
        .iter()
        .map(|text| tokenizer().encode(text, SpecialTokens::Add).unwrap())
        .collect();
    assert_eq!(prompts, expected);
    // Each part asks for room before it is tokenized and when it is sent.
    assert_eq!(server.engine.rooms.lock().unwrap().len(), 2 * 2048 / 4);
}

#[tokio::test]
async fn the_operators_pooling_is_asked_for() {
    let server = server(Some(Pooling::Last));
    let answer = server.post(PATH, &json!({"input": "red"})).await;
    assert_eq!(vectors(&answer), [json!([0.0, 1.0])]);
    assert_eq!(server.engine.last().pooling, Some(Pooling::Last));
    assert_eq!(answer.json()["model"], "demo");
}

#[tokio::test]
async fn base64_has_the_bytes_of_little_endian_singles() {
    let server = server(Some(Pooling::Last));
    let body = json!({"input": "red", "encoding_format": "base64"});
    let answer = server.post(PATH, &body).await;
    assert_eq!(
        vectors(&answer),
        [json!("AAAAAAAAgD8=")],
        "the bytes of 0 and 1"
    );
}

#[tokio::test]
async fn without_the_flag_the_route_says_how_to_get_it() {
    let server = server(None);
    let answer = server.post(PATH, &json!({"input": "red"})).await;
    let error = &answer.json()["error"];
    assert_eq!(answer.status.as_u16(), 404);
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("--enable-embeddings")
    );
    assert!(server.engine.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_by_name() {
    let server = server(Some(Pooling::Mean));
    let long: Vec<u32> = vec![5; 201];
    for (field, value) in [
        ("input", Value::Null),
        ("input", json!("")),
        ("input", json!([])),
        ("input", json!(["a", ""])),
        ("input", json!([[]])),
        ("input", json!(vec!["a"; 2049])),
        ("input", json!({"text": "a"})),
        ("input", json!([5, "a"])),
        ("input", json!([2048])),
        ("input", json!([-1])),
        ("input", json!(long)),
        ("encoding_format", json!("int8")),
        ("dimensions", json!(2)),
        ("truncate_prompt_tokens", json!(2)),
        ("cache_salt", json!("")),
        ("priority", json!(10_000_000)),
    ] {
        let mut body = json!({"input": "red"});
        body[field] = value.clone();
        let answer = server.post(PATH, &body).await;
        let error = &answer.json()["error"];
        assert_eq!(
            answer.status.as_u16(),
            422,
            "{field} {value}: {}",
            answer.text
        );
        assert_eq!(error["param"], field, "{value}: {}", answer.text);
    }
    assert!(server.engine.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_model_without_states_says_so() {
    let mut engine = FakeEngine::new(tokens("a"));
    engine.can_pool = false;
    let settings = HttpSettings {
        pooling: Some(Pooling::Mean),
        ..HttpSettings::new("demo")
    };
    let server = Server::with(engine, settings);
    let answer = server.post(PATH, &json!({"input": "red"})).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error"]["param"]),
        (422, &json!("model"))
    );
}

#[tokio::test]
async fn it_is_documented_where_it_is_served() {
    for (pooling, is_there) in [(Some(Pooling::Mean), true), (None, false)] {
        let document = server(pooling).get("/api-doc/openapi.json").await.json();
        assert_eq!(document["paths"].get(PATH).is_some(), is_there);
    }
}
