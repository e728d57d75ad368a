//! Routes in the words of others: SageMaker's and Vertex AI's, and the conversation as the model would read it.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::*;

const INVOCATIONS: &str = "/invocations";

fn hi() -> Value {
    json!([{"role": "user", "content": "Hi"}])
}

#[tokio::test]
async fn invocations_go_where_their_fields_belong() {
    let server = Server::saying(ended(" world"));
    let native = server.post(INVOCATIONS, &json!({"inputs": "Hello"})).await;
    assert_eq!(native.json(), json!([{"generated_text": "Hello world"}]));
    assert_eq!(native.header("x-compute-characters"), "5");
    let chat = server.post(INVOCATIONS, &json!({"messages": hi()})).await;
    assert_eq!(chat.json()["object"], "chat.completion");
    let completion = server.post(INVOCATIONS, &json!({"prompt": "Hello"})).await;
    assert_eq!(completion.json()["choices"][0]["text"], " world");
    let nulls = server
        .post(
            INVOCATIONS,
            &json!({"inputs": null, "messages": null, "prompt": "a"}),
        )
        .await;
    assert_eq!(nulls.json()["object"], "text_completion");
    assert_eq!(server.sample("tgi_request_success"), 4);
}

#[tokio::test]
async fn invocations_stream_too() {
    let server = Server::saying(ended("a"));
    let stream = server
        .post(INVOCATIONS, &json!({"inputs": "Hello", "stream": true}))
        .await;
    assert_eq!(stream.header("content-type"), "text/event-stream");
    assert_eq!(
        stream.json_events().last().unwrap()["generated_text"],
        "Helloa"
    );
    let chat = server
        .post(INVOCATIONS, &json!({"messages": hi(), "stream": true}))
        .await;
    assert_eq!(chat.events().last(), Some(&"[DONE]"));
}

