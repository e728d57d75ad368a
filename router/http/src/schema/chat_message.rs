//! A chat answer's message, whole or a piece of it: text, reasoning and tool calls as OpenAI's clients read them.

use rand::{Rng, distr::Alphanumeric};
use ribbon_text::Part;
use serde::Serialize;
use serde_json::Value;

use crate::{collect::Collected, running::Running};

/// Mistral's templates refuse ids of any other length when a client sends them back.
const ID_LENGTH: usize = 9;

#[derive(Debug, Default, Serialize)]
pub(super) struct Message {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// `null` in a whole message without text; left out of a delta without.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

/// A tool call, or a piece of one.
#[derive(Debug, Default, Serialize)]
struct ToolCall {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: Function,
}

#[derive(Debug, Default, Serialize)]
struct Function {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

impl Message {
    /// The whole message.
    pub(super) fn whole(collected: &Collected) -> Self {
        let mut message = match &collected.parts {
            None => Self::text(&collected.text),
            Some(parts) => Self::of_parts(parts, None),
        };
        message.role = Some("assistant");
        message.content.get_or_insert(Value::Null);
        message
    }

    /// What a sequence's last token adds to its message.
    pub(super) fn delta(sequence: &Running, is_first: bool) -> Self {
        let mut message = match &sequence.answer {
            None => Self::text(sequence.piece()),
            Some(answer) => Self::of_parts(answer.parts(), Some(answer.calls_before())),
        };
        if message.reasoning_content.is_none() && message.tool_calls.is_empty() {
            message
                .content
                .get_or_insert_with(|| Value::String(String::new()));
        }
        message.role = is_first.then_some("assistant");
        message
    }

    fn text(text: &str) -> Self {
        Self {
            content: Some(Value::String(text.to_owned())),
            ..Self::default()
        }
    }

    /// A delta numbers its calls, from `first_index`.
    fn of_parts(parts: &[Part], first_index: Option<usize>) -> Self {
        let mut message = Self::default();
        let mut content = String::new();
        for part in parts {
            match part {
                Part::Text(text) => content.push_str(text),
                Part::Reasoning(text) => {
                    let thought = message.reasoning_content.get_or_insert_default();
                    thought.push_str(text);
                }
                Part::Call(name) => {
                    let index = first_index.map(|first| first + message.num_begun());
                    message.tool_calls.push(ToolCall::begun(name, index));
                }
                Part::Arguments(text) => message.add_arguments(text, first_index),
            }
        }
        message.content = (!content.is_empty()).then_some(Value::String(content));
        message
    }

    fn num_begun(&self) -> usize {
        let calls = self.tool_calls.iter();
        calls.filter(|call| call.id.is_some()).count()
    }

    /// Arguments without a call before them belong to one of an earlier delta.
    fn add_arguments(&mut self, text: &str, first_index: Option<usize>) {
        if self.tool_calls.is_empty() {
            let index = first_index.map(|first| first.saturating_sub(1));
            self.tool_calls.push(ToolCall {
                index,
                ..ToolCall::default()
            });
        }
        if let Some(call) = self.tool_calls.last_mut() {
            call.function.arguments.push_str(text);
        }
    }
}

impl ToolCall {
    fn begun(name: &str, index: Option<usize>) -> Self {
        let characters = rand::rng().sample_iter(Alphanumeric);
        Self {
            index,
            id: Some(characters.take(ID_LENGTH).map(char::from).collect()),
            kind: Some("function"),
            function: Function {
                name: Some(name.to_owned()),
                arguments: String::new(),
            },
        }
    }
}
