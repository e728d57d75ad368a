//! One sequence from submission to its last token: what it was asked, what it has so far. Knows no slots and no plans.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ribbon_core::{
    Admission, FinishReason, Line, Pooling, SequenceRequest, Slot, Token, TokenEvent, TokenScore,
};

use crate::{
    gate::{GroupId, Permit, SequenceId, kv_tokens},
    history::History,
    memory_pressure::look_ahead,
    prefix_tree::Domain,
    queue::{Candidate, Ticket},
    recovery::FAILURES_TO_END,
};

/// What a sequence did when a step failed under it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Suspicion {
    /// Steps or shards that failed while it ran, since it was last cleared.
    pub(crate) failures: u32,
    /// It is cleared once so many of its tokens are in the KV again.
    pub(crate) cleared_at: u32,
}

/// A sequence and everything needed to rebuild it on an empty shard.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) request: SequenceRequest,
    pub(crate) generated: Vec<u32>,
    /// So many of them came with it: it goes on where another sequence of its search ended.
    given: usize,
    pub(crate) submitted: Instant,
    /// When its first chunk was planned.
    pub(crate) started: Option<Instant>,
    /// The slot it holds.
    pub(crate) seat: Option<Slot>,
    pub(crate) suspicion: Option<Suspicion>,
    /// Prompt tokens it did not have to compute when it first got a slot.
    pub(crate) cached: Option<u32>,
    /// It must do without what others have computed, and holds on to none of it: with it, it did not fit.
    pub(crate) alone: bool,
    /// What the model thought of the prompt from its second token on, as far as outcomes are in.
    prompt_scores: Vec<TokenScore>,
    permit: Permit,
}

impl Sequence {
    pub(crate) fn new(line: Line, permit: Permit, now: Instant) -> Self {
        let given = line.generated.len();
        Self {
            request: line.request,
            generated: line.generated,
            given,
            submitted: now,
            // One that goes on has waited and paid already.
            started: (given > 0).then_some(now),
            seat: None,
            suspicion: None,
            cached: None,
            alone: false,
            prompt_scores: Vec::new(),
            permit,
        }
    }

    pub(crate) fn id(&self) -> SequenceId {
        self.permit.id()
    }

    /// It goes on where another one ended, whose tokens are in the KV unless they were evicted.
    pub(crate) fn goes_on(&self) -> bool {
        self.given > 0
    }

    /// Generated tokens that nobody has paid for.
    pub(crate) fn unpaid_tokens(&self) -> u64 {
        (self.generated.len() - self.given) as u64
    }

    /// The request it belongs to.
    pub(crate) fn group(&self) -> GroupId {
        self.permit.group()
    }

