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
    /// The same. At each of these places, JSON pointers that begin with `#`, is a schema that was written as a document of
    /// its own: what it refers to is in itself.
    JoinedSchemas(Value, Vec<String>),
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
            Self::JsonSchema(schema) => {
                return Self::JoinedSchemas(schema, Vec::new()).normalised();
            }
            Self::JoinedSchemas(schema, parts) => {
                check_size(schema.to_string().len())?;
                (GrammarKind::JsonSchema, schema::normalised(schema, &parts)?)
            }
            Self::JsonObject => return Self::JsonSchema(json!({"type": "object"})).normalised(),
            Self::Regex(regex) => (GrammarKind::Regex, regex),
            Self::Choice(choices) => (GrammarKind::Regex, one_of(&choices)?),
            Self::Lark(lark) => (GrammarKind::Lark, lark),
        };
        grammar(kind, source)
    }
}

fn grammar(kind: GrammarKind, source: String) -> Result<Grammar, GrammarError> {
    check_size(source.len())?;
    let mut hash = Sha256::new();
    hash.update([kind as u8]);
    hash.update(&source);
    Ok(Grammar {
        kind,
        source: Arc::from(source),
        digest: hash.finalize().into(),
        start_after: None,
        opened_by: None,
    })
}

fn check_size(bytes: usize) -> Result<(), GrammarError> {
    if bytes <= MAX_SOURCE_BYTES {
        return Ok(());
    }
    Err(GrammarError::TooLarge {
        bytes,
        limit: MAX_SOURCE_BYTES,
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
