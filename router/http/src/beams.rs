//! Beam search above the engine: the router ranks what each beam may go on with, the engine scores one token of each at a time.
//! Scores and stopping are those of transformers' `generate(num_beams=…)`, docs/decisions/0004-beam-search.md. Knows no scheduler.

mod found;
mod frontier;
mod search;

pub(crate) use self::search::{Start, begin};
use crate::error::ApiError;

/// Most tokens that a shard lists beside a sampled one, room for ties left over (the wire counts them in a byte).
const MAX_LISTED: usize = 239;

/// When nothing better is to be expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EarlyStopping {
    /// Once the best beam, scored at its present length, is no better than the worst sequence found.
    Estimate,
    /// Once as many sequences as beams are found.
    Full,
    /// Once no beam can become better, however long it may get.
    Never,
}

/// A checked wish for beam search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Beams {
    /// Beams that go on at once, and sequences that are kept.
    pub(crate) width: u32,
    /// A sequence's score is the sum of its tokens' log probabilities ÷ their number to this power.
    pub(crate) length_penalty: f64,
    pub(crate) early_stopping: EarlyStopping,
}

impl Beams {
    /// How many of a beam's likeliest tokens have to be known: though all stop tokens are among them, enough are left to go on.
    ///
    /// # Errors
    /// They are more than a shard lists.
    pub(crate) fn listed(&self, stop_tokens: usize) -> Result<u32, ApiError> {
        let width = self.width as usize;
        let listed = width + width.max(stop_tokens);
        if listed <= MAX_LISTED {
            return Ok(listed as u32);
        }
        let message = format!(
            "`best_of` is {width}; with {stop_tokens} stop tokens beam search looks at {listed} tokens of each beam, the limit is {MAX_LISTED}"
        );
        Err(ApiError::invalid("best_of", message))
    }

    /// A sequence of so many generated tokens, each of some log probability.
    fn score(&self, logprobs: f64, tokens: usize) -> f64 {
        logprobs / (tokens.max(1) as f64).powf(self.length_penalty)
    }
}
