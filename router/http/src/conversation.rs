//! A chat request's prompt: messages, tools and what else the template is told, and what to look for in the answer.

use jiff::Zoned;
use ribbon_text::{
    AnswerRules, ChatTemplate, Ending, Prompt, Rendering, ToolFormat, ToolUse,
    tools::{GENERIC, demanded},
};
use serde_json::{Map, Value, json};

use crate::{
    error::{ApiError, Cause},
    grammar::GrammarWish,
};

/// Whether the model has to call a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calls {
    /// As it likes.
    Allowed,
    /// One or more.
    Required,
    /// The one that is left, once; so many tools stood before it in the request.
    Named { place: usize },
}

/// What tells the model about tools, beside the template.
#[derive(Clone, Debug)]
pub(crate) enum ToolPrompt {
    /// The server's words, where the template has none.
    Default,
    /// The client's.
    Given(String),
}

const TOOL_PROMPT: &str = "If one of the functions above helps to answer, reply with nothing but a JSON object \
    {\"name\": the function's name, \"arguments\": an object with its parameters}; do not use variables.";

/// A checked conversation.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Value>,
    /// Tools that may be called.
    pub(crate) tools: Vec<Value>,
    pub(crate) calls: Calls,
    /// Whether several may be called at once.
    pub(crate) parallel: bool,
    pub(crate) tool_prompt: ToolPrompt,
    pub(crate) documents: Option<Vec<Value>>,
    /// More variables of the template.
    pub(crate) variables: Map<String, Value>,
    pub(crate) ending: Ending,
}

impl Conversation {
    /// Bytes of text.
    pub(crate) fn bytes(&self) -> u64 {
        let documents = self.documents.iter().flatten();
        let values = self.messages.iter().chain(&self.tools).chain(documents);
        values.map(text_bytes).sum()
    }

    /// What to look for in the answers.
    pub(crate) fn rules(&self, template: Option<&ChatTemplate>) -> AnswerRules {
        let format = template.and_then(ChatTemplate::tool_format);
        let format = format.filter(|_| self.calls == Calls::Allowed);
        let tools = (!self.tools.is_empty()).then(|| self.tool_use(format.unwrap_or(&GENERIC)));
        AnswerRules {
            reasoning: template.and_then(ChatTemplate::reasoning),
            tools,
        }
    }

    /// What the answer has to follow: what was asked for, or that there are calls.
    ///
    /// # Errors
    /// A grammar was asked for, and there are tools: an answer that calls one would not follow it.
    pub(crate) fn grammar(
        &self,
        asked: Option<GrammarWish>,
    ) -> Result<Option<GrammarWish>, ApiError> {
        let first = match (self.calls, asked) {
            (_, asked) if self.tools.is_empty() => return Ok(asked),
            (_, Some(asked)) => return Err(exclusive(asked.field)),
            (Calls::Allowed, None) => return Ok(None),
            (Calls::Required, None) => 0,
            (Calls::Named { place }, None) => place,
        };
        let written = demanded((first..).zip(&self.tools), self.allows_several());
        Ok(Some(GrammarWish::new("tool_choice", written)))
    }

    /// Whether there may be more than one call; a function that is named is called once.
    fn allows_several(&self) -> bool {
        self.parallel && !matches!(self.calls, Calls::Named { .. })
    }

    fn tool_use(&self, format: &'static ToolFormat) -> ToolUse {
        let names = self.tools.iter();
        let names = names.filter_map(tool_name);
        ToolUse {
            format,
            names: names.map(str::to_owned).collect(),
            parallel: self.allows_several(),
            required: self.calls != Calls::Allowed,
        }
    }

    /// The prompt.
    ///
    /// # Errors
    /// There is no template, or it refuses the conversation.
    pub(crate) fn render(mut self, template: Option<&ChatTemplate>) -> Result<Prompt, ApiError> {
        let template = template.ok_or_else(|| {
            let message = "template not found: the model has no chat template";
            ApiError::new(Cause::Template, message)
        })?;
        self.tell_tools(template.tool_format().is_some());
        let rendering = Rendering {
            tools: (!self.tools.is_empty()).then_some(self.tools.as_slice()),
            documents: self.documents.as_deref(),
            variables: self.variables,
            ending: self.ending,
            ..Rendering::new(&self.messages, Zoned::now())
        };
        Ok(template.render(&rendering)?)
    }

    /// Puts into the last message what the template does not say, as TGI does.
    fn tell_tools(&mut self, template_tells: bool) {
        if self.tools.is_empty() {
            return;
        }
        let mut told = if template_tells {
            String::new()
        } else {
            format!("{:#}\n", Value::Array(self.tools.clone()))
        };
        match &self.tool_prompt {
            ToolPrompt::Given(prompt) => told.push_str(prompt),
            ToolPrompt::Default if template_tells => return,
            ToolPrompt::Default => told.push_str(TOOL_PROMPT),
        }
        self.add_to_last(&format!("\n---\n{told}"));
    }

    /// A message with tool calls has no text to add to.
    fn add_to_last(&mut self, text: &str) {
        let last = self.messages.last_mut();
        let last = last.filter(|last| last.get("tool_calls").is_none());
        match last.and_then(|last| last.get_mut("content")) {
            Some(Value::String(content)) => content.push_str(text),
            Some(Value::Array(parts)) => parts.push(json!({"type": "text", "text": text})),
            _ => {}
        }
    }
}

fn exclusive(field: &'static str) -> ApiError {
    let message = format!(
        "Grammar and tools are mutually exclusive: leave out `{field}` or `tools`, or set `tool_choice` to `none`"
    );
    ApiError::tool(field, message)
}

/// What a tool is called by.
pub(crate) fn tool_name(tool: &Value) -> Option<&str> {
    tool.pointer("/function/name")?.as_str()
}

fn text_bytes(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64,
        Value::Array(list) => list.iter().map(text_bytes).sum(),
        Value::Object(map) => map.values().map(text_bytes).sum(),
        _ => 0,
    }
}
