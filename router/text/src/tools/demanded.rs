//! The grammar of calls that must come, in the format that [`super::GENERIC`] reads. Knows tools as clients send them.

use ribbon_grammar::Written;
use serde_json::{Map, Value, json};

/// A grammar of one call of these tools, or, where `parallel`, of a list of them too. Each tool has its place among the
/// request's, so that errors can name it.
pub fn demanded<'a>(
    tools: impl IntoIterator<Item = (usize, &'a Value)>,
    parallel: bool,
) -> Written {
    let (mut calls, mut functions, mut parts) = (Vec::new(), Map::new(), Vec::new());
    for (index, tool) in tools {
        let part = format!("#/$defs/tools/{index}/function/parameters");
        calls.push(call(tool, &part));
        functions.insert(
            index.to_string(),
            json!({"function": {"parameters": parameters(tool)}}),
        );
        parts.push(part);
    }
    let one = json!({"$ref": "#/$defs/call"});
    let mut allowed = vec![one.clone()];
    if parallel {
        allowed.push(json!({"type": "array", "items": one, "minItems": 1}));
    }
    let defs = json!({"call": {"anyOf": calls}, "tools": functions});
    Written::JoinedSchemas(json!({"anyOf": allowed, "$defs": defs}), parts)
}

/// The name comes first: the arguments can be passed on as they are generated.
fn call(tool: &Value, parameters: &str) -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"const": tool.pointer("/function/name")},
            "arguments": {"type": "object", "$ref": parameters},
        },
        "required": ["name", "arguments"],
        "additionalProperties": false,
    })
}

/// A function that declares none takes none.
fn parameters(tool: &Value) -> Value {
    let declared = tool.pointer("/function/parameters").cloned();
    declared.unwrap_or_else(|| json!({"type": "object", "additionalProperties": false}))
}

#[cfg(test)]
mod tests {
    use ribbon_grammar::{Compiled, Compiler, Purpose, Vocabulary, bounded};

    use super::*;
    use crate::{AnswerParser, AnswerRules, Part, ToolUse, tools::GENERIC};

    const ADD: &str = r#"{"name":"add","arguments":{"a":1,"rest":[2]}}"#;
    const NOW: &str = r#"{"name": "now", "arguments": {}}"#;

    fn tools() -> [(usize, Value); 2] {
        let add = json!({
            "type": "object", "required": ["a"], "additionalProperties": false,
            "properties": {"a": {"$ref": "#/$defs/call"}, "rest": {"type": "array", "items": {"$ref": "#/$defs/call"}}},
            "$defs": {"call": {"enum": [1, 2]}}
        });
        let add = json!({"type": "function", "function": {"name": "add", "parameters": add}});
        let now = json!({"type": "function", "function": {"name": "now"}});
        [(0, add), (7, now)]
    }

    fn grammar(parallel: bool) -> std::sync::Arc<Compiled> {
        let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
        tokens.push(b"\xff<end>".to_vec());
        let vocabulary = Vocabulary::new(tokens, 257, &[256]).unwrap();
        let tools = tools();
        let written = demanded(tools.iter().map(|(index, tool)| (*index, tool)), parallel);
        let grammar = written.normalised().unwrap();
        bounded(move || Compiler::new(&vocabulary, Purpose::Check)?.compile(&grammar)).unwrap()
    }

    fn follows(grammar: &std::sync::Arc<Compiled>, text: &str) -> bool {
        let mut matcher = grammar.matcher();
        let bytes: Vec<u32> = text.bytes().map(u32::from).collect();
        matcher.take(&bytes).is_ok() && matcher.mask().is_ok_and(|mask| mask.is_allowed(256))
    }

    /// Names and arguments of the calls in a text that is nothing else.
    fn calls(text: &str, parallel: bool) -> Vec<(String, String)> {
        let names = ["add", "now"].map(str::to_owned).into();
        let (format, mut parts) = (&GENERIC, Vec::new());
        let rules = AnswerRules {
            reasoning: None,
            tools: Some(ToolUse {
                format,
                names,
                parallel,
                required: true,
            }),
        };
        let mut parser = AnswerParser::new(&rules, false);
        parser.push(text, &mut parts);
        parser.finish(&mut parts);
        let mut calls: Vec<(String, String)> = Vec::new();
        for part in parts {
            match (part, calls.last_mut()) {
                (Part::Call(name), _) => calls.push((name, String::new())),
                (Part::Arguments(text), Some((_, arguments))) => arguments.push_str(&text),
                (part, _) => panic!("{part:?} in {text}"),
            }
        }
        calls
    }

    #[test]
    fn what_the_grammar_allows_is_read_as_calls() {
        let call = |name: &str, arguments: &str| (name.to_owned(), arguments.to_owned());
        let (add, now) = (call("add", r#"{"a":1,"rest":[2]}"#), call("now", "{}"));
        let both = format!("[\n  {ADD}, {NOW}]");
        for parallel in [true, false] {
            let grammar = grammar(parallel);
            for (text, expected) in [(ADD, &add), (NOW, &now)] {
                assert!(follows(&grammar, text), "{text}");
                assert_eq!(calls(text, parallel), std::slice::from_ref(expected));
            }
            assert_eq!(follows(&grammar, &both), parallel);
            assert_eq!(follows(&grammar, &format!("[{ADD}]")), parallel);
        }
        assert_eq!(calls(&both, true), [add, now]);
    }

    #[test]
    fn nothing_but_valid_calls_is_allowed() {
        let grammar = grammar(true);
        for text in [
            "",
            "Hi",
            "[]",
            "{}",
            r#"{"name":"sub","arguments":{}}"#,
            r#"{"name":"add","arguments":{"a":3}}"#,
            r#"{"name":"add","arguments":{"b":1}}"#,
            r#"{"name":"now","arguments":{"a":1}}"#,
            r#"{"name":"now","arguments":null}"#,
            r#"{"name":"now"}"#,
            r#"{"arguments":{},"name":"now"}"#,
            r#"{"name":"now","arguments":{},"more":1}"#,
            r#"{"name":"now","arguments":{}} Done."#,
        ] {
            assert!(!follows(&grammar, text), "{text}");
        }
    }
}
