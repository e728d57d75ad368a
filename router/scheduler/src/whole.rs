//! Prompts that a shard computes in one piece, with whatever is known behind them: never cut, never shared. Knows counts; no pages.
//!
//! Such a prompt joins a step that has room for it, whatever the bound on chunks says of the first one. One that does not fit
//! beside the decodes has a step for itself, and the step after it belongs to the decodes.

use std::{sync::Arc, time::Instant};

use ribbon_core::{PromptRuns, SequenceRequest};

use crate::{
    batch::Seat,
    scheduler::{Live, Scheduler},
    step::Draft,
};

impl Live {
    /// Most tokens that a plan with room for `limit` takes of a prompt with `left`: where prompts are not cut, all of them.
    /// `None`: it has to wait for another plan.
    pub(crate) fn prompt_limit(&self, left: u32, limit: u32, draft: &Draft) -> Option<u32> {
        let joins = left <= draft.budget && (left <= limit || draft.prefill_tokens() == 0);
        match self.prompt_runs {
            PromptRuns::Causal => Some(limit),
            PromptRuns::Whole { .. } => (joins || !draft.has_work()).then_some(left),
        }
    }

    /// The end of the next run of a seat, of at most `limit` tokens; one that is not cut may be above the budget.
    pub(crate) fn run_end(&self, seat: &Seat, limit: u32, draft: &Draft) -> u32 {
        let is_whole = self.prompt_runs.is_whole() && seat.planned == 0;
        let limit = if is_whole {
            limit
        } else {
            limit.min(draft.budget)
        };
        seat.planned + seat.pending().min(limit)
    }
}

impl Scheduler {
    /// Whether sequences may show what others have computed.
    pub(crate) fn shares_prompts(&self) -> bool {
        let is_causal = |live: &Live| !live.prompt_runs.is_whole();
        self.live.as_ref().is_some_and(is_causal)
    }

    /// Gives the step to the next prompt that is not cut and does not fit beside the decodes. `None`: there is none, or it is not
    /// its turn; else the tokens taken.
    pub(crate) fn fill_alone(&mut self, draft: &mut Draft, now: Instant) -> Option<u32> {
        let decodes = self.batch.iter().filter(|(_, seat)| seat.decodes()).count();
        let live = self.live.as_ref()?;
        if !live.prompt_runs.is_whole() || live.decodes_are_due || live.computes_long_prompt() {
            return None;
        }
        let room = live.budget.saturating_sub(decodes as u32);
        let seated = self.seated_prefills();
        let given = if let Some(prompt) = seated.iter().find(|prompt| prompt.left > room) {
            self.feed(prompt.slot, prompt.left, draft)
        } else {
            let (id, left) = self.next_admission().filter(|(_, left)| *left > room)?;
            self.admit(id, left, draft, now)
        };
        Some(given)
    }
}

/// The requests as the shard computes them: where prompts are whole, the token that generation follows ends each of them.
pub(crate) fn completed(mut group: Vec<SequenceRequest>, runs: PromptRuns) -> Vec<SequenceRequest> {
    if let PromptRuns::Whole { start_token } = runs {
        for request in &mut group {
            let tokens = request.prompt.iter().copied().chain([start_token]);
            request.prompt = tokens.collect::<Arc<[u32]>>();
        }
    }
    group
}
