//! Small pieces that the unit tests of several modules build on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ribbon_core::{
    KvGroup, KvKind, PromptRuns, RowOutcome, RowResult, Sampling, SequenceRequest,
    ShardDescription, StepOutcome, StepPlan, StepTimings, Token, Wanted,
};

use crate::{Gate, Scheduler, SchedulerSettings};

pub(crate) fn description() -> ShardDescription {
    ShardDescription {
        architecture: "LlamaForCausalLM".into(),
        dtype: "float32".into(),
        device: "cpu".into(),
        vocab_size: 1000,
        max_positions: 4096,
        eos_token_ids: vec![2],
        prompt_runs: PromptRuns::Causal,
        kv_groups: vec![KvGroup {
            kind: KvKind::Full,
            stride_bytes: 1024,
            page_bytes: 4096,
            num_pages: 1000,
            slot_tokens: 512,
            num_slots: 65,
            num_storages: 65,
            max_spans: 8,
        }],
        max_batch_prefill_tokens: 64,
        max_total_tokens: 512,
        num_shards: 1,
        runs_bridge: false,
        can_pool: true,
        can_score_prompts: true,
        slowest_step: Duration::from_millis(64),
        prompt_token: Duration::from_millis(1),
        revision: None,
    }
}

pub(crate) fn request(prompt: u32, max_new_tokens: u32) -> SequenceRequest {
    SequenceRequest {
        prompt: (0..prompt).map(|token| token + 10).collect(),
        max_new_tokens,
        pooling: None,
        sampling: Arc::new(Sampling::default()),
        stop_token_ids: Arc::from([2]),
        min_tokens: 0,
        traceparent: None,
        cache_salt: None,
        tenant: None,
        priority: 0,
        deadline: None,
    }
}

/// The same for a prompt of its own: nobody shares or waits.
pub(crate) fn own_request(own: u32, prompt: u32, max_new_tokens: u32) -> SequenceRequest {
    let tokens: Vec<u32> = (0..prompt).map(|token| token + 10 + 100 * own).collect();
    SequenceRequest {
        prompt: tokens.into(),
        ..request(prompt, max_new_tokens)
    }
}

pub(crate) fn ready_scheduler() -> (Scheduler, Instant) {
    let now = Instant::now();
    let mut scheduler = Scheduler::new(SchedulerSettings::default(), Gate::new(64, None));
    scheduler.on_ready(description(), now);
    (scheduler, now)
}

/// The answer of a shard where everything works and every sample is `token_id`.
pub(crate) fn answer(plan: &StepPlan, token_id: u32) -> StepOutcome {
    let row = |work: &ribbon_core::WorkItem| RowOutcome {
        slot: work.slot,
        prompt: Vec::new(),
        pooled: Vec::new(),
        result: match work.wanted {
            Wanted::Nothing | Wanted::End => RowResult::Fed,
            Wanted::Sample => RowResult::Sampled {
                token: Token {
                    id: token_id,
                    logprob: 0.0,
                    top: Vec::new(),
                },
                stopped: token_id == 2,
            },
        },
    };
    StepOutcome {
        step_id: plan.step_id,
        rows: plan.work.iter().map(row).collect(),
        timings: StepTimings::default(),
        pages_available: None,
        failure: None,
        out_of_pages: false,
    }
}

/// The same, for a step that failed as a whole.
pub(crate) fn failure(plan: &StepPlan) -> StepOutcome {
    let mut outcome = answer(plan, 5);
    for row in &mut outcome.rows {
        row.result = RowResult::Failed {
            message: "boom".into(),
        };
    }
    outcome.failure = Some("boom".into());
    outcome
}
