//! A call that must come: the grammar that the engine gets, how the answer is read, and what is refused.

use serde_json::{Value, json};

use super::*;

const CHAT: &str = "/v1/chat/completions";
const THINKING: &str = "{% if tools %}<tool_call>{{ tools | tojson }}{% endif %}{{ messages[-1].content }}{% if think %}<think>\n{% endif %}{# </think> #}";
const CALL: &str = "{\"name\": \"add\", \"arguments\": {\"a\": 1}}";

fn tool(name: &str, parameters: &Value) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": parameters}})
}

fn asking(fields: &Value) -> Value {
    let add = json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}});
    let tools = json!([tool("now", &Value::Null), tool("add", &add)]);
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}], "tools": tools});
    let fields = fields.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(fields);
    body
}

fn named(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name}})
}

fn source(server: &Server) -> String {
    let grammar = server.engine.last().sampling.grammar.clone();
    grammar.unwrap().source.to_string()
}

/// Two tokens that the bundled model has no use for here.
const THOUGHT: u32 = 6;
const THOUGHT_END: u32 = 0;

/// The bundled model's tokenizer, with those for a thought.
fn thinker() -> Arc<Tokenizer> {
    let json = std::fs::read_to_string(model_path().join("tokenizer.json")).unwrap();
    let json = json.replace("<|pad|>", "</think>");
    Arc::new(Tokenizer::from_json(&json.replace("<|tool|>", "<think>")).unwrap())
}

