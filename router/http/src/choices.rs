//! Several sequences of one prompt: how many run, with which noise, and which of them are the answer.

use ribbon_core::Sampling;

use crate::{collect::Collected, error::ApiError};

/// Sequences per prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choices {
    /// How many run.
    pub(crate) run: u32,
    /// How many are answered with, the likeliest; at most `run`.
    pub(crate) keep: u32,
    pub(crate) noise: Noise,
}

/// What keeps the sequences of a prompt apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noise {
    /// One seed; each has its own choice index.
    Index,
    /// A seed each, so that any of them can be asked for again.
    Seed,
}

impl Choices {
    /// One sequence, one answer.
    pub(crate) const ONE: Self = Self {
        run: 1,
        keep: 1,
        noise: Noise::Index,
    };

    /// Sampling of the sequences of the prompt with this index.
    pub(crate) fn samplings(
        self,
        base: &Sampling,
        prompt_index: u32,
    ) -> impl Iterator<Item = Sampling> {
        let first = prompt_index.saturating_mul(self.run);
        (0..self.run).map(move |run| match self.noise {
            Noise::Index => Sampling {
                choice: first.saturating_add(run),
                ..base.clone()
            },
            Noise::Seed => Sampling {
                seed: if run == 0 { base.seed } else { rand::random() },
                choice: 0,
                ..base.clone()
            },
        })
    }

    /// Each prompt's answers: those kept, likeliest first, then the others. In their own order where all are kept.
    pub(crate) fn ranked(self, collected: Vec<Collected>) -> Vec<Collected> {
        if self.keep == self.run {
            return collected;
        }
        let mut ranked = Vec::with_capacity(collected.len());
        let mut rest = collected.into_iter().peekable();
        while rest.peek().is_some() {
            let mut prompt: Vec<Collected> = rest.by_ref().take(self.run as usize).collect();
            // A stable sort: among equals the first run is the better one.
            prompt.sort_by(|a, b| b.mean_logprob().total_cmp(&a.mean_logprob()));
            ranked.extend(prompt);
        }
        ranked
    }

    /// Whether the answer at this place among the ranked ones is kept.
    pub(crate) fn keeps(self, place: usize) -> bool {
        let run = self.run.max(1) as usize;
        place % run < self.keep as usize
    }
}

/// A number of sequences: from 1 to what the server allows; absent is 1.
///
/// # Errors
/// Names the parameter and the limit.
pub(crate) fn number(name: &'static str, value: Option<u64>, limit: u32) -> Result<u32, ApiError> {
    match value {
        None => Ok(1),
        Some(0) => Err(ApiError::invalid(
            name,
            format!("`{name}` is 0; it must be at least 1"),
        )),
        Some(number) if number > u64::from(limit) => Err(ApiError::invalid(
            name,
            format!("`{name}` is {number}; this server allows {limit} (`--max-best-of`)"),
        )),
        Some(number) => Ok(number as u32),
    }
}
