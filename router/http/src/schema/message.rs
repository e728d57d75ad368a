//! Chat messages: what clients send, checked, with the arguments of tool calls as objects.

use serde_json::{Map, Value, json};

use super::tools::read_alias;
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
    let calls = calls(&mut message, at)?;
    let content = content(&mut message, at)?;
    if content.is_null() && calls.is_none() {
        return Err(refused(
            format!("{at}.content"),
            "must be a string or a list of text parts",
        ));
    }
    message.insert("content".to_owned(), content);
    if let Some(calls) = calls {
        message.insert("tool_calls".to_owned(), calls);
    }
    Ok(Value::Object(message))
}

/// What a message says. A refusal, which OpenAI has beside the content or as a part of it, is text like any other.
fn content(message: &mut Map<String, Value>, at: &str) -> Result<Value, ApiError> {
    match message.remove("content").unwrap_or_default() {
        Value::Null => refusal(message, at),
        text @ Value::String(_) => Ok(text),
        Value::Array(mut parts) => {
            for (i, part) in parts.iter_mut().enumerate() {
                read_part(part, &format!("{at}.content[{i}]"))?;
            }
            Ok(Value::Array(parts))
        }
        _ => Err(refused(
            format!("{at}.content"),
            "must be a string or a list of text parts",
        )),
    }
}

fn refusal(message: &mut Map<String, Value>, at: &str) -> Result<Value, ApiError> {
    match message.remove("refusal").unwrap_or_default() {
        text @ (Value::Null | Value::String(_)) => Ok(text),
        _ => Err(refused(format!("{at}.refusal"), "must be a string")),
    }
}

fn read_part(part: &mut Value, at: &str) -> Result<(), ApiError> {
    let text_of = |kind| part.get(kind).and_then(Value::as_str);
    match part.get("type").and_then(Value::as_str) {
        Some("text") if text_of("text").is_some() => Ok(()),
        Some("refusal") if let Some(text) = text_of("refusal") => {
            *part = json!({"type": "text", "text": text});
            Ok(())
        }
        Some(kind @ ("text" | "refusal")) => {
            Err(refused(format!("{at}.{kind}"), "must be a string"))
        }
        Some(kind) => Err(refused(
            format!("{at}.type"),
            &format!("is `{kind}`; only `text` is supported by this version"),
        )),
        None => Err(refused(format!("{at}.type"), "must be a string")),
    }
}

/// The calls of a message; `function_call` is OpenAI's old name for one.
fn calls(message: &mut Map<String, Value>, at: &str) -> Result<Option<Value>, ApiError> {
    let mut present = |name| message.remove(name).filter(|value| !value.is_null());
    if let Some(mut calls) = present("tool_calls") {
        let list = calls
            .as_array_mut()
            .ok_or_else(|| refused(format!("{at}.tool_calls"), "must be a list"))?;
        for (i, call) in list.iter_mut().enumerate() {
            let at = format!("{at}.tool_calls[{i}].function");
            read_call(call.get_mut("function"), &at)?;
        }
        return Ok(Some(calls));
    }
    let Some(mut function) = present("function_call") else {
        return Ok(None);
    };
    read_call(Some(&mut function), &format!("{at}.function_call"))?;
    Ok(Some(json!([{"type": "function", "function": function}])))
}

/// Templates want a call's arguments as an object; clients send them as a string of JSON.
fn read_call(function: Option<&mut Value>, at: &str) -> Result<(), ApiError> {
    let function = function.and_then(Value::as_object_mut);
    let Some(function) =
        function.filter(|function| function.get("name").is_some_and(Value::is_string))
    else {
        return Err(refused(format!("{at}.name"), "must be a string"));
    };
    read_alias(function, "parameters", "arguments");
    if let Some(Value::String(json)) = function.get("arguments")
        && let Ok(arguments @ Value::Object(_)) = serde_json::from_str(json)
    {
        function.insert("arguments".to_owned(), arguments);
    }
    Ok(())
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
