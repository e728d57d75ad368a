//! Requests that want the prompt's scores: with `prompt_logprobs`, and with no token to follow.

use serde_json::{Value, json};

use super::*;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

#[tokio::test]
async fn an_echo_without_tokens_is_the_prompt_and_its_scores() {
    let server = Server::saying(ended("x"));
    let body = json!({"prompt": [5, 6, 7], "max_tokens": 0, "echo": true, "logprobs": 2});
    let whole = server.post(COMPLETIONS, &body).await;
    assert_eq!(server.engine.last().max_new_tokens, 0);
    let answer = whole.json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], tokenizer().decode(&[5, 6, 7]));
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(
        choice["logprobs"]["token_logprobs"],
        json!([null, -8.0, -4.0])
    );
    assert_eq!(choice["logprobs"]["tokens"].as_array().unwrap().len(), 3);
    let usage = &answer["usage"];
    let counts =
        ["prompt_tokens", "completion_tokens", "total_tokens"].map(|name| usage[name].clone());
    assert_eq!(counts, [json!(3), json!(0), json!(3)]);
    assert_eq!(server.sample("tgi_request_success"), 1);
    let times = ["inference_duration", "mean_time_per_token_duration"]
        .map(|name| server.sample(&format!("tgi_request_{name}_count")));
    assert_eq!(
        times,
        [1, 0],
        "what generates nothing has no time per token"
    );
    let mut streamed = body;
    streamed["stream"] = json!(true);
    let events = server.post(COMPLETIONS, &streamed).await.json_events();
    assert_eq!(events.len(), 1);
    for field in ["text", "finish_reason", "logprobs"] {
        assert_eq!(events[0]["choices"][0][field], choice[field], "{field}");
    }
}

#[tokio::test]
async fn no_tokens_are_for_those_who_want_the_prompt() {
    let server = Server::saying(ended("x"));
    let messages = json!([{"role": "user", "content": "Hi"}]);
    for name in ["max_tokens", "max_completion_tokens"] {
        for (path, mut body) in [
            (COMPLETIONS, json!({"prompt": "Hi"})),
            (CHAT, json!({"messages": messages})),
        ] {
            body[name] = json!(0);
            let refused = server.post(path, &body).await;
            assert_eq!(
                (refused.status.as_u16(), &refused.json()["error"]["param"]),
                (422, &json!(name))
            );
            body["prompt_logprobs"] = json!(0);
            let taken = server.post(path, &body).await;
            assert_eq!(taken.status, StatusCode::OK, "{}", taken.text);
            assert_eq!(taken.json()["usage"]["completion_tokens"], 0);
        }
    }
    let both = json!({"prompt": "Hi", "echo": true, "max_tokens": 0, "min_tokens": 1});
    assert_eq!(
        server.post(COMPLETIONS, &both).await.json()["error"]["param"],
        "min_tokens"
    );
}

fn foretold(logprob: f32, rank: Option<u32>, id: u32) -> Value {
    json!({"logprob": logprob, "rank": rank, "decoded_token": tokenizer().text_of(id)})
}

#[tokio::test]
async fn prompt_logprobs_stand_in_their_place_on_each_route() {
    let server = Server::saying(ended("x"));
    let body = json!({"prompt": [[5, 6, 7], [8]], "max_tokens": 2, "prompt_logprobs": 2});
    let answer = server.post(COMPLETIONS, &body).await.json();
    let expected = json!([
        null,
        {"6": foretold(-0.5, Some(1), 6), "7": foretold(-1.5, Some(2), 7)},
        {"7": foretold(-0.5, Some(1), 7), "8": foretold(-1.5, Some(2), 8)},
    ]);
    assert_eq!(answer["choices"][0]["prompt_logprobs"], expected);
    assert_eq!(answer["choices"][1]["prompt_logprobs"], json!([null]));
    assert_eq!(answer["choices"][0]["logprobs"], Value::Null);
    assert_eq!(answer.get("prompt_logprobs"), None);
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "prompt_logprobs": 0});
    let answer = server.post(CHAT, &body).await.json();
    let asked = server.engine.last();
    let scores = answer["prompt_logprobs"].as_array().unwrap();
    assert_eq!(scores.len(), asked.prompt.len());
    let second = asked.prompt[1];
    assert_eq!(
        scores[1],
        json!({second.to_string(): foretold(-8.0, None, second)})
    );
    assert_eq!(answer["choices"][0].get("prompt_logprobs"), None);
}

#[tokio::test]
async fn a_model_that_scores_no_prompts_says_so_under_the_name_that_was_used() {
    let mut engine = FakeEngine::new(ended("a"));
    engine.can_score_prompts = false;
    let server = Server::with(engine, HttpSettings::new("demo"));
    let messages = json!([{"role": "user", "content": "Hi"}]);
    for (path, body, field) in [
        (
            COMPLETIONS,
            json!({"prompt": "Hi", "prompt_logprobs": 0}),
            "prompt_logprobs",
        ),
        (
            CHAT,
            json!({"messages": messages, "prompt_logprobs": 1}),
            "prompt_logprobs",
        ),
        (
            COMPLETIONS,
            json!({"prompt": "Hi", "echo": true, "logprobs": 1}),
            "echo",
        ),
        (
            "/generate",
            json!({"inputs": "Hi", "parameters": {"decoder_input_details": true}}),
            "decoder_input_details",
        ),
    ] {
        let answer = server.post(path, &body).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        let named = format!("`{field}` is set");
        assert!(answer.text.contains(&named), "{}", answer.text);
    }
    let echo = json!({"prompt": "Hi", "echo": true});
    assert_eq!(server.post(COMPLETIONS, &echo).await.status, StatusCode::OK);
}

#[tokio::test]
async fn echo_and_prompt_logprobs_each_show_what_was_asked_of_them() {
    let server = Server::saying(ended("x"));
    for (logprobs, prompt_logprobs) in [(1, 3), (3, 1)] {
        let body = json!({
            "prompt": [5, 6], "max_tokens": 1, "echo": true,
            "logprobs": logprobs, "prompt_logprobs": prompt_logprobs,
        });
        let answer = server.post(COMPLETIONS, &body).await.json();
        let choice = &answer["choices"][0];
        let listed = |value: &Value| value.as_object().unwrap().len();
        assert_eq!(listed(&choice["prompt_logprobs"][1]), prompt_logprobs);
        assert_eq!(listed(&choice["logprobs"]["top_logprobs"][1]), logprobs);
        assert_eq!(server.engine.last().sampling.prompt_top_tokens, Some(3));
    }
}

#[tokio::test]
async fn prompt_logprobs_are_no_part_of_streams_and_bounded() {
    let server = Server::saying(ended("x"));
    for fields in [
        json!({"stream": true, "prompt_logprobs": 1}),
        json!({"prompt_logprobs": 6}),
    ] {
        for (path, mut body) in [
            (COMPLETIONS, json!({"prompt": "Hi"})),
            (
                CHAT,
                json!({"messages": [{"role": "user", "content": "Hi"}]}),
            ),
        ] {
            body.as_object_mut()
                .unwrap()
                .extend(fields.as_object().unwrap().clone());
            let answer = server.post(path, &body).await;
            assert_eq!(
                (answer.status.as_u16(), &answer.json()["error"]["param"]),
                (422, &json!("prompt_logprobs"))
            );
        }
    }
}
