//! Templates as models ship them: Python's methods, spacing and whitespace rules; and the bounds.

use serde_json::{Value as Json, json};

use super::*;
use crate::detokenize::tests::bundled;

fn now() -> Zoned {
    jiff::civil::date(2026, 3, 5)
        .at(14, 7, 0, 0)
        .to_zoned(jiff::tz::TimeZone::UTC)
        .unwrap()
}

fn render(source: &str, messages: &Json) -> Result<String, TemplateError> {
    let template = ChatTemplate::new(source, "<s>", "</s>").unwrap();
    let rendering = Rendering::new(messages.as_array().unwrap(), now());
    template.render(&rendering).map(|prompt| prompt.text())
}

fn rendered(source: &str) -> String {
    render(
        source,
        &json!([{"role": "user", "content": "<a> & 'é'", "b": {"z": 1, "a": [1, 2.5, null]}}]),
    )
    .unwrap()
}

#[test]
fn block_tags_take_their_line_with_them() {
    assert_eq!(
        rendered("a\n  {% if true %}\nb\n  {% endif %}\nc"),
        "a\nb\nc"
    );
}

#[test]
fn tojson_writes_what_python_writes() {
    assert_eq!(
        rendered("{{ messages[0].content | tojson }}"),
        "\"<a> & 'é'\""
    );
    assert_eq!(
        rendered("{{ messages[0].b | tojson }}"),
        r#"{"z": 1, "a": [1, 2.5, null]}"#
    );
    assert_eq!(rendered("{{ [1] | tojson(indent=2) }}"), "[\n  1\n]");
    assert_eq!(rendered("{{ [1] | tojson(ensure_ascii=False) }}"), "[1]");
}

#[test]
fn python_methods_slices_and_loop_controls_work() {
    assert_eq!(
        rendered(
            "{{ 'a,b'.split(',')[-1].upper() }}{{ ' x '.strip() }}{{ 'abc'.startswith('ab') }}"
        ),
        "BxTrue"
    );
    assert_eq!(
        rendered(
            "{% for i in [1,2,3,4] %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}"
        ),
        "13"
    );
    assert_eq!(
        rendered("{% for i in [1,2,3][::-1] %}{{ i }}{% endfor %}"),
        "321"
    );
    assert_eq!(
        rendered("{% for k, v in messages[0].b.items() %}{{ k }}{% endfor %}"),
        "za"
    );
    assert_eq!(
        rendered(
            "{% set n = namespace(x=1) %}{% set n.x = 2 %}{{ n.x }}{{ messages[0].nothing is defined }}"
        ),
        "2False"
    );
}

#[test]
fn the_clock_is_the_one_passed_in() {
    assert_eq!(
        rendered("{{ strftime_now('%d %b %Y') }}{{ strftime_now is defined }}"),
        "05 Mar 2026True"
    );
    assert!(matches!(
        render("{{ strftime_now('%!') }}", &json!([])),
        Err(TemplateError::Failed(_))
    ));
}

#[test]
fn generation_marks_are_transparent() {
    assert_eq!(
        rendered(
            "a {%- generation -%} b {%- endgeneration %} c{% generation %}d{% endgeneration %}"
        ),
        "ab cd"
    );
}

#[test]
fn a_template_may_refuse() {
    let refused = render(
        "{% if true %}{{ raise_exception('no system role') }}{% endif %}",
        &json!([]),
    );
    assert_eq!(
        refused,
        Err(TemplateError::Raised {
            message: "no system role".to_owned(),
            line: Some(1)
        })
    );
}

#[test]
fn failures_name_their_line_and_loops_end() {
    let Err(TemplateError::Failed(message)) =
        render("\n{{ messages[0].role.nothing.more }}", &json!([]))
    else {
        panic!()
    };
    assert!(message.contains("line 2"), "{message}");
    let many: Json = (0..3000).collect();
    assert_eq!(
        render(
            "{% for a in messages %}{% for b in messages %}{% for c in messages %}{% endfor %}{% endfor %}{% endfor %}",
            &many
        ),
        Err(TemplateError::TooLong)
    );
    assert_eq!(
        render(
            "{% for a in messages %}{{ 'x' * 100000 }}{% endfor %}",
            &many
        ),
        Err(TemplateError::TooLarge)
    );
}

#[test]
fn the_bundled_template_renders_as_transformers_does() {
    let path =
        std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../demo-model/weights");
    let template = ChatTemplate::load(&path, &bundled()).unwrap().unwrap();
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 1 + 2?"},
        {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "add", "arguments": {"b": 2, "a": 1}}}]},
        {"role": "tool", "content": "3"},
    ]);
    let rendering = Rendering::new(messages.as_array().unwrap(), now());
    insta::assert_snapshot!(template.render(&rendering).unwrap().text(), @r#"<|begin|><|system|>Be brief.<|end|><|user|>What is 1 + 2?<|end|><|assistant|>{"name": "add", "arguments": {"b": 2, "a": 1}}<|end|><|tool|>3<|end|><|assistant|>"#);
}
