//! Complete answers: all tokens of a sequence, put together.

use ribbon_core::FinishReason;
use ribbon_text::Part;

use crate::{
    error::{ApiError, Cause},
    running::Running,
    token_texts::{TokenText, TokenTexts},
};

/// A sequence with all its tokens.
pub(crate) struct Collected {
    pub(crate) running: Running,
    pub(crate) text: String,
    /// Absent where an answer is text and nothing else.
    pub(crate) parts: Option<Vec<Part>>,
    /// Each token with the text it completed; empty unless asked for.
    pub(crate) tokens: Vec<TokenText>,
    pub(crate) finish: FinishReason,
    logprobs: f64,
}

impl Collected {
    /// How likely the model found what it said, per token.
    pub(crate) fn mean_logprob(&self) -> f64 {
        self.logprobs / f64::from(self.running.generated_tokens.max(1))
    }
}

/// Runs a sequence to its end.
///
/// # Errors
/// The engine gave it up.
pub(crate) async fn collect(
    mut running: Running,
    keep_tokens: bool,
) -> Result<Collected, ApiError> {
    let mut text = String::new();
    let mut parts = running.answer.as_ref().map(|_| Vec::new());
    let (mut tokens, mut texts) = (Vec::new(), TokenTexts::default());
    let mut logprobs = 0.0;
    while let Some(step) = running.next().await? {
        text.push_str(running.piece());
        if let (Some(parts), Some(answer)) = (&mut parts, &running.answer) {
            parts.extend_from_slice(answer.parts());
        }
        let logprob = step.token.as_ref().map(|token| token.logprob);
        logprobs += f64::from(logprob.unwrap_or_default());
        if keep_tokens {
            tokens.extend(texts.known(&running, &step));
        }
        if let Some(finish) = step.finish {
            return Ok(Collected {
                running,
                text,
                parts,
                tokens,
                finish,
                logprobs,
            });
        }
    }
    Err(ApiError::new(
        Cause::Incomplete,
        "the tokens ended without a finish reason",
    ))
}
