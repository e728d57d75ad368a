//! `tools` and `tool_choice`: OpenAI's shapes and TGI's.

use serde_json::{Map, Value, json};

use crate::error::ApiError;

/// What the model may, or must, call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ToolChoice {
    /// Any tool or none.
    Auto,
    /// None.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// Tools as chat templates read them.
///
/// # Errors
/// Names the tool and the field that cannot be meant.
pub(super) fn tools(tools: Option<Value>) -> Result<Vec<Value>, ApiError> {
    match tools {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(tools)) => {
            let tools = tools.into_iter().enumerate();
            tools
                .map(|(i, tool)| checked(tool, &format!("tools[{i}]")))
                .collect()
        }
        Some(_) => Err(refused("tools", "must be a list")),
    }
}

fn checked(mut tool: Value, at: &str) -> Result<Value, ApiError> {
    let Value::Object(fields) = &mut tool else {
        return Err(refused(at, "must be an object"));
    };
    match fields.get("type") {
        None | Some(Value::Null) => {
            fields.insert("type".to_owned(), json!("function"));
        }
        Some(kind) if kind == "function" => {}
        Some(kind) => {
            let message = format!("is {kind}; only \"function\" is supported");
            return Err(refused(&format!("{at}.type"), &message));
        }
    }
    let at = format!("{at}.function");
    match fields.get_mut("function") {
        Some(Value::Object(function)) => check_function(function, &at)?,
        _ => return Err(refused(&at, "must be an object")),
    }
    Ok(tool)
}

fn check_function(function: &mut Map<String, Value>, at: &str) -> Result<(), ApiError> {
    let name = function.get("name").and_then(Value::as_str);
    if name.is_none_or(str::is_empty) {
        let message = "must be a string that is not empty";
        return Err(refused(&format!("{at}.name"), message));
    }
    read_alias(function, "arguments", "parameters");
    match function.get("parameters") {
        None | Some(Value::Object(_)) => {}
        Some(Value::Null) => {
            function.remove("parameters");
        }
        Some(_) => {
            let message = "must be a JSON schema, an object";
            return Err(refused(&format!("{at}.parameters"), message));
        }
    }
    Ok(())
}

/// TGI has a second name for what a function takes and is given.
pub(super) fn read_alias(function: &mut Map<String, Value>, alias: &str, name: &str) {
    if let Some(value) = function.remove(alias)
        && function.get(name).is_none_or(Value::is_null)
    {
        function.insert(name.to_owned(), value);
    }
}

/// What `tool_choice` says: a word, a function's name, or an object that names one.
///
/// # Errors
/// It is none of them.
pub(super) fn tool_choice(choice: Option<&Value>) -> Result<ToolChoice, ApiError> {
    let name = match choice {
        None | Some(Value::Null) => return Ok(ToolChoice::Auto),
        Some(Value::String(word)) => Some(word.as_str()),
        Some(object) => object.pointer("/function/name").and_then(Value::as_str),
    };
    let is_word = choice.is_some_and(Value::is_string);
    match name {
        Some("auto") if is_word => Ok(ToolChoice::Auto),
        Some("none") if is_word => Ok(ToolChoice::None),
        Some("required") if is_word => Ok(ToolChoice::Required),
        Some(name) if !name.is_empty() => Ok(ToolChoice::Named(name.to_owned())),
        _ => Err(refused(
            "tool_choice",
            "must be `auto`, `none`, `required`, a function's name, or {\"type\": \"function\", \"function\": {\"name\": …}}",
        )),
    }
}

fn refused(param: &str, message: &str) -> ApiError {
    ApiError::invalid(param.to_owned(), format!("`{param}` {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_taken_in_both_shapes() {
        let given = json!([
            {"type": "function", "function": {"name": "a", "parameters": {"type": "object"}}},
            {"function": {"name": "b", "arguments": {"type": "object"}}},
            {"type": "function", "function": {"name": "c", "parameters": null}},
        ]);
        let tools = tools(Some(given)).unwrap();
        assert_eq!(
            tools[1]["function"]["parameters"],
            json!({"type": "object"})
        );
        assert_eq!(tools[1]["type"], "function");
        assert_eq!(tools[2]["function"], json!({"name": "c"}));
    }

    #[test]
    fn what_is_no_tool_is_refused_by_name() {
        let cases = [
            (json!({}), "tools"),
            (json!([3]), "tools[0]"),
            (json!([{"type": "web_search"}]), "tools[0].type"),
            (json!([{"type": "function"}]), "tools[0].function"),
            (
                json!([{"function": {"name": ""}}]),
                "tools[0].function.name",
            ),
            (
                json!([{"function": {"name": "a", "parameters": "x"}}]),
                "tools[0].function.parameters",
            ),
        ];
        for (value, param) in cases {
            let error = tools(Some(value)).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        }
    }

    #[test]
    fn a_choice_is_a_word_or_names_a_function() {
        let named = || ToolChoice::Named("f".to_owned());
        let cases = [
            (Value::Null, ToolChoice::Auto),
            (json!("auto"), ToolChoice::Auto),
            (json!("none"), ToolChoice::None),
            (json!("required"), ToolChoice::Required),
            (json!("f"), named()),
            (
                json!({"type": "function", "function": {"name": "f"}}),
                named(),
            ),
            (json!({"function": {"name": "f"}}), named()),
        ];
        for (value, choice) in cases {
            assert_eq!(tool_choice(Some(&value)).unwrap(), choice);
        }
        for value in [
            json!(3),
            json!(""),
            json!({"type": "function"}),
            json!(["f"]),
        ] {
            assert!(tool_choice(Some(&value)).is_err());
        }
    }
}
