//! The forms in which clients write grammars, and the one form of each that travels. Knows no routes and no field names.

use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{Grammar, GrammarError, GrammarKind, MAX_SOURCE_BYTES, schema};

/// A grammar as it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Written {
    /// A text that a JSON schema validates.
    JsonSchema(Value),
    /// Any JSON object.
    JsonObject,
    /// A text that the whole of a regular expression matches.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of a Lark grammar, in llguidance's form.
    Lark(String),
}

impl Written {
    /// The grammar in the form that is compiled. Equal ones have equal digests.
    ///
    /// # Errors
    /// A schema has a keyword that cannot be enforced, or the text is too large.
    pub fn normalised(self) -> Result<Grammar, GrammarError> {
        let (kind, source) = match self {
            Self::JsonSchema(schema) => (GrammarKind::JsonSchema, schema::normalised(schema)?),
            Self::JsonObject => {
                let any_object = schema::normalised(json!({"type": "object"}))?;
                (GrammarKind::JsonSchema, any_object)
            }
            Self::Regex(regex) => (GrammarKind::Regex, regex),
            Self::Choice(choices) => (GrammarKind::Regex, one_of(&choices)?),
            Self::Lark(lark) => (GrammarKind::Lark, lark),
        };
        grammar(kind, source)
    }
}

fn grammar(kind: GrammarKind, source: String) -> Result<Grammar, GrammarError> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(GrammarError::TooLarge {
            bytes: source.len(),
            limit: MAX_SOURCE_BYTES,
        });
    }
    let mut hash = Sha256::new();
    hash.update([kind as u8]);
    hash.update(&source);
    Ok(Grammar {
        kind,
        source: Arc::from(source),
        digest: hash.finalize().into(),
        start_after: None,
    })
}

/// A regular expression of literal alternatives.
fn one_of(choices: &[String]) -> Result<String, GrammarError> {
    if choices.is_empty() {
        return Err(GrammarError::Invalid(
            "there is nothing to choose".to_owned(),
        ));
    }
    let literals: Vec<String> = choices
        .iter()
        .map(|choice| regex_syntax::escape(choice))
        .collect();
    Ok(format!("(?:{})", literals.join("|")))
}