    /// Its first chunk is planned: its prompt no longer counts as waiting.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.started.get_or_insert(now);
        self.permit.begin();
    }

    /// Who pays for it.
    pub(crate) fn tenant(&self) -> Arc<str> {
        self.request.tenant.clone().unwrap_or_default()
    }

    /// What the queue has to know.
    pub(crate) fn ticket(&self) -> Ticket {
        let candidate = Candidate {
            id: self.id(),
            priority: self.request.priority,
            tokens: self.known(),
            most_tokens: self.kv_tokens(),
            ahead: look_ahead(self),
        };
        Ticket {
            candidate,
            tenant: self.tenant(),
            returned: self.started.is_some(),
        }
    }

    /// Whose computed tokens it may show, and who may show its own.
    pub(crate) fn domain(&self, prefix_caching: bool) -> Domain {
        if prefix_caching {
            Domain::Salt(self.request.cache_salt.clone())
        } else {
            Domain::Group(self.group())
        }
    }

    /// It may begin with what others have computed. One that failed twice begins anew: wrong memory must not follow it. Scores
    /// of the prompt come only with its computation, and so does the mean of its states.
    pub(crate) fn may_hit(&self) -> bool {
        let failures = self.suspicion.map_or(0, |suspicion| suspicion.failures);
        let needs_states = self.request.pooling == Some(Pooling::Mean);
        !self.alone && failures < FAILURES_TO_END && self.scored_tokens() == 0 && !needs_states
    }

    /// How many of its tokens have to score those behind them: its prompt but for the last, until that was delivered.
    pub(crate) fn scored_tokens(&self) -> u32 {
        let wanted = self.request.sampling.prompt_top_tokens.is_some();
        if wanted && self.generated.is_empty() {
            self.request.prompt.len() as u32 - 1
        } else {
            0
        }
    }

    /// Takes the scores of the tokens behind those from `start` on; what came before a preemption comes again.
    pub(crate) fn score_prompt(&mut self, start: u32, scores: Vec<TokenScore>) {
        self.prompt_scores.truncate(start as usize);
        self.prompt_scores.extend(scores);
    }

    /// All known tokens.
    pub(crate) fn history(&self) -> History<'_> {
        History::new(&self.request.prompt, &self.generated)
    }

    /// Prompt and generated tokens.
    pub(crate) fn known(&self) -> u32 {
        (self.request.prompt.len() + self.generated.len()) as u32
    }

    /// Length at which it ends by itself. One that generates nothing ends where its first token would be.
    pub(crate) fn total(&self) -> u32 {
        self.request.prompt.len() as u32 + self.request.max_new_tokens.max(1)
    }

    /// It generates tokens; else it ends with its prompt.
    pub(crate) fn generates(&self) -> bool {
        self.request.max_new_tokens > 0
    }

    /// KV tokens it will need at most.
    pub(crate) fn kv_tokens(&self) -> u32 {
        kv_tokens(&self.request) as u32
    }

    pub(crate) fn is_suspect(&self) -> bool {
        self.suspicion.is_some()
    }

    /// A step failed under it while `fed` of its tokens were in the KV or on their way.
    pub(crate) fn suspect(&mut self, fed: u32) {
        let suspicion = self.suspicion.get_or_insert_default();
        suspicion.failures += 1;
        suspicion.cleared_at = suspicion.cleared_at.max(fed);
    }

    /// Takes the next token; says how the client learns of it.
    pub(crate) fn accept(&mut self, token: Token, stopped: bool) -> TokenEvent {
        let is_first = self.generated.is_empty();
        self.generated.push(token.id);
        let finish = if stopped {
            Some(FinishReason::EosToken)
        } else {
            (self.known() >= self.total()).then_some(FinishReason::Length)
        };
        TokenEvent {
            token: Some(token),
            finish,
            queued: self.queued(),
            cached_tokens: self.cached.unwrap_or_default(),
            prompt: if is_first {
                self.delivered_scores()
            } else {
                None
            },
            pooled: None,
        }
    }

    /// Its prompt was read and nothing follows; says how the client learns of it.
    pub(crate) fn conclude(&mut self, pooled: Vec<f32>) -> TokenEvent {
        TokenEvent {
            token: None,
            finish: Some(FinishReason::Length),
            queued: self.queued(),
            cached_tokens: self.cached.unwrap_or_default(),
            prompt: self.delivered_scores(),
            pooled: self.request.pooling.map(|_| pooled.into()),
        }
    }

    fn delivered_scores(&mut self) -> Option<Box<[TokenScore]>> {
        let wanted = self.request.sampling.prompt_top_tokens.is_some();
        wanted.then(|| std::mem::take(&mut self.prompt_scores).into())
    }

    /// It gets a slot in which `cached` of its tokens are in the KV already.
    pub(crate) fn take_seat(&mut self, slot: Slot, cached: u32, now: Instant) {
        self.seat = Some(slot);
        let prompt = self.request.prompt.len() as u32;
        self.cached.get_or_insert(cached.min(prompt));
        self.begin(now);
    }

    /// How long it waited for its first step.
    pub(crate) fn queued(&self) -> Duration {
        self.started.map_or(Duration::ZERO, |at| {
            at.saturating_duration_since(self.submitted)
        })
    }

    /// The whole known history, for a shard that has never seen it.
    pub(crate) fn admission(&self, slot: Slot) -> Admission {
        let mut token_ids = Vec::with_capacity(self.known() as usize);
        token_ids.extend_from_slice(&self.request.prompt);
        token_ids.extend_from_slice(&self.generated);
        Admission {
            slot,
            sequence_id: self.id().0,
            token_ids,
            prompt_tokens: self.request.prompt.len() as u32,
            sampling: self.request.sampling.clone(),
            stop_token_ids: self.request.stop_token_ids.clone(),
            min_tokens: self.request.min_tokens,
            traceparent: self.request.traceparent.clone(),
        }
    }
}
