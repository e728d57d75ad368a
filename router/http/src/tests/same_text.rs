//! Any tokens, any stop strings: a stream's pieces put together are the complete answer, on all routes.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn joined(events: &[Value], piece: impl Fn(&Value) -> Option<&str>) -> String {
    events.iter().filter_map(piece).collect()
}

async fn native(server: &Server, parameters: &Value) -> (String, String) {
    let mut body = json!({"inputs": "Hi", "parameters": parameters});
    body["parameters"]["details"] = json!(true);
    let complete = server.post("/generate", &body).await.json();
    let listed = joined(complete["details"]["tokens"].as_array().unwrap(), |token| {
        token["text"].as_str().filter(|_| token["special"] == false)
    });
    assert_eq!(complete["generated_text"], listed.as_str());
    let events = server.post("/generate_stream", &body).await.json_events();
    let shown = |event: &Value| event["token"]["special"] == false;
    let pieces = joined(&events, |event| {
        event["token"]["text"].as_str().filter(|_| shown(event))
    });
    assert_eq!(events.last().unwrap()["generated_text"], pieces.as_str());
    (
        complete["generated_text"].as_str().unwrap().to_owned(),
        pieces,
    )
}

async fn openai(server: &Server, mut body: Value) -> (String, String) {
    let complete = server.post("/v1/completions", &body).await.json();
    body["stream"] = json!(true);
    let events = server.post("/v1/completions", &body).await.json_events();
    let pieces = joined(&events, |event| event["choices"][0]["text"].as_str());
    (
        complete["choices"][0]["text"].as_str().unwrap().to_owned(),
        pieces,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn streamed_or_not(ids in prop::collection::vec(3_u32..2048, 1..40), ends in any::<bool>(), stops in prop::collection::vec("[a-e ]{1,2}", 0..3)) {
        let limit = ids.len() + 1;
        let ids: Vec<u32> = ids.into_iter().chain([if ends { EOS } else { 78 }]).collect();
        let text = tokenizer().decode(&ids);
        let server = Server::saying(ids.into_iter().map(Item::Token).collect());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (complete, pieces) = native(&server, &json!({"max_new_tokens": limit, "stop": stops})).await;
            prop_assert_eq!(&complete, &pieces);
            prop_assert!(text.starts_with(&complete));
            prop_assert!(!stops.is_empty() || complete == text);
            let (complete, pieces) = openai(&server, json!({"prompt": "Hi", "max_tokens": limit, "stop": stops})).await;
            prop_assert_eq!(&complete, &pieces);
            prop_assert!(text.starts_with(&complete));
            prop_assert!(!stops.is_empty() || complete == text);
            prop_assert!(stops.iter().all(|stop| !complete.contains(stop.as_str())));
            Ok(())
        })?;
    }
}
