//! Fields that a request has and this server does not read: accepted where they change nothing, otherwise refused by name.

use serde_json::{Map, Value};

use crate::error::ApiError;

/// Says whether a field with this value asks for nothing.
type IsNeutral = fn(&Value) -> bool;

/// Names at least so similar (Jaro–Winkler, at most 1) may have been meant.
const ALIKE: f64 = 0.85;
/// Bytes of a name that may be one of ours misspelt.
const LONGEST_MISSPELT: usize = 64;

/// What is known about the fields of one JSON object.
#[derive(Clone, Copy)]
pub(crate) struct FieldRules {
    /// Fields that are read.
    pub(crate) known: &'static [&'static str],
    /// Fields of the API that are not supported, with the values that ask for nothing. `null` always does.
    pub(crate) unsupported: &'static [(&'static str, IsNeutral)],
    /// Fields that have no say in what is generated.
    pub(crate) harmless: &'static [&'static str],
    pub(crate) others: Others,
}

/// What happens to fields that are in no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Others {
    /// Misspelt, most likely.
    Refused,
    /// Meant for other servers: clients of OpenAI's API send what they like.
    Ignored,
}

/// No value but `null`.
pub(crate) const NONE: IsNeutral = |_| false;
/// Off.
pub(crate) const FALSE: IsNeutral = |value| *value == Value::Bool(false);
/// On by default.
pub(crate) const TRUE: IsNeutral = |value| *value == Value::Bool(true);
/// A list, an object or a string with nothing in it.
pub(crate) const EMPTY: IsNeutral = |value| match value {
    Value::Array(list) => list.is_empty(),
    Value::Object(map) => map.is_empty(),
    Value::String(text) => text.is_empty(),
    _ => false,
};

impl FieldRules {
    /// Refuses the first field that asks for something this server would not do.
    ///
    /// # Errors
    /// Names the field, and for an unknown one the nearest known.
    pub(crate) fn check(&self, extra: &Map<String, Value>) -> Result<(), ApiError> {
        extra
            .iter()
            .try_for_each(|(name, value)| self.check_one(name, value))
    }

    fn check_one(&self, name: &str, value: &Value) -> Result<(), ApiError> {
        if value.is_null() || self.harmless.contains(&name) {
            return Ok(());
        }
        match self
            .unsupported
            .iter()
            .find(|(unsupported, _)| *unsupported == name)
        {
            Some((_, is_neutral)) if is_neutral(value) => Ok(()),
            Some((name, _)) => Err(ApiError::invalid(
                *name,
                format!("`{name}` is not supported by this version; leave it out"),
            )),
            None if self.others == Others::Ignored => Ok(()),
            None => Err(self.unknown(name)),
        }
    }

    fn unknown(&self, name: &str) -> ApiError {
        let known = self.known.iter();
        // Comparing takes time for every letter of both.
        let nearest = known
            .filter(|_| name.len() <= LONGEST_MISSPELT)
            .map(|known| (strsim::jaro_winkler(name, known), known))
            .filter(|(similarity, _)| *similarity >= ALIKE)
            .max_by(|(a, _), (b, _)| a.total_cmp(b));
        let hint = match nearest {
            Some((_, nearest)) => format!("did you mean `{nearest}`?"),
            None => "leave it out".to_owned(),
        };
        let shown: String = name.chars().take(64).collect();
        ApiError::invalid(
            shown.clone(),
            format!("`{shown}` is no parameter of this route; {hint}"),
        )
    }
}
