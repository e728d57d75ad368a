//! Grammars over a vocabulary of bytes and a few longer tokens.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::*;

const END: u32 = 256;
const SIZE: usize = 300;

fn compiler() -> Compiler {
    let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
    tokens.push(b"\xff<end>".to_vec());
    tokens.extend(["\"}", "{\"", "\": ", "true", "  "].map(|text| text.as_bytes().to_vec()));
    let vocabulary = Vocabulary::new(tokens, SIZE, &[END]).unwrap();
    assert_eq!((vocabulary.size(), vocabulary.mask_words()), (SIZE, 10));
    Compiler::new(&vocabulary, Purpose::Masks).unwrap()
}

fn compiled(written: Written) -> Result<Arc<Compiled>, GrammarError> {
    let grammar = written.normalised()?;
    bounded(move || compiler().compile(&grammar))
}

/// Whether the whole text follows the grammar, byte by byte, each byte in the mask before it.
fn follows(grammar: &Arc<Compiled>, text: &str) -> bool {
    let mut matcher = grammar.matcher();
    for byte in text.bytes() {
        if !matcher
            .mask()
            .is_ok_and(|mask| mask.is_allowed(u32::from(byte)))
        {
            return false;
        }
        matcher.take(&[u32::from(byte)]).unwrap();
    }
    matcher.mask().is_ok_and(|mask| mask.is_allowed(END))
}

fn schema(schema: Value) -> Result<Arc<Compiled>, GrammarError> {
    compiled(Written::JsonSchema(schema))
}

/// The keyword and the place that a schema is refused for.
fn refused(asked: Value) -> (String, String) {
    match schema(asked).err() {
        Some(GrammarError::Unenforceable { keyword, place, .. }) => (keyword, place),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_schema_allows_what_validates_and_nothing_else() {
    let grammar = schema(json!({
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 3}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
        "additionalProperties": false
    }))
    .unwrap();
    for text in [
        r#"{"name":"abc","age":7}"#,
        "{\n  \"name\": \"é\",\n  \"age\": 0\n}",
    ] {
        assert!(follows(&grammar, text), "{text}");
    }
    for text in [
        r#"{"name":"abcd","age":7}"#,
        r#"{"name":"a","age":-1}"#,
        r#"{"name":"a"}"#,
        r#"{"name":"a","age":1,"x":2}"#,
        r#"{"name":"a","age":1"#,
        "{  \"name\":\"a\",\"age\":1}",
    ] {
        assert!(!follows(&grammar, text), "{text}");
    }
}

#[test]
fn every_form_means_what_it_says() {
    let cases = [
        (
            Written::JsonObject,
            vec!["{}", r#"{"a":[1,null,{"b":"c"}]}"#],
            vec!["[]", "1", "{"],
        ),
        (
            Written::Regex(r"[a-c]+\d{2}/x".into()),
            vec!["abc12/x"],
            vec!["abc1/x", "12/x", "xabc12/x", "abc12/xx"],
        ),
        (
            Written::Regex("^a|b$".into()),
            vec!["a", "b"],
            vec!["ab", ""],
        ),
        (
            Written::Choice(vec!["a.b".into(), "a/\n".into()]),
            vec!["a.b", "a/\n"],
            vec!["axb", "a/", "a.b "],
        ),
        (
            Written::Lark("start: \"<\" start \">\" | \"x\"".into()),
            vec!["x", "<<x>>"],
            vec!["<x", "<>"],
        ),
    ];
    for (written, good, bad) in cases {
        let grammar =
            compiled(written.clone()).unwrap_or_else(|error| panic!("{written:?}: {error}"));
        for text in good {
            assert!(follows(&grammar, text), "{written:?} refuses {text:?}");
        }
        for text in bad {
            assert!(!follows(&grammar, text), "{written:?} takes {text:?}");
        }
    }
}

#[test]
fn a_keyword_that_cannot_be_enforced_is_named_with_its_place() {
    let at = |keyword: &str, place: &str| (keyword.to_owned(), place.to_owned());
    assert_eq!(refused(json!({"not": {"type": "string"}})), at("not", "#"));
    let inner =
        json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}});
    assert_eq!(refused(inner), at("uniqueItems", "#/properties/a"));
    let referred =
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"if": {}, "then": {}}, "b": {"not": {}}}});
    assert_eq!(refused(referred), at("if", "#/$defs/a"));
    let outside = json!({"items": {"$ref": "https://example.com/schema"}});
    assert_eq!(refused(outside), at("$ref", "#/items"));
    for keyword in [
        "contains",
        "propertyNames",
        "dependentRequired",
        "dependentSchemas",
        "unevaluatedProperties",
    ] {
        let schema = json!({"anyOf": [{"type": "null"}, {keyword: {"type": ["string"]}}]});
        assert_eq!(refused(schema), at(keyword, "#/anyOf/1"));
    }
}

