//! What is not sent ahead, so that a newcomer waits for one long step and not for two. Knows steps under way and their times.

use std::time::Duration;

use crate::{fairness::LONG_PREFILL_TOKENS, scheduler::Live, step::Flight};

/// A step that takes longer is long: beside it, the wait of the shard for the next plan (about a millisecond) is nothing.
const LONG_STEP: Duration = Duration::from_millis(10);

impl Live {
    /// A step of prompts alone is under way that a newcomer must wait for.
    pub(crate) fn computes_long_prompt(&self) -> bool {
        let mut flights = self.flights.iter();
        flights.any(|flight| flight.decode_rows == 0 && flight.prefill_tokens > LONG_PREFILL_TOKENS)
    }

    /// A step of prompts and decodes is under way that a newcomer must wait for. Decodes are not sent ahead of it either: a step
    /// of theirs behind each chunk would take the time of those who wait.
    pub(crate) fn computes_long_chunk(&self) -> bool {
        let is_long = |flight: &Flight| {
            flight.decode_rows > 0
                && flight.prefill_tokens > LONG_PREFILL_TOKENS
                && self
                    .bound
                    .expected(flight.decode_rows, flight.prefill_tokens)
                    > LONG_STEP
        };
        self.flights.iter().any(is_long)
    }
}
