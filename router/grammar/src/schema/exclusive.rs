//! Whether the branches of a `oneOf` exclude each other, by their types or by a property that names the branch. The
//! compiler sees the plain cases itself; this one sees through references, as data classes with a tag are written.

use serde_json::{Map, Value};

use super::references::Pointer;

/// References that are followed one after the other.
const MAX_HOPS: usize = 8;
/// Branches that are compared with each other.
const MAX_BRANCHES: usize = 256;

/// No text can satisfy two of the branches.
pub(super) fn exclusive(branches: &Value, whole: &Value) -> bool {
    let Value::Array(branches) = branches else {
        return false;
    };
    if branches.len() > MAX_BRANCHES {
        return false;
    }
    let resolved: Option<Vec<_>> = branches
        .iter()
        .map(|branch| resolved(branch, whole))
        .collect();
    let Some(resolved) = resolved else {
        return false;
    };
    let mut rest = resolved.as_slice();
    while let Some((first, others)) = rest.split_first() {
        if !others.iter().all(|other| disjoint(first, other, whole)) {
            return false;
        }
        rest = others;
    }
    true
}

/// The schema behind references.
fn resolved<'a>(mut schema: &'a Value, whole: &'a Value) -> Option<&'a Map<String, Value>> {
    for _ in 0..MAX_HOPS {
        let map = schema.as_object()?;
        let Some(reference) = map.get("$ref") else {
            return Some(map);
        };
        schema = Pointer::parse(reference.as_str()?)?.resolve(whole)?;
    }
    None
}

fn disjoint(one: &Map<String, Value>, other: &Map<String, Value>, whole: &Value) -> bool {
    types_differ(one, other) || tags_differ(one, other, whole) || tags_differ(other, one, whole)
}

fn type_of(schema: &Map<String, Value>) -> Option<&str> {
    schema.get("type")?.as_str()
}

fn types_differ(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    let numeric = |name| matches!(name, "integer" | "number");
    match (type_of(one), type_of(other)) {
        (Some(one), Some(other)) => one != other && !(numeric(one) && numeric(other)),
        _ => false,
    }
}

/// `one` is an object with a required property that has no value in common with that of `other`.
fn tags_differ(one: &Map<String, Value>, other: &Map<String, Value>, whole: &Value) -> bool {
    let required = one.get("required").and_then(Value::as_array);
    let names = required.into_iter().flatten().filter_map(Value::as_str);
    let mut shared = names.filter_map(|name| {
        let values = |schema| values_of(schema, name, whole);
        Some((values(one)?, values(other)?))
    });
    type_of(one) == Some("object")
        && shared.any(|(ones, others)| ones.iter().all(|value| !others.contains(value)))
}

/// The values that a property may have, where they are strings in a list.
fn values_of<'a>(
    schema: &'a Map<String, Value>,
    name: &str,
    whole: &'a Value,
) -> Option<Vec<&'a str>> {
    let property = resolved(schema.get("properties")?.get(name)?, whole)?;
    match (property.get("const"), property.get("enum")) {
        (Some(value), _) => Some(vec![value.as_str()?]),
        (None, Some(Value::Array(values))) => values.iter().map(Value::as_str).collect(),
        _ => None,
    }
}
