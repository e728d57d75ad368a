//! Traces of many models' formats, whole and cut anywhere.

use proptest::prelude::*;

use super::*;
use crate::{AnswerParser, AnswerRules, ReasoningFormat, tools::format::FORMATS};

fn format(name: &str) -> &'static ToolFormat {
    let mut formats = FORMATS.iter().chain([&GENERIC]);
    formats.find(|format| format.name == name).unwrap()
}

fn rules(name: &str, parallel: bool) -> AnswerRules {
    AnswerRules {
        reasoning: ReasoningFormat::of_model("</think>", |_| false),
        tools: Some(ToolUse {
            format: format(name),
            names: ["add", "get_weather"].map(str::to_owned).into(),
            parallel,
            required: false,
        }),
    }
}

/// What became of an answer: thought, text, calls.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    thought: String,
    text: String,
    calls: Vec<(String, String)>,
}

fn read(rules: &AnswerRules, pieces: &[&str]) -> Seen {
    let mut parser = AnswerParser::new(rules, false);
    let mut parts = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut parts);
    }
    parser.finish(&mut parts);
    let mut seen = Seen::default();
    for part in parts {
        match part {
            Part::Reasoning(text) => seen.thought.push_str(&text),
            Part::Text(text) => seen.text.push_str(&text),
            Part::Call(name) => seen.calls.push((name, String::new())),
            Part::Arguments(text) => seen.calls.last_mut().unwrap().1.push_str(&text),
        }
    }
    seen
}

