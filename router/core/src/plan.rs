//! One step, as the scheduler says it and as the shard answers it. The wire form of the same lives in `shards`.

use std::{sync::Arc, time::Duration};

use crate::{Pooling, Sampling, Token, TokenScore};

/// A sequence's seat and its range of KV addresses. Slot 0 is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// The physical pages behind one ribbon. Storage 0 is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Storage(pub u32);

/// How long a group of layers keeps its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvKind {
    /// Every token.
    Full,
    /// The last so many tokens.
    Window(u32),
}

/// One group of layers with one retention rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvGroup {
    /// Retention rule.
    pub kind: KvKind,
    /// Bytes from one token to the next.
    pub stride_bytes: u32,
    /// Bytes of a physical page.
    pub page_bytes: u32,
    /// Pages of the pool, from which all groups draw.
    pub num_pages: u64,
    /// Tokens that fit a slot.
    pub slot_tokens: u32,
    /// Slots, the reserved one included.
    pub num_slots: u32,
    /// Storages, the reserved one included.
    pub num_storages: u32,
    /// Spans of other storages that a slot may show at once.
    pub max_spans: u32,
}

/// How a shard computes prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptRuns {
    /// In chunks, cut anywhere; what is computed serves every prompt that begins with it.
    Causal,
    /// In one piece and for each sequence anew: an encoder reads it, and what is generated follows `start_token`, which the
    /// engine puts at its end.
    Whole {
        /// The decoder's first token.
        start_token: u32,
    },
}

impl PromptRuns {
    /// Whether a prompt is never cut and never shared.
    pub fn is_whole(self) -> bool {
        matches!(self, Self::Whole { .. })
    }
}

/// What a warm shard says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardDescription {
    /// Hugging Face class name.
    pub architecture: String,
    /// Dtype of the weights and activations.
    pub dtype: String,
    /// `cpu` or a device name.
    pub device: String,
    /// Rows of the output head.
    pub vocab_size: u32,
    /// Longest sequence the model was made for.
    pub max_positions: u32,
    /// Tokens that end a sequence by themselves.
    pub eos_token_ids: Vec<u32>,
    /// How it computes prompts.
    pub prompt_runs: PromptRuns,
    /// KV groups: each slot and storage is in all of them.
    pub kv_groups: Vec<KvGroup>,
    /// Resolved step budget, in tokens.
    pub max_batch_prefill_tokens: u32,
    /// Resolved longest sequence, in tokens.
    pub max_total_tokens: u32,
    /// Shards that hold the model together.
    pub num_shards: u32,
    /// Whether transformers' own model code runs, attending over ribbons, instead of Ribbon's.
    pub runs_bridge: bool,
    /// The final states of prompts can be had ([`crate::Pooling`]).
    pub can_pool: bool,
    /// The tokens of a prompt can be scored ([`crate::Sampling::prompt_top_tokens`]).
    pub can_score_prompts: bool,
    /// Longest step seen while warming up.
    pub slowest_step: Duration,
    /// Time of a prompt's token, in the largest step that the budget allows.
    pub prompt_token: Duration,
    /// Resolved revision of a Hub model.
    pub revision: Option<String>,
}

/// A change of KV memory, applied between steps, in order. Counts are absolute token ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RibbonOp {
    /// The slot shows `storage`, cut to `tokens` (0 for a new one).
    Open {
        /// The seat.
        slot: Slot,
        /// Storage it will write to.
        storage: Storage,
        /// Tokens of it that count.
        tokens: u32,
    },
    /// The slot shows tokens up to `end` of another storage, read-only.
    Share {
        /// The seat.
        slot: Slot,
        /// Owner of the tokens.
        storage: Storage,
        /// Absolute token end.
        end: u32,
    },
    /// The slot's own storage may be written up to `end`.
    Grow {
        /// The seat.
        slot: Slot,
        /// Absolute token end.
        end: u32,
    },
    /// The slot gives up what it shows before `begin`; another storage's pages stay.
    TrimFront {
        /// The seat.
        slot: Slot,
        /// First token it still needs.
        begin: u32,
    },
    /// The slot is free; its sequence is forgotten.
    Close {
        /// The seat.
        slot: Slot,
        /// Keep the storage for its prefix.
        keep: bool,
    },
    /// The storage gives back what lies behind `end`.
    Truncate {
        /// The pages.
        storage: Storage,
        /// Absolute token end.
        end: u32,
    },
    /// The storage gives back everything.
    Drop {
        /// The pages.
        storage: Storage,
    },
}

