//! Grammars through every field that asks for one: what reaches the engine, and what is refused by name.

use ribbon_core::{Grammar, GrammarKind};
use serde_json::{Value, json};

use super::*;
use crate::wish::LAST_RESORT;

/// The grammar that the engine gets for a body, if any.
async fn asked(path: &str, body: &Value) -> Option<Arc<Grammar>> {
    let server = Server::saying(ended("a"));
    let answer = server.post(path, body).await;
    assert_eq!(answer.status, StatusCode::OK, "{body}: {}", answer.text);
    server.engine.last().sampling.grammar.clone()
}

async fn native(grammar: Value) -> Option<Arc<Grammar>> {
    let body = json!({"inputs": "Hi", "parameters": {"grammar": grammar}});
    asked("/generate", &body).await
}

async fn openai(field: &str, value: Value) -> Option<Arc<Grammar>> {
    let completion = json!({"prompt": "Hi", field: value.clone()});
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}], field: value});
    let grammar = asked("/v1/completions", &completion).await;
    assert_eq!(grammar, asked("/v1/chat/completions", &chat).await);
    grammar
}

fn point() -> Value {
    json!({"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]})
}

#[tokio::test]
async fn every_form_of_a_schema_is_the_same_grammar() {
    let grammar = native(json!({"type": "json", "value": point()}))
        .await
        .unwrap();
    assert_eq!(grammar.kind, GrammarKind::JsonSchema);
    assert!(grammar.source.contains("\"required\":[\"x\"]"));
    let same = [
        native(json!({"type": "json_object", "value": point()})).await,
        native(json!({"type": "json", "value": point().to_string()})).await,
        native(json!({"type": "json_schema", "value": {"name": "p", "schema": point(), "strict": true}})).await,
        openai("response_format", json!({"type": "json", "value": point()})).await,
        openai("response_format", json!({"type": "json_schema", "json_schema": {"name": "p", "strict": false, "schema": point()}})).await,
        openai("guided_json", point()).await,
        openai("guided_json", json!(point().to_string())).await,
    ];
    assert!(same.iter().all(|other| other.as_ref() == Some(&grammar)));
}

#[tokio::test]
async fn properties_without_a_type_mean_an_object() {
    let untyped = json!({"properties": {"x": {"type": "integer"}}, "required": ["x"]});
    let typed =
        json!({"properties": {"x": {"type": "integer"}}, "required": ["x"], "type": "object"});
    let named = |schema: &Value| json!({"type": "json_schema", "json_schema": {"schema": schema}});
    let object = openai("guided_json", typed).await;
    assert!(object.is_some());
    for same in [
        native(json!({"type": "json", "value": untyped})).await,
        native(json!({"type": "json", "value": untyped.to_string()})).await,
        native(json!({"type": "json_schema", "value": {"schema": untyped}})).await,
        openai(
            "response_format",
            json!({"type": "json_object", "value": untyped}),
        )
        .await,
        openai("response_format", named(&untyped)).await,
    ] {
        assert_eq!(same, object);
    }
    let empty = json!({"type": "json_object", "value": {}});
    let any_object = openai("guided_json", json!({"type": "object"})).await;
    assert_eq!(openai("response_format", empty).await, any_object);
    let required = named(&json!({"required": []}));
    let same = openai("guided_json", json!({"required": [], "type": "object"})).await;
    assert_eq!(openai("response_format", required).await, same);
}

#[tokio::test]
async fn a_schema_that_means_no_object_stays_as_it_is() {
    let number = json!({"type": "integer"});
    let same = openai("guided_json", number.clone()).await;
    assert_eq!(native(json!({"type": "json", "value": number})).await, same);
    let untyped = json!({"properties": {"x": {"type": "integer"}}});
    let plain = openai("guided_json", untyped).await.unwrap();
    assert!(!plain.source.contains("object"), "{}", plain.source);
}

#[tokio::test]
async fn every_other_form_is_its_own_kind() {
    let object = openai("response_format", json!({"type": "json_object"}))
        .await
        .unwrap();
    assert_eq!(object.kind, GrammarKind::JsonSchema);
    let regex = native(json!({"type": "regex", "value": "[a-c]+"}))
        .await
        .unwrap();
    assert_eq!((regex.kind, &*regex.source), (GrammarKind::Regex, "[a-c]+"));
    assert_eq!(
        openai("guided_regex", json!("[a-c]+")).await.unwrap(),
        regex
    );
    let choice = openai("guided_choice", json!(["a.", "b"])).await.unwrap();
    assert_eq!(&*choice.source, r"(?:a\.|b)");
    let lark = openai("guided_grammar", json!("start: \"a\""))
        .await
        .unwrap();
    assert_eq!(lark.kind, GrammarKind::Lark);
}

#[tokio::test]
async fn plain_text_and_null_are_no_grammar() {
    assert_eq!(
        openai("response_format", json!({"type": "text"})).await,
        None
    );
    for field in [
        "response_format",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
    ] {
        assert_eq!(openai(field, Value::Null).await, None);
    }
    assert_eq!(native(Value::Null).await, None);
}

#[tokio::test]
async fn what_cannot_be_enforced_is_422_with_the_field_and_the_keyword() {
    let server = Server::saying(ended("a"));
    let cases = [
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": {"schema": {"properties": {"a": {"not": {}}}}}}),
            "`not` at #/properties/a",
        ),
        (
            "response_format",
            json!({"type": "json_schema"}),
            "json_schema",
        ),
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": {"name": "x"}}),
            "schema",
        ),
        ("response_format", json!({"type": "regex"}), "value"),
        (
            "response_format",
            json!({"type": "regex", "value": 3}),
            "string",
        ),
        ("guided_json", json!([1]), "object"),
        ("guided_json", json!("{"), "no JSON"),
        ("guided_regex", json!("a("), "unclosed"),
        ("guided_choice", json!([]), "nothing to choose"),
        ("guided_grammar", json!("start: b"), "b"),
    ];
    for (field, value, words) in cases {
        let answer = server
            .post("/v1/completions", &json!({"prompt": "Hi", field: value}))
            .await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status.as_u16(), &error["param"]),
            (422, &json!(field)),
            "{}",
            answer.text
        );
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains(words) && message.contains(&format!("`{field}`")),
            "{message}"
        );
    }
    let native = json!({"inputs": "Hi", "parameters": {"grammar": {"type": "json", "value": {"uniqueItems": true}}}});
    let answer = server.post("/generate", &native).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error_type"]),
        (422, &json!("validation"))
    );
    assert!(
        answer.json()["error"]
            .as_str()
            .unwrap()
            .contains("`uniqueItems`"),
        "{}",
        answer.text
    );
    assert!(server.engine.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn two_grammars_exclude_each_other_and_a_wrong_shape_is_plain() {
    let server = Server::saying(ended("a"));
    let both =
        json!({"prompt": "Hi", "guided_regex": "a", "response_format": {"type": "json_object"}});
    let answer = server.post("/v1/completions", &both).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error"]["param"]),
        (422, &json!("guided_regex"))
    );
    let kind = json!({"inputs": "Hi", "parameters": {"grammar": {"type": "xml", "value": ""}}});
    let answer = server.post("/generate", &kind).await;
    assert_eq!(answer.status.as_u16(), 422);
    assert!(
        answer.text.contains("grammar") && answer.text.contains("xml"),
        "{}",
        answer.text
    );
}