#[tokio::test]
async fn the_grammar_allows_the_functions_that_may_be_called() {
    let server = Server::saying(ended(CALL));
    let cases = [
        (
            json!({"tool_choice": "required"}),
            ["now", "add"].as_slice(),
            true,
        ),
        (
            json!({"tool_choice": "required", "parallel_tool_calls": false}),
            &["now", "add"],
            false,
        ),
        (json!({"tool_choice": named("add")}), &["add"], false),
        (json!({"tool_choice": "now"}), &["now"], false),
    ];
    for (fields, names, several) in cases {
        let answer = server.post(CHAT, &asking(&fields)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let source = source(&server);
        for name in ["now", "add"] {
            let allowed = source.contains(&format!("{{\"const\":\"{name}\"}}"));
            assert_eq!(allowed, names.contains(&name), "{source}");
        }
        assert_eq!(source.contains("minItems"), several, "{source}");
        let prompt = tokenizer().decode(&server.engine.last().prompt);
        assert_eq!(
            prompt.contains("\"now\""),
            names.contains(&"now"),
            "{prompt}"
        );
    }
    for choice in [json!("auto"), json!("none"), Value::Null] {
        server
            .post(CHAT, &asking(&json!({"tool_choice": choice})))
            .await;
        assert!(server.engine.last().sampling.grammar.is_none());
    }
}

#[tokio::test]
async fn a_call_is_plain_json_whatever_the_template_shows() {
    let template = || Some(ChatTemplate::new("<tool_call>{{ tools }}", "", "").unwrap());
    let list = format!("[{CALL}, {CALL}]");
    for (script, calls) in [(CALL, 1), (list.as_str(), 2)] {
        let engine = FakeEngine::new(ended(script));
        let server = Server::with_template(engine, HttpSettings::new("demo"), template());
        let body = asking(&json!({"tool_choice": "required", "max_tokens": 90}));
        let answer = server.post(CHAT, &body).await.json();
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
        assert!(
            choice["message"].get("content").is_none_or(Value::is_null),
            "{answer}"
        );
        let found = choice["message"]["tool_calls"].as_array().unwrap();
        assert_eq!(found.len(), calls);
        for call in found {
            assert_eq!(
                call["function"],
                json!({"name": "add", "arguments": "{\"a\": 1}"})
            );
        }
    }
}

/// The choice of a whole answer, and the finish reason of a stream.
async fn said(script: &str, fields: &Value) -> (Value, Value) {
    let server = Server::saying(ended(script));
    let mut body = asking(fields);
    let whole = server.post(CHAT, &body).await.json();
    body["stream"] = json!(true);
    let events = server.post(CHAT, &body).await.json_events();
    let finish = &events.last().unwrap()["choices"][0]["finish_reason"];
    (whole["choices"][0].clone(), finish.clone())
}

#[tokio::test]
async fn a_call_that_a_stop_string_cuts_is_none() {
    for choice in ["auto", "required", "add"] {
        let fields = json!({"tool_choice": choice, "stop": ["1"], "max_tokens": 90});
        let (cut, streamed) = said(CALL, &fields).await;
        assert_eq!(cut["finish_reason"], "stop", "{cut}");
        assert_eq!(streamed, "stop");
    }
    let behind = json!({"stop": ["Bye"], "max_tokens": 90});
    let (call, streamed) = said(&format!("{CALL}\nBye"), &behind).await;
    assert_eq!(call["finish_reason"], "tool_calls", "{call}");
    assert_eq!(streamed, "tool_calls");
}

#[tokio::test]
async fn the_beginning_of_a_call_that_must_come_is_no_text() {
    let beginning = "{\"name\": \"add\",";
    let number = ended(beginning).len() - 1;
    for max_tokens in 1..=number {
        for (choice, is_text) in [("required", false), ("add", false), ("auto", true)] {
            let fields = json!({"tool_choice": choice, "max_tokens": max_tokens});
            let (choice, streamed) = said(CALL, &fields).await;
            let content = choice["message"]["content"].as_str().unwrap_or_default();
            assert_eq!(!content.is_empty(), is_text, "{choice}");
            assert!(
                choice["message"]
                    .get("tool_calls")
                    .is_none_or(Value::is_null)
            );
            assert_eq!(
                (&choice["finish_reason"], &streamed),
                (&json!("length"), &json!("length"))
            );
        }
    }
}

#[tokio::test]
async fn a_single_call_may_end_on_the_last_token() {
    let number = ended(CALL).len() - 1;
    let alone = |choice: &str| json!({"tool_choice": choice, "parallel_tool_calls": false});
    let mut cases = vec![
        alone("auto"),
        alone("required"),
        alone("add"),
        json!({"tool_choice": "add"}),
    ];
    for fields in &mut cases {
        for (max_tokens, finish) in [
            (number - 1, "length"),
            (number, "tool_calls"),
            (number + 1, "tool_calls"),
        ] {
            fields["max_tokens"] = json!(max_tokens);
            let (choice, streamed) = said(CALL, fields).await;
            assert_eq!(
                (&choice["finish_reason"], &streamed),
                (&json!(finish), &json!(finish)),
                "{fields}"
            );
        }
    }
}

#[tokio::test]
async fn reading_a_prompt_is_no_thought() {
    let template = ChatTemplate::new(THINKING, "", "").unwrap();
    let engine = FakeEngine::new(ended("a"));
    let server = Server::with_template(engine, HttpSettings::new("demo"), Some(template));
    for (max_tokens, thought) in [(0, 0), (1, 1)] {
        let think = json!({"think": true});
        let fields =
            json!({"chat_template_kwargs": think, "max_tokens": max_tokens, "prompt_logprobs": 0});
        let usage = server.post(CHAT, &asking(&fields)).await.json()["usage"].clone();
        assert_eq!(usage["completion_tokens"], max_tokens, "{usage}");
        assert_eq!(
            usage["completion_tokens_details"]["reasoning_tokens"], thought,
            "{usage}"
        );
    }
}

#[tokio::test]
async fn a_model_that_thinks_follows_the_grammar_behind_its_thought() {
    let template = || Some(ChatTemplate::new(THINKING, "", "").unwrap());
    let call = json!({"tool_choice": "required"});
    let object = json!({"tools": [], "response_format": {"type": "json_object"}});
    for (is_open, opened_by) in [(true, None), (false, Some(THOUGHT))] {
        let mut script: Vec<Item> = opened_by.map(Item::Token).into_iter().collect();
        script.extend(tokens("Let me see."));
        script.push(Item::Token(THOUGHT_END));
        script.extend(ended(CALL));
        let engine = FakeEngine::new(script);
        let server = Server::with_text(engine, HttpSettings::new("demo"), (thinker(), template()));
        for fields in [&call, &object] {
            let mut body = asking(fields);
            body["chat_template_kwargs"] = json!({"think": is_open});
            let answer = server.post(CHAT, &body).await.json();
            let message = &answer["choices"][0]["message"];
            assert_eq!(message["reasoning_content"], "Let me see.", "{answer}");
            assert_eq!(
                message["tool_calls"].is_array(),
                message["content"].is_null(),
                "{answer}"
            );
            let grammar = server.engine.last().sampling.grammar.clone().unwrap();
            assert_eq!(
                (grammar.start_after, grammar.opened_by),
                (Some(THOUGHT_END), opened_by)
            );
        }
    }
    let engine = FakeEngine::new(ended("a"));
    let without = Server::with_template(engine, HttpSettings::new("demo"), template());
    let body = asking(&json!({"tool_choice": "required", "chat_template_kwargs": {"think": true}}));
    let answer = without.post(CHAT, &body).await;
    assert_eq!(answer.status.as_u16(), 422);
    assert!(answer.text.contains("thinks first"), "{}", answer.text);
}

#[tokio::test]
async fn what_cannot_be_required_is_refused_by_name() {
    let server = Server::saying(ended("a"));
    let not = json!({"type": "object", "properties": {"a": {"not": {}}}});
    let tools = json!([tool("now", &Value::Null), tool("bad", &not)]);
    let schema = json!({"type": "json_object"});
    let cases = [
        (
            json!({"tools": tools, "tool_choice": "required"}),
            "tool_choice",
            "`not` at #/$defs/tools/1/function/parameters/properties/a",
        ),
        (
            json!({"tools": tools, "tool_choice": "bad"}),
            "tool_choice",
            "tools/1/function",
        ),
        (json!({"tool_choice": "sub"}), "tool_choice", "`sub`"),
        (
            json!({"tools": [], "tool_choice": "required"}),
            "tool_choice",
            "no `tools`",
        ),
        (
            json!({"response_format": schema}),
            "response_format",
            "mutually exclusive",
        ),
        (
            json!({"tool_choice": "now", "guided_regex": "a"}),
            "guided_regex",
            "mutually exclusive",
        ),
    ];
    for (fields, param, words) in cases {
        let answer = server.post(CHAT, &asking(&fields)).await;
        let error = &answer.json()["error"];
        let of_schema = words.contains("function");
        let code = if of_schema {
            "invalid_value"
        } else {
            "tool_error"
        };
        assert_eq!(answer.status.as_u16(), 422, "{}", answer.text);
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!(param), &json!(code)),
            "{}",
            answer.text
        );
        assert!(
            error["message"].as_str().unwrap().contains(words),
            "{}",
            answer.text
        );
    }
    assert!(server.engine.asked.lock().unwrap().is_empty());
    for fields in [json!({"tools": []}), json!({"tool_choice": "none"})] {
        let mut body = asking(&fields);
        body["response_format"] = schema.clone();
        assert_eq!(server.post(CHAT, &body).await.status, StatusCode::OK);
    }
}