/// A change of one group's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupOp {
    /// Index into [`ShardDescription::kv_groups`].
    pub group: u8,
    /// What changes.
    pub op: RibbonOp,
}

/// A sequence takes a slot, with its whole known history.
#[derive(Clone, Debug, PartialEq)]
pub struct Admission {
    /// The seat.
    pub slot: Slot,
    /// For logs.
    pub sequence_id: u64,
    /// Prompt, then what was generated before a restart.
    pub token_ids: Vec<u32>,
    /// Where generation began.
    pub prompt_tokens: u32,
    /// How to pick tokens.
    pub sampling: Arc<Sampling>,
    /// Tokens that end the sequence in the shard.
    pub stop_token_ids: Arc<[u32]>,
    /// Stop tokens cannot be sampled before so many generated tokens.
    pub min_tokens: u32,
    /// W3C trace context of the request.
    pub traceparent: Option<Arc<str>>,
}

/// What a run of tokens should yield.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing: more of the prompt follows in a later step.
    Nothing,
    /// The next token.
    Sample,
    /// No token, though it reaches the end of the known ones: the sequence ends with it.
    End,
}

/// A run of tokens of one slot; a prefill chunk and a decode differ only in the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkItem {
    /// Whose tokens.
    pub slot: Slot,
    /// How many of its next tokens to feed.
    pub count: u32,
    /// What comes back.
    pub wanted: Wanted,
    /// So do scores of the tokens behind those fed, as far as the prompt goes.
    pub scores_prompt: bool,
    /// The final states are pooled over all runs of the prompt; the vector comes with the one that ends it.
    pub pools: Option<Pooling>,
}

/// Everything one step does.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct StepPlan {
    /// Counts from 1 within one stream.
    pub step_id: u64,
    /// Sequences that take a slot first.
    pub admitted: Vec<Admission>,
    /// Then memory changes.
    pub ops: Vec<GroupOp>,
    /// Then the forward pass.
    pub work: Vec<WorkItem>,
}

/// What happened to one row of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum RowResult {
    /// Tokens were fed, nothing sampled.
    Fed,
    /// The next token.
    Sampled {
        /// The token.
        token: Token,
        /// It is a stop token: the sequence is over in the shard.
        stopped: bool,
    },
    /// The sequence had already ended in an earlier step.
    Ended,
    /// The step before failed, this one was skipped.
    Cancelled,
    /// The row, or the whole step, failed.
    Failed {
        /// What the shard said.
        message: String,
    },
}

/// One row of an outcome, in the plan's order.
#[derive(Clone, Debug, PartialEq)]
pub struct RowOutcome {
    /// Whose row.
    pub slot: Slot,
    /// What happened.
    pub result: RowResult,
    /// Scores of prompt tokens, where wanted: of those behind the tokens fed.
    pub prompt: Vec<TokenScore>,
    /// The pooled states, from the run that ends a prompt, where wanted.
    pub pooled: Vec<f32>,
}

/// Where a step's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTimings {
    /// Admissions, memory changes, index arrays.
    pub prepare: Duration,
    /// Embedding to logits.
    pub forward: Duration,
    /// Processors, filters, choice.
    pub sample: Duration,
    /// All of it.
    pub total: Duration,
    /// Time the shard waited for the plan.
    pub idle: Duration,
}

/// The shard's answer to one plan.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutcome {
    /// Of the plan it answers.
    pub step_id: u64,
    /// The plan's rows, in the plan's order.
    pub rows: Vec<RowOutcome>,
    /// Where the time went.
    pub timings: StepTimings,
    /// Pages the pool has, when that changed.
    pub pages_available: Option<u64>,
    /// The whole step failed for this reason.
    pub failure: Option<String>,
    /// It failed because the pool could not give what an operation wanted: no row is to blame.
    pub out_of_pages: bool,
}
