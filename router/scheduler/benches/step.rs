//! What a step costs in the router: the outcome taken, the next plan made. `cargo bench -p ribbon-scheduler`.

#![allow(
    clippy::expect_used,
    missing_docs,
    reason = "a benchmark ends when something is wrong"
)]

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use divan::Bencher;
use ribbon_core::{
    KvGroup, KvKind, PromptRuns, RowOutcome, RowResult, Sampling, SequenceRequest,
    ShardDescription, StepOutcome, StepPlan, StepTimings, Token, Wanted, WorkItem,
};
use ribbon_scheduler::{Gate, Scheduler, SchedulerSettings};

fn main() {
    divan::main();
}

/// The memory of the 120 M model: 24 KiB a token, so every sixth token enters a page of 4 KiB six times over.
fn description(slots: u32, slot_tokens: u32) -> ShardDescription {
    ShardDescription {
        architecture: "Benchmark".into(),
        dtype: "float32".into(),
        device: "cpu".into(),
        vocab_size: 32_000,
        max_positions: slot_tokens,
        eos_token_ids: Vec::new(),
        prompt_runs: PromptRuns::Causal,
        kv_groups: vec![KvGroup {
            kind: KvKind::Full,
            stride_bytes: 24_576,
            page_bytes: 4096,
            num_pages: 1 << 24,
            slot_tokens,
            num_slots: slots + 1,
            num_storages: 4 * slots + 256,
            max_spans: 15,
        }],
        max_batch_prefill_tokens: 4096,
        max_total_tokens: slot_tokens,
        num_shards: 1,
        runs_bridge: false,
        can_pool: true,
        can_score_prompts: true,
        slowest_step: Duration::from_millis(100),
        prompt_token: Duration::from_millis(100) / 4096,
        revision: None,
    }
}

fn request(prompt: Vec<u32>, max_new_tokens: u32) -> SequenceRequest {
    SequenceRequest {
        prompt: prompt.into(),
        max_new_tokens,
        pooling: None,
        sampling: Arc::new(Sampling::default()),
        stop_token_ids: Arc::from([]),
        min_tokens: 0,
        traceparent: None,
        cache_salt: None,
        tenant: None,
        priority: 0,
        deadline: None,
    }
}

struct Bench {
    scheduler: Scheduler,
    air: VecDeque<StepPlan>,
    now: Instant,
    token: u32,
}

impl Bench {
    fn new(slots: u32, slot_tokens: u32) -> Self {
        Self::with_room(slots, slot_tokens, slots)
    }

    /// `waiting` more requests than slots are taken.
    fn with_room(slots: u32, slot_tokens: u32, waiting: u32) -> Self {
        let settings = SchedulerSettings {
            max_concurrent_requests: slots + waiting,
            ..SchedulerSettings::default()
        };
        let gate = Gate::new(slots + waiting, None);
        let (mut scheduler, now) = (Scheduler::new(settings, gate), Instant::now());
        scheduler.on_ready(description(slots, slot_tokens), now);
        Self {
            scheduler,
            air: VecDeque::new(),
            now,
            token: 0,
        }
    }

    fn answer(&mut self, plan: &StepPlan) -> StepOutcome {
        let row = |item: &WorkItem| {
            self.token = self
                .token
                .wrapping_mul(1_664_525)
                .wrapping_add(1_013_904_223);
            RowOutcome {
                slot: item.slot,
                prompt: Vec::new(),
                pooled: Vec::new(),
                result: match item.wanted {
                    Wanted::Nothing | Wanted::End => RowResult::Fed,
                    Wanted::Sample => RowResult::Sampled {
                        token: Token {
                            id: self.token % 32_000,
                            logprob: -1.0,
                            top: Vec::new(),
                        },
                        stopped: false,
                    },
                },
            }
        };
        StepOutcome {
            step_id: plan.step_id,
            rows: plan.work.iter().map(row).collect(),
            timings: StepTimings {
                total: Duration::from_millis(10),
                ..StepTimings::default()
            },
            pages_available: None,
            failure: None,
            out_of_pages: false,
        }
    }

