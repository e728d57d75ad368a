//! `prompt_logprobs` of a choice, in vLLM's form: for each token of the prompt its score and the likeliest in its place, by id.
//! Knows scores; not who asked.

use ribbon_core::TokenScore;
use ribbon_text::Tokenizer;
use serde::{Serialize, Serializer};

use super::completion_logprobs::likeliest;
use crate::running::Running;

/// One entry a token; `null` for the first, which nothing foretold.
#[derive(Debug, Serialize)]
pub(super) struct PromptLogprobs(Vec<Option<Foretold>>);

/// The candidates for one place, by token id: the likeliest first, then the prompt's own token if it is none of them.
#[derive(Debug)]
struct Foretold(Vec<(u32, Candidate)>);

#[derive(Debug, Serialize)]
struct Candidate {
    logprob: f32,
    /// From 1; null where the token is not among the likeliest that were asked for.
    rank: Option<usize>,
    decoded_token: String,
}

impl PromptLogprobs {
    /// Of a sequence's prompt, with the `num_top` likeliest.
    pub(super) fn of(running: &Running, num_top: u32) -> Self {
        let tokenizer = &running.tokenizer;
        let entry = |(id, score): (u32, Option<&TokenScore>)| {
            score.map(|score| {
                Foretold::new(
                    tokenizer,
                    (id, score.logprob),
                    likeliest(&score.top, num_top),
                )
            })
        };
        Self(running.scored_prompt().map(entry).collect())
    }
}

impl Foretold {
    fn new(tokenizer: &Tokenizer, own: (u32, f32), top: &[(u32, f32)]) -> Self {
        let candidate = |(id, logprob), rank| {
            let decoded_token = tokenizer.text_of(id);
            let candidate = Candidate {
                logprob,
                rank,
                decoded_token,
            };
            (id, candidate)
        };
        let ranked = top.iter().zip(1..);
        let mut all: Vec<_> = ranked
            .map(|(listed, rank)| candidate(*listed, Some(rank)))
            .collect();
        if top.iter().all(|(id, _)| *id != own.0) {
            all.push(candidate(own, None));
        }
        Self(all)
    }
}

impl Serialize for Foretold {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(id, candidate)| (id, candidate)))
    }
}
