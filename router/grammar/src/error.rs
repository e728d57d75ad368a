//! Why there is no grammar, or no token that it allows. Messages complete the sentence "`field`: …".

use std::time::Duration;

use thiserror::Error;

/// What is wrong with a grammar, or with the tokens that should follow it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GrammarError {
    /// A keyword of a JSON schema that masks cannot enforce.
    #[error("`{keyword}` at {place} cannot be enforced; {advice}")]
    Unenforceable {
        /// The keyword.
        keyword: String,
        /// JSON pointer to the schema that has it.
        place: String,
        /// What to do instead.
        advice: &'static str,
    },
    /// It is no grammar of its kind.
    #[error("it cannot be enforced: {0}")]
    Invalid(String),
    /// More text than a grammar may have.
    #[error("it has {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Schemas within schemas beyond the bound.
    #[error("it is nested deeper than {limit} steps at {place}")]
    TooDeep {
        /// JSON pointer to the first one too many.
        place: String,
        /// The limit.
        limit: usize,
    },
    /// Compiling it is beyond the bounds.
    #[error("compiling it took longer than {} s; make it smaller", .0.as_secs())]
    TooSlow(Duration),
    /// No text follows it, or no token may come first.
    #[error("no text can follow it")]
    Empty,
    /// The model's tokenizer does not say which bytes its tokens have, or no token ends a text.
    #[error("grammars are not supported with this model: {0}")]
    Vocabulary(String),
    /// A token that the grammar does not allow here.
    #[error("the tokens do not follow the grammar: {0}")]
    Mismatch(String),
    /// The next token's mask is beyond the bounds.
    #[error("the grammar became too complex at this point of the text: {0}")]
    TooComplex(String),
}

/// Messages of llguidance go on with states and grammars; clients get the beginning.
const MAX_MESSAGE_CHARS: usize = 400;

/// The first lines of llguidance's words, as one.
pub(crate) fn words(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with('<'));
    let joined = lines
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ");
    let mut shown: String = joined.chars().take(MAX_MESSAGE_CHARS).collect();
    if shown.len() < joined.len() {
        shown.push('…');
    }
    shown
}
