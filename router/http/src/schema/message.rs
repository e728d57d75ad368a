//! Chat messages: what clients send, checked, with the arguments of tool calls as objects.

use serde_json::{Map, Value};

use crate::error::ApiError;

/// Messages of a chat request, checked; `None` is a missing field.
///
/// # Errors
/// Names the message and the field that no template could read.
pub(super) fn messages(messages: Option<Vec<Map<String, Value>>>) -> Result<Vec<Value>, ApiError> {
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
    let content = message.remove("content").unwrap_or_default();
    check_content(&content, at)?;
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

fn check_content(content: &Value, at: &str) -> Result<(), ApiError> {
    match content {
        Value::String(_) | Value::Null => Ok(()),
        Value::Array(parts) => {
            let mut parts = parts.iter().enumerate();
            parts.try_for_each(|(i, part)| check_part(part, &format!("{at}.content[{i}]")))
        }
        _ => Err(refused(
            format!("{at}.content"),
            "must be a string or a list of text parts",
        )),
    }
}

fn check_part(part: &Value, at: &str) -> Result<(), ApiError> {
    match part.get("type").and_then(Value::as_str) {
        Some("text") if part.get("text").is_some_and(Value::is_string) => Ok(()),
        Some("text") => Err(refused(format!("{at}.text"), "must be a string")),
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

/// Whether the last message is one that the model can continue: from the assistant, with text.
pub(super) fn is_continuable(messages: &[Value]) -> bool {
    let is_text = |text: Option<&Value>| {
        let text = text.and_then(Value::as_str);
        text.is_some_and(|text| !text.trim().is_empty())
    };
    messages.last().is_some_and(|last| {
        let has_text = match last.get("content") {
            Some(Value::Array(parts)) => parts.iter().any(|part| is_text(part.get("text"))),
            content => is_text(content),
        };
        let role = last.get("role").and_then(Value::as_str);
        has_text && role == Some("assistant") && last.get("tool_calls").is_none()
    })
}
