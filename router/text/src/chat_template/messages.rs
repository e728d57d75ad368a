//! Messages as templates read them: nothing absent spelled out, parts as text where a template has no eye for them,
//! special tokens in what others than the model said shielded. Knows messages; not templates.

use serde_json::{Map, Value};

use crate::shield::Shield;

/// Names that reasoning goes by; templates read the first two.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Messages for a template that reads lists of parts in these roles.
pub(super) fn readable(
    messages: &[Value],
    shield: Option<&Shield>,
    reads_parts: impl Fn(&str) -> bool,
) -> Vec<Value> {
    let readable = |message: &Value| match message {
        Value::Object(fields) => {
            let mut fields = present(fields);
            name_reasoning(&mut fields);
            let role = fields.get("role").and_then(Value::as_str);
            let (is_models, keeps_parts) =
                (role == Some("assistant"), role.is_some_and(&reads_parts));
            if !keeps_parts && let Some(content) = fields.get_mut("content") {
                join_parts(content);
            }
            // What the model said is its own; a mark in it would hide its thoughts from the template.
            if let Some(shield) = shield.filter(|_| !is_models) {
                let texts = fields.iter_mut().filter(|(key, _)| *key != "role");
                texts.for_each(|(_, value)| shield.cover(value));
            }
            Value::Object(fields)
        }
        other => other.clone(),
    };
    messages.iter().map(readable).collect()
}

/// Clients write `null` for what is not there, which templates would show.
fn present(fields: &Map<String, Value>) -> Map<String, Value> {
    let fields = fields.iter().filter(|(_, value)| !value.is_null());
    fields
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn name_reasoning(fields: &mut Map<String, Value>) {
    let Some(thought) = REASONING.iter().find_map(|name| fields.get(*name)).cloned() else {
        return;
    };
    for name in ["reasoning_content", "thinking"] {
        fields.entry(name).or_insert_with(|| thought.clone());
    }
}

/// Text parts become one text; anything else stays as it is.
fn join_parts(content: &mut Value) {
    let texts: Option<String> = content.as_array().and_then(|parts| {
        parts
            .iter()
            .map(|part| part.get("text")?.as_str())
            .collect()
    });
    if let Some(text) = texts {
        *content = Value::String(text);
    }
}

/// Appends to the text of the last message; `false` if it has none.
pub(super) fn extend_last(messages: &mut [Value], suffix: &str) -> bool {
    let content = messages.last_mut().and_then(|last| last.get_mut("content"));
    let text = match content {
        Some(Value::Array(parts)) => {
            let mut texts = parts.iter_mut().rev();
            texts.find_map(|part| part.get_mut("text"))
        }
        other => other,
    };
    match text {
        Some(Value::String(text)) => {
            text.push_str(suffix);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_fields_parts_and_reasoning() {
        let messages = [
            json!({"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}], "name": null}),
            json!({"role": "assistant", "content": null, "reasoning": "r"}),
        ];
        let joined = readable(&messages, None, |_| false);
        assert_eq!(joined[0], json!({"role": "user", "content": "a b"}));
        let expected = json!({"role": "assistant", "reasoning": "r", "reasoning_content": "r", "thinking": "r"});
        assert_eq!(joined[1], expected);
        let kept = readable(&messages, None, |role| role == "user");
        assert_eq!(kept[0]["content"][1]["text"], "b");
    }

    #[test]
    fn the_last_text_is_extended() {
        let mut messages = [json!({"content": [{"text": "a"}, {"text": "b"}, {"type": "x"}]})];
        assert!(extend_last(&mut messages, "!"));
        assert_eq!(messages[0]["content"][1]["text"], "b!");
        assert!(!extend_last(&mut [json!({"role": "x"})], "!"));
        assert!(!extend_last(&mut [], "!"));
    }
}