#[tokio::test]
async fn all_sequences_of_a_request_follow_it_and_the_end_counts_in_spite_of_ignore_eos() {
    let server = Server::saying(ended("a"));
    let body = json!({"prompt": ["Hi", "Ho"], "n": 2, "temperature": 1, "max_tokens": 9, "guided_regex": "a", "ignore_eos": true});
    let answer = server.post("/v1/completions", &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let asked = server.engine.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 4);
    for request in asked {
        assert!(request.sampling.grammar.is_some());
        assert_eq!(
            (&*request.stop_token_ids, request.min_tokens),
            (&[EOS][..], 0)
        );
        assert_eq!(request.sampling.logit_bias, [(EOS, LAST_RESORT)]);
    }
}

#[tokio::test]
async fn with_ignore_eos_the_requests_own_stops_still_end_it() {
    let server = Server::saying(ended("one two three"));
    let third = tokenizer()
        .encode("one two three", SpecialTokens::Skip)
        .unwrap()[2];
    for (stop, text) in [
        (json!({"stop": ["w"]}), "one t"),
        (json!({"stop": ["w"], "min_tokens": 9}), "one two three"),
        (json!({"stop_token_ids": [third]}), "one tw"),
    ] {
        let mut body =
            json!({"prompt": "Hi", "max_tokens": 9, "guided_regex": "[a-z ]+", "ignore_eos": true});
        body.as_object_mut()
            .unwrap()
            .extend(stop.as_object().unwrap().clone());
        let choice = server.post("/v1/completions", &body).await.json()["choices"][0].clone();
        assert_eq!(
            (&choice["text"], &choice["finish_reason"]),
            (&json!(text), &json!("stop"))
        );
        let sampling = server.engine.last().sampling;
        assert_eq!(
            sampling.logit_bias,
            [(EOS, LAST_RESORT)],
            "no other token is held back"
        );
    }
}

#[tokio::test]
async fn switched_off_every_grammar_is_refused_with_the_flag() {
    let settings = HttpSettings {
        grammar_support: false,
        ..HttpSettings::new("demo")
    };
    let server = Server::with(FakeEngine::new(ended("a")), settings);
    let answer = server
        .post(
            "/v1/completions",
            &json!({"prompt": "Hi", "guided_regex": "a"}),
        )
        .await;
    assert_eq!(answer.status.as_u16(), 422);
    assert!(
        answer.text.contains("--disable-grammar-support"),
        "{}",
        answer.text
    );
    let answer = server
        .post("/v1/completions", &json!({"prompt": "Hi"}))
        .await;
    assert_eq!(answer.status, StatusCode::OK);
}
