//! Whether the branches of a `oneOf` exclude each other, by their types or by a property that names the branch. The
//! compiler sees the plain cases itself; this one sees through references, as data classes with a tag are written.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::references::Pointer;

/// References that are followed one after the other.
const MAX_HOPS: usize = 8;
/// Values that are looked at in all of a schema's branches, once for each pair of them. References make many of few.
pub(super) const MAX_VALUES: usize = 1_000_000;

/// No text can satisfy two of the branches. `whole` is the document that they are written in; `values` may still be looked at.
pub(super) fn exclusive(branches: &Value, whole: &Value, values: &mut usize) -> bool {
    let Value::Array(branches) = branches else {
        return false;
    };
    let resolved: Option<Vec<_>> = branches
        .iter()
        .map(|branch| resolved(branch, whole))
        .collect();
    let Some(resolved) = resolved else {
        return false;
    };
    let mut rest = resolved.as_slice();
    while let Some((first, others)) = rest.split_first() {
        let mut differs = |other| {
            spend(values, 1)
                && (types_differ(first, other)
                    || tags_differ(first, other, whole, values)
                    || tags_differ(other, first, whole, values))
        };
        if !others.iter().all(|other| differs(other)) {
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

/// False where so many are not left.
fn spend(values: &mut usize, number: usize) -> bool {
    *values = values.saturating_sub(number);
    *values > 0
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
fn tags_differ(
    one: &Map<String, Value>,
    other: &Map<String, Value>,
    whole: &Value,
    values: &mut usize,
) -> bool {
    let required = one.get("required").and_then(Value::as_array);
    let mut names = required.into_iter().flatten().filter_map(Value::as_str);
    let differs = |name| {
        let of = |schema| values_of(schema, name, whole);
        match (of(one), of(other)) {
            (Some(ones), Some(others)) => {
                spend(values, ones.len() + others.len()) && ones.is_disjoint(&others)
            }
            _ => false,
        }
    };
    type_of(one) == Some("object") && names.any(differs)
}

/// The values that a property may have, where they are strings in a list.
fn values_of<'a>(
    schema: &'a Map<String, Value>,
    name: &str,
    whole: &'a Value,
) -> Option<HashSet<&'a str>> {
    let property = resolved(schema.get("properties")?.get(name)?, whole)?;
    match (property.get("const"), property.get("enum")) {
        (Some(value), _) => Some(HashSet::from([value.as_str()?])),
        (None, Some(Value::Array(values))) => values.iter().map(Value::as_str).collect(),
        _ => None,
    }
}
