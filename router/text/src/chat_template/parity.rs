//! Templates of more than 30 kinds over a table of conversations render byte for byte as transformers renders them.
//! `tests/templates/expected.py` writes what that is, and `integration-tests/http/test_templates.py` holds it to it.

use std::{fs, path::PathBuf};

use jiff::{Zoned, civil::date, tz::TimeZone};
use serde_json::{Map, Value};

use crate::{ChatTemplate, Ending, Rendering, TemplateError};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/templates")
}

fn json(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(directory().join(name)).unwrap()).unwrap()
}

fn now() -> Zoned {
    let afternoon = date(2026, 3, 5).at(14, 7, 0, 0);
    afternoon.to_zoned(TimeZone::UTC).unwrap()
}

fn render(
    template: &ChatTemplate,
    conversation: &Value,
    tools: &Value,
) -> Result<String, TemplateError> {
    let opens = conversation.get("add_generation_prompt") != Some(&Value::Bool(false));
    let rendering = Rendering {
        tools: conversation
            .get("tools")
            .and(tools.as_array().map(Vec::as_slice)),
        documents: conversation
            .get("documents")
            .and_then(Value::as_array)
            .map(Vec::as_slice),
        variables: conversation
            .get("variables")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_else(Map::new),
        ending: match conversation.get("continue_final_message") {
            Some(_) => Ending::Continued { trimmed: false },
            None if opens => Ending::Opening,
            None => Ending::Turn,
        },
        ..Rendering::new(conversation["messages"].as_array().unwrap(), now())
    };
    template.render(&rendering).map(|prompt| prompt.text())
}

#[test]
fn every_template_renders_as_transformers_renders_it() {
    let (conversations, tools, expected) = (
        json("conversations.json"),
        json("tools.json"),
        json("expected.json"),
    );
    let mut faults = Vec::new();
    let mut rendered = 0;
    for (name, expected) in expected.as_object().unwrap() {
        let source = fs::read_to_string(directory().join(format!("{name}.jinja"))).unwrap();
        let template = ChatTemplate::new(&source, "<s>", "</s>").unwrap();
        for conversation in conversations.as_array().unwrap() {
            let case = conversation["name"].as_str().unwrap();
            let expected = &expected[case];
            let found = render(&template, conversation, &tools);
            let is_right = match (&found, expected) {
                (Ok(text), Value::String(expected)) => text == expected,
                (Err(TemplateError::Raised { message, line }), expected) => {
                    expected["raised"] == message.as_str() && line.is_some()
                }
                (Err(_), expected) => expected.get("failed").is_some(),
                (Ok(_), _) => false,
            };
            rendered += u32::from(expected.is_string());
            if !is_right {
                faults.push(format!(
                    "{name}/{case}:\n  expected {expected}\n  found    {found:?}"
                ));
            }
        }
    }
    assert!(
        faults.is_empty(),
        "{} faults\n{}",
        faults.len(),
        faults.join("\n")
    );
    assert!(rendered > 700, "{rendered} renderings were compared");
}

#[test]
fn the_kinds_of_tool_calls_and_thoughts_are_told_apart() {
    let expected = [
        ("chatml", None, false),
        ("deepseek-r1", None, true),
        ("deepseek-v3", Some("deepseek"), false),
        ("granite", Some("granite"), false),
        ("phi-4-mini", Some("granite"), false),
        ("hermes", Some("hermes"), false),
        ("qwen2.5", Some("hermes"), false),
        ("qwen3", Some("hermes"), true),
        ("llama-3.1", Some("llama"), false),
        ("llama-4", Some("pythonic"), false),
        ("mistral-v3", Some("mistral"), false),
        ("mistral-v7", Some("mistral-named"), false),
        ("internlm-2", Some("internlm"), false),
        ("command-r", Some("command-r"), false),
        ("glm-4", Some("json"), false),
    ];
    for (name, format, thinks) in expected {
        let source = fs::read_to_string(directory().join(format!("{name}.jinja"))).unwrap();
        let template = ChatTemplate::new(&source, "<s>", "</s>").unwrap();
        assert_eq!(
            template.tool_format().map(|format| format.name),
            format,
            "{name}"
        );
        assert_eq!(template.reasoning().is_some(), thinks, "{name}");
    }
}
