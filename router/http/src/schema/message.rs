//! Chat messages: what clients send, brought to the form that chat templates read (`content` a string).

use serde_json::{Map, Value};

use crate::error::ApiError;

/// Messages of a chat request, checked and flattened; `None` is a missing field.
///
/// # Errors
/// Names the message and the field that no template could read.
pub(crate) fn messages(messages: Option<Vec<Map<String, Value>>>) -> Result<Vec<Value>, ApiError> {
    let messages =
        messages.ok_or_else(|| ApiError::invalid("messages", "`messages` is missing"))?;
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "`messages` is empty"));
    }
    messages
        .into_iter()
        .enumerate()
        .map(|(i, message)| normalized(message, &format!("messages[{i}]")))
        .collect()
}

fn normalized(mut message: Map<String, Value>, at: &str) -> Result<Value, ApiError> {
    if !message.get("role").is_some_and(Value::is_string) {
        return Err(refused(format!("{at}.role"), "must be a string"));
    }
    let calls = message
        .remove("tool_calls")
        .filter(|calls| !calls.is_null());
    let content = flattened(message.remove("content").unwrap_or_default(), at)?;
    if content.is_null() && calls.is_none() {
        return Err(refused(
            format!("{at}.content"),
            "must be a string or a list of text parts",
        ));
    }
    message.insert("content".to_owned(), content);
    if let Some(calls) = calls {
        message.insert("tool_calls".to_owned(), tool_calls(calls, at)?);
    }
    Ok(Value::Object(message))
}

/// Text parts become one text.
fn flattened(content: Value, at: &str) -> Result<Value, ApiError> {
    match content {
        Value::String(_) | Value::Null => Ok(content),
        Value::Array(parts) => {
            let texts: Result<String, _> = parts
                .iter()
                .enumerate()
                .map(|(i, part)| part_text(part, &format!("{at}.content[{i}]")))
                .collect();
            texts.map(Value::String)
        }
        _ => Err(refused(
            format!("{at}.content"),
            "must be a string or a list of text parts",
        )),
    }
}

fn part_text<'a>(part: &'a Value, at: &str) -> Result<&'a str, ApiError> {
    match part.get("type").and_then(Value::as_str) {
        Some("text") => part
            .get("text")
            .and_then(Value::as_str)
            .ok_or_else(|| refused(format!("{at}.text"), "must be a string")),
        Some(kind) => Err(refused(
            format!("{at}.type"),
            &format!("is `{kind}`; only `text` is supported by this version"),
        )),
        None => Err(refused(format!("{at}.type"), "must be a string")),
    }
}

/// Templates want a call's arguments as an object; clients send them as a string of JSON.
fn tool_calls(mut calls: Value, at: &str) -> Result<Value, ApiError> {
    let list = calls
        .as_array_mut()
        .ok_or_else(|| refused(format!("{at}.tool_calls"), "must be a list"))?;
    for (i, call) in list.iter_mut().enumerate() {
        let function = call.get_mut("function").and_then(Value::as_object_mut);
        let Some(function) =
            function.filter(|function| function.get("name").is_some_and(Value::is_string))
        else {
            return Err(refused(
                format!("{at}.tool_calls[{i}].function.name"),
                "must be a string",
            ));
        };
        if let Some(Value::String(json)) = function.get("arguments")
            && let Ok(arguments @ Value::Object(_)) = serde_json::from_str(json)
        {
            function.insert("arguments".to_owned(), arguments);
        }
    }
    Ok(calls)
}

fn refused(param: String, message: &str) -> ApiError {
    let message = format!("`{param}` {message}");
    ApiError::invalid(param, message)
}

/// The text of a last message that the model shall continue: one from the assistant, with text.
pub(crate) fn continued(messages: &[Value]) -> Option<&str> {
    let last = messages.last()?;
    let is_assistant =
        last.get("role")?.as_str()? == "assistant" && last.get("tool_calls").is_none();
    last.get("content")?
        .as_str()
        .filter(|text| is_assistant && !text.trim().is_empty())
}