#[test]
fn what_asks_for_nothing_is_no_reason_to_refuse() {
    let neutral = json!({
        "type": "array", "uniqueItems": false, "else": {"type": "string"}, "dependentRequired": {}, "deprecated": true,
        "not": false, "then": true, "minContains": 2, "unevaluatedItems": true, "$dynamicAnchor": "a",
        "discriminator": {"propertyName": "x"}, "x-anything": [1], "items": {"type": "integer"},
        "$defs": {"unused": {"not": {}}}, "title": "t", "default": []
    });
    assert!(follows(&schema(neutral).unwrap(), "[1,2]"));
}

#[test]
fn a_client_cannot_switch_checks_off() {
    let lenient = json!({"x-guidance": {"lenient": true}, "oneOf": [{"type": "integer"}, {"type": "number"}]});
    assert!(schema(lenient).is_err());
}

#[test]
fn branches_with_a_tag_exclude_each_other_behind_references() {
    let tagged = |tag: &str, more: Value| {
        json!({"type": "object", "properties": {"kind": {"const": tag}, "value": more}, "required": ["kind", "value"],
               "additionalProperties": false})
    };
    let pets = json!({
        "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
        "$defs": {"Cat": tagged("cat", json!({"type": "integer"})), "Dog": tagged("dog", json!({"type": "boolean"}))}
    });
    let grammar = schema(pets).unwrap();
    assert!(follows(&grammar, r#"{"kind":"dog","value":true}"#));
    assert!(!follows(&grammar, r#"{"kind":"cat","value":true}"#));
    let same = json!({
        "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
        "$defs": {"Cat": tagged("pet", json!({"type": "integer"})), "Dog": tagged("pet", json!({"type": "boolean"}))}
    });
    assert!(schema(same).err().unwrap().to_string().contains("oneOf"));
}

#[test]
fn branches_that_take_too_long_to_compare_are_left_as_they_are() {
    let values: Vec<String> = (0..5_000).map(|number| format!("v{number}")).collect();
    let branch = |tag: usize| {
        let properties =
            json!({"x": {"$ref": "#/$defs/values"}, "tag": {"const": tag.to_string()}});
        json!({"type": "object", "required": ["x", "tag"], "properties": properties})
    };
    let union = |number: usize| {
        let branches: Vec<Value> = (0..number).map(branch).collect();
        let whole = json!({"oneOf": branches, "$defs": {"values": {"enum": values}}});
        Written::JsonSchema(whole).normalised().unwrap().source
    };
    assert!(!union(3).contains("oneOf"));
    assert!(union(300).contains("oneOf"));
}

#[test]
fn nested_exclusive_branches_are_all_rewritten() {
    let grammar = schema(json!({
        "anyOf": [{"type": "string"}, {"type": "object"}],
        "oneOf": [{"type": "string"}, {"type": "object", "properties": {"a": {"oneOf": [{"type": "null"}, {"type": "boolean"}]}},
                   "required": ["a"], "additionalProperties": false}]
    }))
    .unwrap();
    assert!(follows(&grammar, r#"{"a":null}"#) && follows(&grammar, r#""x""#));
    assert!(!follows(&grammar, r#"{"a":1}"#));
}

#[test]
fn equal_grammars_have_equal_digests_and_others_do_not() {
    let digest = |written: Written| written.normalised().unwrap().digest;
    let object = || Written::JsonSchema(json!({"type": "object"}));
    assert_eq!(digest(object()), digest(Written::JsonObject));
    assert_ne!(
        digest(Written::Regex("a".into())),
        digest(Written::Lark("a".into()))
    );
    assert_ne!(
        digest(Written::Regex("a".into())),
        digest(Written::Regex("b".into()))
    );
}

#[test]
fn what_is_no_grammar_says_why() {
    let cases = [
        (Written::JsonSchema(json!([1])), "object"),
        (Written::JsonSchema(json!({"type": "wrong"})), "wrong"),
        (
            Written::JsonSchema(
                json!({"type": "object", "properties": {"a": false}, "required": ["a"]}),
            ),
            "a",
        ),
        (
            Written::JsonSchema(json!({"type": "string", "format": "nonsense"})),
            "nonsense",
        ),
        (Written::JsonSchema(json!({"$ref": "#/$defs/no"})), "$ref"),
        // llguidance cuts the value inside of a letter.
        (
            Written::JsonSchema(json!({"type": "integer", "minimum": "é".repeat(99)})),
            "its compiler failed",
        ),
        (Written::Regex("a(".into()), "unclosed"),
        (Written::Regex(r"(a)\1".into()), "backreference"),
        (Written::Choice(Vec::new()), "nothing"),
        (Written::Lark("start: nothing".into()), "nothing"),
        (Written::Regex("a".repeat(MAX_SOURCE_BYTES + 1)), "limit"),
    ];
    for (written, word) in cases {
        let error = compiled(written).err().unwrap().to_string();
        assert!(error.to_lowercase().contains(word), "{error}");
        assert!(
            error.chars().count() < 500 && !error.contains('\n'),
            "{error}"
        );
    }
}

#[test]
fn a_matcher_that_replays_allows_what_one_that_went_step_by_step_does() {
    let grammar = schema(json!({"type": "array", "items": {"type": "string"}})).unwrap();
    let text = br#"["ab", "c\n"#;
    let tokens: Vec<u32> = text.iter().map(|byte| u32::from(*byte)).collect();
    let mut stepwise = grammar.matcher();
    for (index, token) in tokens.iter().enumerate() {
        let mut replayed = grammar.matcher();
        replayed.take(&tokens[..index]).unwrap();
        assert_eq!(replayed.taken(), index);
        assert_eq!(replayed.mask().unwrap(), stepwise.mask().unwrap());
        stepwise.take(&[*token]).unwrap();
    }
}

#[test]
fn a_token_out_of_place_is_an_error_of_this_text_alone() {
    let grammar = compiled(Written::Regex("ab*".into())).unwrap();
    let (mut wrong, mut right) = (grammar.matcher(), grammar.matcher());
    right.take(&[u32::from(b'a')]).unwrap();
    assert!(matches!(
        wrong.take(&[u32::from(b'x')]),
        Err(GrammarError::Mismatch(_))
    ));
    assert!(right.mask().unwrap().is_allowed(u32::from(b'b')));
    assert!(follows(&grammar, "abb"));
}

#[test]
fn a_text_that_is_whole_allows_its_end_alone() {
    let grammar = compiled(Written::Choice(vec!["yes".into(), "no".into()])).unwrap();
    let mut matcher = grammar.matcher();
    matcher
        .take(&"no".bytes().map(u32::from).collect::<Vec<_>>())
        .unwrap();
    assert_eq!(matcher.mask().unwrap().to_list(), [END]);
}

#[test]
fn a_vocabulary_needs_an_end_and_bytes() {
    let none = Vocabulary::new(vec![b"a".to_vec()], 1, &[7]).err().unwrap();
    assert!(none.to_string().contains("no token ends a text"));
    let words =
        br#"{"decoder": {"type": "WordPiece"}, "added_tokens": [], "model": {"vocab": {"a": 0}}}"#;
    let wordpiece = Vocabulary::from_tokenizer_json(words, 1, &[0])
        .err()
        .unwrap();
    assert!(matches!(wordpiece, GrammarError::Vocabulary(_)));
}

#[test]
fn a_joined_schema_refers_into_itself() {
    let part = json!({
        "$id": "https://example.com/part", "type": "array", "prefixItems": [{"$ref": "#/$defs/a"}, {"$ref": "#"}], "maxItems": 2,
        "items": {"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]},
        "$defs": {"a": {"type": "string", "const": "a"}, "b": {"type": "null"}}, "default": {"$ref": "#/$defs/a"}
    });
    let whole = json!({
        "anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/parts/0"}],
        "$defs": {"a": {"const": 1}, "b": {"const": "b"}, "parts": {"0": part}}
    });
    let at = |place: &str| Written::JoinedSchemas(whole.clone(), vec![place.to_owned()]);
    let grammar = compiled(at("#/$defs/parts/0")).unwrap();
    for text in ["1", r#"["a"]"#, r#"["a",["a",[]]]"#] {
        assert!(follows(&grammar, text), "{text}");
    }
    for text in [r#""a""#, "[1]", r#"["a",1]"#] {
        assert!(!follows(&grammar, text), "{text}");
    }
    let nowhere = Written::JsonSchema(whole.clone()).normalised();
    assert!(
        matches!(nowhere, Err(GrammarError::Unenforceable { keyword, .. }) if keyword == "$id")
    );
}
