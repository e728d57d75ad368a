//! The fields that only chat has: tools, documents and what the template is told. Checked here, meant in `conversation`.

use ribbon_text::{ChatTemplate, Ending};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    message,
    tools::{ToolChoice, tool_choice, tools},
};
use crate::{
    conversation::{Calls, Conversation, ToolPrompt, tool_name},
    error::ApiError,
};

/// Variables that a request has its own fields for.
const RESERVED: [&str; 7] = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
    "strftime_now",
];

/// Fields of `/v1/chat/completions` alone.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct ChatFields {
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Value>,
    /// `auto`, `none`, `required`, a function's name, or OpenAI's object with it.
    tool_choice: Option<Value>,
    #[schema(value_type = Option<String>)]
    tool_prompt: Option<Value>,
    #[schema(value_type = Option<bool>)]
    parallel_tool_calls: Option<Value>,
    #[schema(value_type = Option<Vec<Object>>)]
    documents: Option<Value>,
    #[schema(value_type = Option<Object>)]
    chat_template_kwargs: Option<Value>,
    #[schema(value_type = Option<String>)]
    reasoning_effort: Option<Value>,
    #[schema(value_type = Option<bool>)]
    add_generation_prompt: Option<Value>,
    #[schema(value_type = Option<bool>)]
    continue_final_message: Option<Value>,
}

impl ChatFields {
    /// Refuses what completions do not have, unless it asks for nothing.
    ///
    /// # Errors
    /// Names the first such field.
    pub(crate) fn check_absent(&self) -> Result<(), ApiError> {
        let asking = [
            ("tools", &self.tools),
            ("tool_choice", &self.tool_choice),
            ("tool_prompt", &self.tool_prompt),
            ("documents", &self.documents),
            ("chat_template_kwargs", &self.chat_template_kwargs),
            ("reasoning_effort", &self.reasoning_effort),
            ("continue_final_message", &self.continue_final_message),
        ];
        let asks = |value: &Option<Value>| !value.as_ref().is_none_or(is_neutral);
        match asking.into_iter().find(|(_, value)| asks(value)) {
            None => Ok(()),
            Some((name, _)) => Err(ApiError::invalid(
                name,
                format!("`{name}` belongs to /v1/chat/completions; leave it out"),
            )),
        }
    }

    /// The conversation with everything that the template is told.
    ///
    /// # Errors
    /// Names the field that cannot be meant, or that the template would not look at.
    pub(crate) fn conversation(
        &mut self,
        messages: Option<Vec<Map<String, Value>>>,
        template: Option<&ChatTemplate>,
    ) -> Result<Conversation, ApiError> {
        let messages = message::messages(messages)?;
        let all = tools(self.tools.take())?;
        let choice = tool_choice(self.tool_choice.as_ref())?;
        let parallel = flag("parallel_tool_calls", self.parallel_tool_calls.as_ref())?;
        let prompt = text("tool_prompt", self.tool_prompt.take())?;
        let (tools, calls) = chosen(all, choice)?;
        Ok(Conversation {
            ending: self.ending(&messages)?,
            tools,
            calls,
            parallel: parallel.unwrap_or(true),
            tool_prompt: prompt.map_or(ToolPrompt::Default, ToolPrompt::Given),
            documents: self.documents(template)?,
            variables: self.variables(template)?,
            messages,
        })
    }

    /// A last message from the assistant is continued unless the request says otherwise.
    fn ending(&self, messages: &[Value]) -> Result<Ending, ApiError> {
        let opens = flag("add_generation_prompt", self.add_generation_prompt.as_ref())?;
        let continues = flag(
            "continue_final_message",
            self.continue_final_message.as_ref(),
        )?;
        let is_continuable = message::is_continuable(messages);
        match (continues, opens) {
            (Some(true), Some(true)) => Err(ApiError::invalid(
                "continue_final_message",
                "`continue_final_message` and `add_generation_prompt` cannot both be true",
            )),
            (Some(true), _) if !is_continuable => Err(ApiError::invalid(
                "continue_final_message",
                "`continue_final_message` needs a last message from the assistant, with text",
            )),
            (Some(true), _) => Ok(Ending::Continued { trimmed: false }),
            (None, None) if is_continuable => Ok(Ending::Continued { trimmed: true }),
            (_, Some(false)) => Ok(Ending::Turn),
            _ => Ok(Ending::Opening),
        }
    }