#[tokio::test]
async fn an_invocation_of_nothing_is_plain_text_and_others_err_as_their_route() {
    let server = Server::saying(ended("a"));
    for (body, content_type, says) in [
        (
            json!({"text": "Hi"}),
            "text/plain; charset=utf-8",
            "`inputs`, `messages` and `prompt`",
        ),
        (json!([]), "text/plain; charset=utf-8", "an object"),
        (json!({"inputs": 3}), "text/plain; charset=utf-8", "inputs"),
        (
            json!({"inputs": ""}),
            "application/json",
            "\"error_type\":\"validation\"",
        ),
        (
            json!({"messages": []}),
            "application/json",
            "\"param\":\"messages\"",
        ),
        (
            json!({"prompt": ""}),
            "application/json",
            "\"param\":\"prompt\"",
        ),
    ] {
        let answer = server.post(INVOCATIONS, &body).await;
        assert_eq!(answer.status.as_u16(), 422, "{body}");
        assert_eq!(answer.header("content-type"), content_type, "{body}");
        assert!(answer.text.contains(says), "{body}: {}", answer.text);
    }
    assert_eq!(
        server.call(post(INVOCATIONS, "{")).await.status(),
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn vertex_predicts_for_each_instance_in_order() {
    let server = Server::saying(ended("a b"));
    let instances = json!([
        {"inputs": "one", "parameters": {"max_new_tokens": 1, "seed": 9, "temperature": "ignored"}},
        {"messages": hi(), "max_tokens": 2},
        {"inputs": "three", "parameters": null},
    ]);
    let answer = server
        .post("/vertex", &json!({"instances": instances}))
        .await;
    assert_eq!(answer.json(), json!({"predictions": ["a", "a b", "a b"]}));
    assert!(answer.headers.get("x-compute-type").is_none());
    let asked = server.engine.asked.lock().unwrap();
    let shortest = asked.iter().min_by_key(|asked| asked.max_new_tokens);
    let first = shortest.expect("three were asked, in any order");
    assert!(!first.sampling.greedy, "sampling is forced on");
    assert_eq!((first.sampling.seed, first.max_new_tokens), (9, 1));
    assert_eq!(server.sample("tgi_request_success"), 1);
}

#[tokio::test]
async fn vertex_refuses_by_the_place_in_the_list() {
    let server = Server::saying(ended("a"));
    for (instances, status, says) in [
        (json!([]), 422, "\"error_type\":\"Input validation error\""),
        (
            json!([{"inputs": "a"}, {"inputs": 3}]),
            422,
            "instances[1].inputs",
        ),
        (json!([{"nothing": 3}]), 422, "`messages` is missing"),
        (json!([{"inputs": ""}]), 422, "`inputs` is empty"),
        (
            json!([{"inputs": "a", "parameters": {"max_new_tokens": 0}}]),
            422,
            "`max_new_tokens` is 0",
        ),
        (json!([3]), 422, "instances[0]"),
        (
            json!(vec![json!({"inputs": "a"}); 129]),
            422,
            "--max-concurrent-requests",
        ),
    ] {
        let answer = server
            .post("/vertex", &json!({"instances": instances}))
            .await;
        assert_eq!(answer.status.as_u16(), status, "{instances}");
        assert!(answer.text.contains(says), "{instances}: {}", answer.text);
    }
    assert!(server.engine.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_conversation_is_shown_as_the_model_would_read_it() {
    let server = Server::saying(Vec::new());
    let answer = server
        .post("/chat_tokenize", &json!({"messages": hi()}))
        .await
        .json();
    let prompt = "<|begin|><|user|>Hi<|end|><|assistant|>";
    assert_eq!(answer["templated_text"], prompt);
    let ids = tokenizer().encode(prompt, SpecialTokens::Skip).unwrap();
    let shown = answer["tokenize_response"].as_array().unwrap();
    let shown_ids: Vec<&Value> = shown.iter().map(|token| &token["id"]).collect();
    assert_eq!(json!(shown_ids), json!(ids));
    let text: String = shown
        .iter()
        .map(|token| token["text"].as_str().unwrap())
        .collect();
    assert_eq!(text, prompt);
    assert_eq!(
        server.sample("tgi_request_count"),
        1,
        "counted, as with TGI"
    );
    assert_eq!(server.sample("tgi_request_success"), 1);
    let refused = server
        .post("/chat_tokenize", &json!({"messages": []}))
        .await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["error_type"]),
        (422, &json!("validation"))
    );
}

#[tokio::test]
async fn the_pages_of_the_documentation_are_built_in() {
    let server = Server::saying(Vec::new());
    let page = server.get("/docs/").await;
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.text.contains("swagger-ui"));
    assert_eq!(server.get("/docs").await.status, StatusCode::SEE_OTHER);
    let script = server.get("/docs/swagger-ui-bundle.js").await;
    assert!(script.text.len() > 100_000);
    let start = server.get("/docs/swagger-initializer.js").await;
    assert!(
        start.text.contains("/api-doc/openapi.json"),
        "{}",
        start.text
    );
}

#[tokio::test]
async fn the_document_has_the_word_of_early_stopping_beside_its_booleans() {
    let server = Server::saying(Vec::new());
    let document = server.get("/api-doc/openapi.json").await.json();
    let parts = &document["components"]["schemas"]["OpenAiRequest"]["allOf"];
    let mut parts = parts.as_array().unwrap().iter();
    let body = parts
        .find(|part| !part["properties"]["early_stopping"].is_null())
        .unwrap();
    assert_eq!(
        body["properties"]["early_stopping"]["oneOf"],
        json!([{"type": "boolean"}, {"type": "string", "enum": ["never"]}, {"type": "null"}])
    );
    let required = body["required"].as_array().map_or(&[][..], Vec::as_slice);
    assert!(!required.contains(&json!("early_stopping")));
}

#[tokio::test]
async fn the_document_has_every_route_and_its_errors() {
    let server = Server::saying(Vec::new());
    let document = server.get("/api-doc/openapi.json").await.json();
    let paths = document["paths"].as_object().unwrap();
    for (path, method) in [
        ("/", "post"),
        ("/", "get"),
        ("/generate", "post"),
        ("/generate_stream", "post"),
        ("/v1/chat/completions", "post"),
        ("/v1/completions", "post"),
        ("/vertex", "post"),
        ("/invocations", "post"),
        ("/tokenize", "post"),
        ("/chat_tokenize", "post"),
        ("/info", "get"),
        ("/health", "get"),
        ("/ping", "get"),
        ("/metrics", "get"),
        ("/v1/models", "get"),
    ] {
        assert!(paths[path].get(method).is_some(), "{method} {path}");
    }
    let expected = [
        "200", "400", "401", "408", "413", "415", "422", "424", "429", "500", "503", "504",
    ];
    let answers = &paths["/generate"]["post"]["responses"];
    assert_eq!(
        json!(answers.as_object().unwrap().keys().collect::<Vec<_>>()),
        json!(expected)
    );
    let both = answers["422"]["content"].as_object().unwrap();
    assert!(both.contains_key("text/plain") && both.contains_key("application/json"));
    assert!(answers["429"]["headers"].get("Retry-After").is_some());
    assert!(
        answers["422"]["description"]
            .as_str()
            .unwrap()
            .contains("template_error")
    );
    let openai = &paths["/v1/chat/completions"]["post"]["responses"];
    assert!(
        openai["422"]["content"].as_object().unwrap().len() == 1 && openai.get("424").is_none()
    );
}

/// Every `$ref` of the document leads somewhere.
#[tokio::test]
async fn nothing_in_the_document_leads_nowhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            _ => {}
        }
    }
    let server = Server::saying(Vec::new());
    let document = server.get("/api-doc/openapi.json").await.json();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 20);
    for reference in found {
        let place = document.pointer(reference.trim_start_matches('#'));
        assert!(place.is_some(), "{reference}");
    }
}