const ADD: (&str, &str) = ("add", r#"{"a": 1, "b": 2}"#);
const WEATHER: (&str, &str) = ("get_weather", r#"{"city": "Par\"is {"}"#);

/// A format, an answer in it, the text that is left, and the calls.
type Trace = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const TRACES: [Trace; 40] = [
    (
        "hermes",
        "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}\n</tool_call>",
        "",
        &[ADD],
    ),
    (
        "hermes",
        "Let me see.\n\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}\n</tool_call>\n<tool_call>\n{\"arguments\": {\"city\": \"Par\\\"is {\"}, \"name\": \"get_weather\"}\n</tool_call>\n",
        "Let me see.",
        &[ADD, WEATHER],
    ),
    (
        "hermes",
        "<tool_call>{\"name\": \"unknown\", \"arguments\": {}}</tool_call>Done.",
        "Done.",
        &[("unknown", "{}")],
    ),
    (
        "hermes",
        "<tool_call>\nno JSON</tool_call>",
        "<tool_call>\nno JSON</tool_call>",
        &[],
    ),
    (
        "hermes",
        "a < b, <tool> and <tool_call",
        "a < b, <tool> and <tool_call",
        &[],
    ),
    (
        "hermes",
        "<tool_call>{\"name\": \"add\"}</tool_call>",
        "",
        &[("add", "{}")],
    ),
    (
        "hermes",
        "<tool_call>{\"name\": \"add\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>",
        "",
        &[("add", "{\"a\": 1}")],
    ),
    (
        "hermes",
        "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1",
        "",
        &[("add", "{\"a\": 1")],
    ),
    (
        "hermes",
        "<tool_call>{\"name\": \"add\", \"argu",
        "<tool_call>{\"name\": \"add\", \"argu",
        &[],
    ),
    ("hermes", " An answer. \n", " An answer. \n", &[]),
    (
        "granite",
        "<|tool_call|>[{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}, {\"name\": \"get_weather\", \"arguments\": {\"city\": \"Par\\\"is {\"}}]",
        "",
        &[ADD, WEATHER],
    ),
    (
        "granite",
        "<|tool_call|>[{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}]<|/tool_call|>",
        "",
        &[ADD],
    ),
    (
        "mistral",
        "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}, {\"name\": \"get_weather\", \"arguments\": {\"city\": \"Par\\\"is {\"}, \"id\": \"abcdefghi\"}]",
        "",
        &[ADD, WEATHER],
    ),
    (
        "mistral",
        "I call: [TOOL_CALLS][{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}]",
        "I call:",
        &[ADD],
    ),
    ("mistral", "[1, 2] and [TOOL", "[1, 2] and [TOOL", &[]),
    (
        "mistral-named",
        "[TOOL_CALLS]add[ARGS]{\"a\": 1, \"b\": 2}[TOOL_CALLS]get_weather[CALL_ID]123456789[ARGS]{\"city\": \"Par\\\"is {\"}",
        "",
        &[ADD, WEATHER],
    ),
    (
        "mistral-named",
        "[TOOL_CALLS]not a name[ARGS]{}",
        "[TOOL_CALLS]not a name[ARGS]{}",
        &[],
    ),
    (
        "deepseek",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{\"a\": 1, \"b\": 2}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\": \"Par\\\"is {\"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "",
        &[ADD, WEATHER],
    ),
    (
        "deepseek",
        "Sure.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{\"a\": 1, \"b\": 2}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "Sure.",
        &[ADD],
    ),
    (
        "internlm",
        "Yes.<|action_start|><|plugin|>\n{\"name\": \"add\", \"parameters\": {\"a\": 1, \"b\": 2}}<|action_end|>\n",
        "Yes.",
        &[ADD],
    ),
    (
        "command-r",
        "Action: ```json\n[\n    {\n        \"tool_name\": \"add\",\n        \"parameters\": {\"a\": 1, \"b\": 2}\n    }\n]\n```",
        "",
        &[ADD],
    ),
    (
        "command-r7b",
        "<|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"add\", \"parameters\": {\"a\": 1, \"b\": 2}}\n]<|END_ACTION|>",
        "",
        &[ADD],
    ),
    (
        "llama",
        "{\"name\": \"add\", \"parameters\": {\"a\": 1, \"b\": 2}}",
        "",
        &[ADD],
    ),
    (
        "llama",
        "<|python_tag|>{\"type\": \"function\", \"name\": \"add\", \"parameters\": {\"a\": 1, \"b\": 2}}; {\"name\": \"get_weather\", \"parameters\": {\"city\": \"Par\\\"is {\"}}",
        "",
        &[ADD, WEATHER],
    ),
    (
        "llama",
        "{\"name\": \"Bob\", \"parameters\": {}}",
        "{\"name\": \"Bob\", \"parameters\": {}}",
        &[],
    ),
    ("llama", "{\"name\": 5}", "{\"name\": 5}", &[]),
    (
        "llama",
        "The sum is {\"name\": \"add\"}",
        "The sum is {\"name\": \"add\"}",
        &[],
    ),
    (
        "pythonic",
        "[add(a=1, b=2), get_weather(city='Par\"is {')]",
        "",
        &[
            ("add", "{\"a\":1,\"b\":2}"),
            ("get_weather", "{\"city\":\"Par\\\"is {\"}"),
        ],
    ),
    (
        "pythonic",
        "[add(a=[1, -2.5, (3,)], b={'x': True, 'y': None, 'z': \"a\\'\\n\\u00e9\"},)]",
        "",
        &[(
            "add",
            "{\"a\":[1,-2.5,[3]],\"b\":{\"x\":true,\"y\":null,\"z\":\"a'\\né\"}}",
        )],
    ),
    (
        "pythonic",
        "<|python_start|>[add()]<|python_end|>",
        "",
        &[("add", "{}")],
    ),
    ("pythonic", "[add(1, 2)]", "[add(1, 2)]", &[]),
    ("pythonic", "[sub(a=1)]", "[sub(a=1)]", &[]),
    ("pythonic", "[1, 2]", "[1, 2]", &[]),
    (
        "json",
        "{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Par\\\"is {\"}}",
        "",
        &[ADD, WEATHER],
    ),
    (
        "json",
        "```json\n[{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}]\n```",
        "",
        &[ADD],
    ),
    (
        "json",
        "{\"type\": \"function\", \"function\": {\"name\": \"add\", \"arguments\": \"{\\\"a\\\": 1}\"}}",
        "",
        &[("add", "{\"a\": 1}")],
    ),
    (
        "json",
        "```python\nprint(1)\n```",
        "```python\nprint(1)\n```",
        &[],
    ),
    ("json", "[[1, 2], {\"a\": 1}]", "[[1, 2], {\"a\": 1}]", &[]),
    ("json", "{}", "{}", &[]),
    ("json", "", "", &[]),
];

#[test]
fn every_format_is_read() {
    for (name, text, left, calls) in TRACES {
        let seen = read(&rules(name, true), &[text]);
        assert_eq!(seen.text, left, "{name}: {text}");
        let found = seen
            .calls
            .iter()
            .map(|(name, arguments)| (name.as_str(), arguments.as_str()));
        assert!(
            found.eq(calls.iter().copied()),
            "{name}: {text}: {:?}",
            seen.calls
        );
    }
    for format in FORMATS.iter().chain([&GENERIC]) {
        let is_traced = |trace: &Trace| trace.0 == format.name && !trace.3.is_empty();
        assert!(TRACES.iter().any(is_traced), "{} has no trace", format.name);
    }
}

#[test]
fn every_cut_of_a_trace_gives_the_same() {
    for (name, text, ..) in TRACES {
        let text = format!("<think>\n hm, <thin </think \n</think>\n\n{text}");
        for parallel in [true, false] {
            let rules = rules(name, parallel);
            let whole = read(&rules, &[&text]);
            assert_eq!(whole.thought, "hm, <thin </think");
            let characters: Vec<&str> = text.split("").collect();
            assert_eq!(read(&rules, &characters), whole, "{name}: {text}");
            for (cut, _) in text.char_indices() {
                let (head, tail) = text.split_at(cut);
                assert_eq!(read(&rules, &[head, tail]), whole, "{name}: {head}|{tail}");
            }
        }
    }
}

#[test]
fn one_call_is_the_last_where_only_one_may_be() {
    let rules = rules("hermes", false);
    let mut parser = AnswerParser::new(&rules, false);
    let mut parts = Vec::new();
    parser.push(
        "<tool_call>{\"name\": \"add\", \"arguments\": {}",
        &mut parts,
    );
    assert!(!parser.is_full());
    parser.push("} and more", &mut parts);
    assert!(parser.is_full());
    parser.finish(&mut parts);
    assert_eq!(
        parts,
        [
            Part::Call("add".to_owned()),
            Part::Arguments("{}".to_owned())
        ]
    );
}

#[test]
fn arguments_are_passed_on_as_they_come() {
    let rules = rules("json", true);
    let mut parser = AnswerParser::new(&rules, false);
    let mut parts = Vec::new();
    parser.push(
        "{\"name\": \"add\", \"arguments\": {\"a\": \"one",
        &mut parts,
    );
    let expected = [
        Part::Call("add".to_owned()),
        Part::Arguments("{\"a\": \"one".to_owned()),
    ];
    assert_eq!(parts, expected);
}

#[test]
fn markers_of_a_list_do_not_contain_each_other() {
    for format in FORMATS.iter().chain([&GENERIC]) {
        let begins = format.begins;
        for (i, a) in begins.iter().enumerate() {
            let others = begins.iter().enumerate().filter(|(j, _)| *j != i);
            assert!(
                others.clone().all(|(_, b)| !b.contains(a)),
                "{}",
                format.name
            );
        }
    }
}

#[test]
fn the_template_says_how_calls_are_written() {
    let of = |source| ToolFormat::of_template(source, true).unwrap().name;
    assert_eq!(of("<tool_call>\n{\"name\": <function-name>"), "hermes");
    assert_eq!(of("[AVAILABLE_TOOLS]…[TOOL_CALLS]"), "mistral");
    assert_eq!(of("[TOOL_CALLS]{{ name }}[ARGS]"), "mistral-named");
    assert_eq!(
        of("'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>'"),
        "deepseek"
    );
    assert_eq!(of("<|python_tag|>"), "llama");
    assert_eq!(of("{{ tools }}"), "json");
    assert_eq!(ToolFormat::of_template("<tool_call>", false), None);
}

/// Pieces that formats are made of, in any order.
fn words() -> impl Strategy<Value = String> {
    let mut words = vec![
        "{",
        "}",
        "\"name\"",
        ":",
        "\"add\"",
        "\"arguments\"",
        "{\"a\":",
        "1",
        ",",
        "\"",
        "\\",
        " ",
        "\n",
        "é",
        "add(",
        ")",
        "=",
        "'",
        "text",
        "{\"name\": \"add\", \"arguments\": ",
        "<think>",
        "</think>",
    ];
    for format in FORMATS.iter().chain([&GENERIC]) {
        words.extend(format.markers());
    }
    let word = prop::sample::select(words).prop_flat_map(|word: &'static str| {
        // Markers may be cut short too.
        let cuts: Vec<usize> = word
            .char_indices()
            .map(|(at, _)| at)
            .chain([word.len(); 6])
            .collect();
        prop::sample::select(cuts).prop_map(move |cut| word[..cut].to_owned())
    });
    prop::collection::vec(word, 0..24).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_text_cut_anywhere_gives_the_same(
        text in words(),
        seed in prop::collection::vec(0.0_f64..1.0, 0..6),
        parallel in any::<bool>(),
        kind in 0..=FORMATS.len(),
    ) {
        let name = FORMATS.get(kind).unwrap_or(&GENERIC).name;
        let rules = rules(name, parallel);
        let whole = read(&rules, &[&text]);
        let characters: Vec<&str> = text.split("").collect();
        prop_assert_eq!(&read(&rules, &characters), &whole);
        let mut cuts: Vec<usize> = seed.iter().map(|at| text.floor_char_boundary((at * text.len() as f64) as usize)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&str> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
        prop_assert_eq!(&read(&rules, &pieces), &whole);
        if whole.calls.is_empty() {
            let shown = format!("{}{}", whole.thought, whole.text);
            prop_assert!(shown.trim_end().len() <= text.len());
        }
    }
}
