//! What each keyword of a JSON schema means for masks: those that cannot be enforced, and those with schemas inside.

use serde_json::{Map, Value};

/// Where a keyword's value has schemas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Children {
    /// Nowhere, or only where something refers to them.
    None,
    /// The value is one, or a list of them.
    Listed,
    /// The value has them by name.
    Named,
}

pub(super) fn children(keyword: &str) -> Children {
    match keyword {
        "allOf"
        | "anyOf"
        | "oneOf"
        | "items"
        | "prefixItems"
        | "additionalItems"
        | "additionalProperties" => Children::Listed,
        "properties" | "patternProperties" => Children::Named,
        _ => Children::None,
    }
}

/// What is to be done about a keyword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The compiler enforces it, or it has no say.
    Keep,
    /// Every text satisfies it, but the compiler would refuse it.
    Drop,
    /// It cannot be enforced; what to do instead.
    Refuse(&'static str),
}

/// What is to be done about a keyword of `schema`.
pub(super) fn verdict(
    schema: &Map<String, Value>,
    keyword: &str,
    value: &Value,
    is_document: bool,
) -> Verdict {
    let refused_unless = |neutral: bool, advice| {
        if neutral {
            Verdict::Drop
        } else {
            Verdict::Refuse(advice)
        }
    };
    let has = |name| schema.contains_key(name);
    match keyword {
        "not"
        | "contains"
        | "propertyNames"
        | "dependentRequired"
        | "dependentSchemas"
        | "dependencies"
        | "unevaluatedItems"
        | "unevaluatedProperties"
        | "uniqueItems" => refused_unless(asks_for_nothing(keyword, value), "leave it out"),
        "if" => refused_unless(!has("then") && !has("else"), "write the cases as `anyOf`"),
        "then" | "else" => refused_unless(!has("if"), "write the cases as `anyOf`"),
        "minContains" | "maxContains" => refused_unless(!has("contains"), "leave it out"),
        "$recursiveAnchor" | "$dynamicAnchor" => Verdict::Drop,
        "$dynamicRef" | "$recursiveRef" => Verdict::Refuse("use `$ref`"),
        "$id" | "id" if !is_document && value.is_string() => {
            Verdict::Refuse("only the whole schema may have one; leave it out")
        }
        "multipleOf" if !is_divisor(value) => {
            Verdict::Refuse("it must be above 0, at most 65535, and have at most 4 decimal places")
        }
        _ => Verdict::Keep,
    }
}

/// Values that every text satisfies.
fn asks_for_nothing(keyword: &str, value: &Value) -> bool {
    match (keyword, value) {
        ("not" | "uniqueItems", value) => *value == Value::Bool(false),
        ("contains", _) => false,
        (_, Value::Bool(anything)) => *anything,
        (_, value) => value.as_object().is_some_and(Map::is_empty),
    }
}

/// The compiler multiplies such numbers in 32 bits.
fn is_divisor(value: &Value) -> bool {
    value.as_f64().is_some_and(|divisor| {
        let scaled = divisor * 1e4;
        divisor > 0.0 && divisor <= 65_535.0 && (scaled - scaled.round()).abs() < 1e-6
    })
}
