//! Places in a JSON document (RFC 6901), as far as the compiler reads them: names without escapes.

use std::fmt;

use serde_json::Value;

/// A place below the root.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pointer(Vec<String>);

impl Pointer {
    pub(super) fn root() -> Self {
        Self(Vec::new())
    }

    /// A reference within the document; `None` for any other, and for one that is escaped.
    pub(super) fn parse(reference: &str) -> Option<Self> {
        if reference == "#" {
            return Some(Self::root());
        }
        let path = reference.strip_prefix("#/")?;
        let plain = !path.contains(['~', '%']);
        plain.then(|| Self(path.split('/').map(str::to_owned).collect()))
    }

    pub(super) fn child(&self, name: &str) -> Self {
        let mut path = self.0.clone();
        path.push(name.to_owned());
        Self(path)
    }

    /// This place, seen from the document in which `base` is the root.
    pub(super) fn below(mut self, base: &Self) -> Self {
        self.0.splice(0..0, base.0.iter().cloned());
        self
    }

    pub(super) fn is_in(&self, place: &Self) -> bool {
        self.0.starts_with(&place.0)
    }

    pub(super) fn depth(&self) -> usize {
        self.0.len()
    }

    pub(super) fn resolve<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        let mut steps = self.0.iter();
        steps.try_fold(document, |value, name| match value {
            Value::Object(map) => map.get(name),
            Value::Array(list) => list.get(name.parse::<usize>().ok()?),
            _ => None,
        })
    }

    pub(super) fn resolve_mut<'a>(&self, document: &'a mut Value) -> Option<&'a mut Value> {
        let mut steps = self.0.iter();
        steps.try_fold(document, |value, name| match value {
            Value::Object(map) => map.get_mut(name),
            Value::Array(list) => list.get_mut(name.parse::<usize>().ok()?),
            _ => None,
        })
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "#")?;
        self.0
            .iter()
            .try_for_each(|name| write!(formatter, "/{name}"))
    }
}