    fn documents(
        &mut self,
        template: Option<&ChatTemplate>,
    ) -> Result<Option<Vec<Value>>, ApiError> {
        let Some(documents) = self.documents.take().filter(|value| !is_neutral(value)) else {
            return Ok(None);
        };
        let must = || ApiError::invalid("documents", "`documents` must be a list of objects");
        let Value::Array(documents) = documents else {
            return Err(must());
        };
        if !documents.iter().all(Value::is_object) {
            return Err(must());
        }
        check_read("documents", template)?;
        Ok(Some(documents))
    }

    fn variables(
        &mut self,
        template: Option<&ChatTemplate>,
    ) -> Result<Map<String, Value>, ApiError> {
        let name = "chat_template_kwargs";
        let mut variables = match self.chat_template_kwargs.take() {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(variables)) => variables,
            Some(_) => {
                return Err(ApiError::invalid(
                    name,
                    format!("`{name}` must be an object"),
                ));
            }
        };
        if let Some(reserved) = RESERVED.iter().find(|key| variables.contains_key(**key)) {
            let message = format!(
                "`{name}` may not have `{reserved}`; the request has its own field for it, or none"
            );
            return Err(ApiError::invalid(name, message));
        }
        if let Some(effort) = text("reasoning_effort", self.reasoning_effort.take())? {
            check_read("reasoning_effort", template)?;
            variables.insert("reasoning_effort".to_owned(), Value::String(effort));
        }
        Ok(variables)
    }
}

/// The tools that the model may call, and whether it has to.
fn chosen(mut tools: Vec<Value>, choice: ToolChoice) -> Result<(Vec<Value>, Calls), ApiError> {
    let message = match choice {
        ToolChoice::Auto => return Ok((tools, Calls::Allowed)),
        ToolChoice::None => return Ok((Vec::new(), Calls::Allowed)),
        ToolChoice::Required if tools.is_empty() => {
            "`tool_choice` is `required` and there are no `tools`".to_owned()
        }
        ToolChoice::Required => return Ok((tools, Calls::Required)),
        ToolChoice::Named(name) => {
            let named = |tool: &Value| tool_name(tool) == Some(&name);
            if let Some(place) = tools.iter().position(named) {
                return Ok((vec![tools.swap_remove(place)], Calls::Named { place }));
            }
            format!("`tool_choice` names `{name}`, which is not in `tools`")
        }
    };
    Err(ApiError::tool("tool_choice", message))
}

/// Refuses a variable that the template does not look at: the answer would be as if it were not there.
fn check_read(name: &'static str, template: Option<&ChatTemplate>) -> Result<(), ApiError> {
    if template.is_none_or(|template| template.reads(name)) {
        return Ok(());
    }
    let message = format!(
        "`{name}` is not supported: the model's chat template does not use it; leave it out"
    );
    Err(ApiError::invalid(name, message))
}

fn flag(name: &'static str, value: Option<&Value>) -> Result<Option<bool>, ApiError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(ApiError::invalid(
            name,
            format!("`{name}` must be true or false"),
        )),
    }
}

fn text(name: &'static str, value: Option<Value>) -> Result<Option<String>, ApiError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ApiError::invalid(
            name,
            format!("`{name}` must be a string"),
        )),
    }
}

/// Whether a value asks for nothing.
fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty() || text == "none" || text == "auto",
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}