    /// What the actor does for a step: takes the oldest outcome, sends what may leave, takes the events.
    fn take(&mut self, outcome: StepOutcome) -> usize {
        self.scheduler.on_outcome(outcome, self.now);
        self.air.extend(self.scheduler.next_plan(self.now));
        self.scheduler.take_events().len()
    }

    fn next_outcome(&mut self) -> StepOutcome {
        while let Some(plan) = self.scheduler.next_plan(self.now) {
            self.air.push_back(plan);
        }
        let plan = self.air.pop_front().expect("something runs");
        self.answer(&plan)
    }

    /// Until nobody is left.
    fn finish(&mut self) {
        while !self.scheduler.at_rest() || !self.air.is_empty() {
            self.settle(1);
        }
    }

    fn settle(&mut self, steps: u32) {
        for _ in 0..steps {
            let outcome = self.next_outcome();
            self.take(outcome);
        }
    }
}

/// All of them generate.
#[divan::bench(args = [32, 256], sample_count = 1000)]
fn decode_step(bencher: Bencher<'_, '_>, running: u32) {
    let mut bench = Bench::new(running, 65_536);
    for own in 0..running {
        let prompt = (0..64).map(|token| token + 64 * own).collect();
        bench
            .scheduler
            .submit(request(prompt, 60_000), bench.now)
            .expect("there is room");
    }
    bench.settle(200);
    let bench = std::cell::RefCell::new(bench);
    bencher
        .with_inputs(|| bench.borrow_mut().next_outcome())
        .bench_local_values(|outcome| bench.borrow_mut().take(outcome));
}

/// Sequences end and others take their slots, while so many wait.
#[divan::bench(args = [64, 1024, 4096], sample_count = 500)]
fn turnover_step(bencher: Bencher<'_, '_>, waiting: u32) {
    let mut bench = Bench::with_room(256, 4096, waiting);
    let mut next = 0;
    let mut top_up = move |bench: &mut Bench| loop {
        next += 1;
        // Every fourth is long; 64 tenants of three priorities.
        let tokens = if next % 4 == 0 { 600 } else { 16 + next % 200 };
        let mut request = request((0..tokens).map(|token| token + 1_000 * next).collect(), 64);
        request.tenant = Some(format!("tenant {}", next % 64).into());
        request.priority = (next % 3) as i32;
        if bench.scheduler.submit(request, bench.now).is_err() {
            return;
        }
    };
    for _ in 0..200 {
        top_up(&mut bench);
        bench.settle(1);
    }
    let bench = std::cell::RefCell::new(bench);
    bencher
        .with_inputs(|| {
            let mut bench = bench.borrow_mut();
            top_up(&mut bench);
            bench.next_outcome()
        })
        .bench_local_values(|outcome| bench.borrow_mut().take(outcome));
}

/// One more comes with a prompt of which all but the last token is known: look-up, seat, plan.
#[divan::bench(args = [1_000, 10_000, 100_000], sample_count = 200)]
fn admission_with_a_hit(bencher: Bencher<'_, '_>, tokens: u32) {
    let mut bench = Bench::new(256, 131_072);
    let prompt: Vec<u32> = (0..tokens).collect();
    bench
        .scheduler
        .submit(request(prompt.clone(), 2), bench.now)
        .expect("there is room");
    bench.finish();
    let bench = std::cell::RefCell::new(bench);
    bencher
        .with_inputs(|| {
            let mut bench = bench.borrow_mut();
            // What came before ends and closes.
            bench.finish();
            let now = bench.now;
            bench
                .scheduler
                .submit(request(prompt.clone(), 2), now)
                .expect("there is room");
        })
        .bench_local_values(|()| {
            let mut bench = bench.borrow_mut();
            let now = bench.now;
            let plan = bench.scheduler.next_plan(now).expect("it is admitted");
            bench.air.push_back(plan);
        });
}
