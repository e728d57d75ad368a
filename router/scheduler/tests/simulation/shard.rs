//! The simulated shard: the region's own bookkeeping over simulated memory. Panics when a plan breaks a rule of the wire; what
//! it samples depends on what it finds in memory.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use _native::region::RegionError;
use ribbon_core::{
    Admission, GroupOp, Pooling, PromptRuns, RibbonOp, RowOutcome, RowResult, ShardDescription,
    Slot, StepOutcome, StepPlan, StepTimings, Token, TokenScore, Wanted, WorkItem,
};

use super::{
    groups::Groups,
    model::{self, FAILS_STEPS, History, KILLS_SHARDS, POISON_AFTER, Rng},
};

#[derive(Debug)]
struct Seat {
    tokens: Vec<u32>,
    prompt: u32,
    seed: u64,
    fed: u32,
    stop_token_ids: Vec<u32>,
    ended: bool,
    /// Its shown prefix was read once.
    checked: bool,
    /// What was pooled so far.
    pool: Vec<f32>,
}

/// What goes wrong with a step for no reason of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) fails: bool,
    /// No operation finds a page.
    pub(crate) no_pages: bool,
    /// The pool has so many pages from now on.
    pub(crate) resize: Option<u64>,
}

/// What a step came to.
#[derive(Debug)]
pub(crate) enum Answer {
    Outcome(StepOutcome),
    Died,
}

pub(crate) struct Shard {
    groups: Groups,
    budget: u32,
    prompt_runs: PromptRuns,
    next_step: u64,
    /// Steps after which the router knows of the pool's last change.
    pool_known_from: u64,
    seats: BTreeMap<Slot, Seat>,
    /// Tokens that an opened slot shows before it grows.
    begins: BTreeMap<Slot, u32>,
    /// Slots of a step that failed: plans under way are cancelled for them. With two plans in flight that is the next one
    /// only, as the wire says; deeper pipelines need it for all that were sent.
    failed: HashSet<Slot>,
}

impl Shard {
    pub(crate) fn new(description: &ShardDescription) -> Self {
        Self {
            groups: Groups::new(&description.kv_groups),
            budget: description.max_batch_prefill_tokens,
            prompt_runs: description.prompt_runs,
            next_step: 1,
            pool_known_from: 0,
            seats: BTreeMap::new(),
            begins: BTreeMap::new(),
            failed: HashSet::new(),
        }
    }

    /// Physical pages behind all slots and storages.
    pub(crate) fn pages(&self) -> u64 {
        self.groups.pages()
    }

    /// Runs one plan.
    pub(crate) fn run(&mut self, plan: &StepPlan, trouble: Trouble, rng: &mut Rng) -> Answer {
        assert_eq!(plan.step_id, self.next_step, "steps are counted from 1");
        self.next_step += 1;
        let freed = self.change_slots(plan);
        let short = self.apply(&plan.ops, trouble.no_pages);
        let tokens: u32 = plan.work.iter().map(|item| item.count).sum();
        let is_alone = self.prompt_runs.is_whole() && plan.work.len() == 1;
        assert!(
            tokens <= self.budget || is_alone,
            "{tokens} tokens in a step of {}",
            self.budget
        );
        for item in &plan.work {
            assert!(
                !freed.contains(&item.slot),
                "a slot is used in the plan that closes it"
            );
        }
        if self.acts(plan, KILLS_SHARDS) {
            return Answer::Died;
        }
        let fails = short || (trouble.fails && tokens > 0) || self.acts(plan, FAILS_STEPS);
        let mut outcome = if fails {
            self.failure(plan, short)
        } else {
            self.success(plan, rng)
        };
        if let Some(pages) = trouble.resize {
            self.groups.pool.resize(pages);
            self.pool_known_from = self.next_step + 4;
            outcome.pages_available = Some(pages);
        }
        Answer::Outcome(outcome)
    }

    /// Closed slots lose their sequence, admitted ones get theirs. Returns the closed ones.
    fn change_slots(&mut self, plan: &StepPlan) -> HashSet<Slot> {
        let close = |op: &GroupOp| match op.op {
            RibbonOp::Close { slot, .. } => Some(slot),
            _ => None,
        };
        let closed: HashSet<Slot> = plan.ops.iter().filter_map(close).collect();
        for slot in &closed {
            self.seats.remove(slot);
            self.failed.remove(slot);
        }
        for admission in &plan.admitted {
            assert!(
                !closed.contains(&admission.slot),
                "reused in the plan that closes it"
            );
            let seat = Seat::new(admission);
            assert!(
                self.seats.insert(admission.slot, seat).is_none(),
                "the slot is taken"
            );
        }
        closed
    }

    /// Applies the operations. Says whether pages were short.
    fn apply(&mut self, ops: &[GroupOp], no_pages: bool) -> bool {
        let total = self.groups.pool.total();
        if no_pages {
            self.groups.pool.resize(0);
        }
        let result = self.groups.apply(ops);
        self.groups.pool.resize(total);
        for op in ops {
            match op.op {
                RibbonOp::Open { slot, tokens, .. } => self.begins.insert(slot, tokens),
                RibbonOp::Share { slot, end, .. } => {
                    let begin = self.begins.get(&slot).copied().unwrap_or(0);
                    self.begins.insert(slot, begin.max(end))
                }
                _ => None,
            };
        }
        for (slot, begin) in std::mem::take(&mut self.begins) {
            if let Some(seat) = self.seats.get_mut(&slot) {
                seat.fed = begin;
            }
        }
        match result {
            Ok(()) => false,
            Err(error) => {
                let expected = no_pages || self.next_step <= self.pool_known_from;
                let short = matches!(error.cause(), RegionError::OutOfPages { .. });
                assert!(short && expected, "{error}: {ops:?}");
                true
            }
        }
    }

    fn success(&mut self, plan: &StepPlan, rng: &mut Rng) -> StepOutcome {
        let rows = plan.work.iter().map(|item| self.row(item, rng)).collect();
        StepOutcome {
            step_id: plan.step_id,
            rows,
            timings: timings(plan),
            pages_available: None,
            failure: None,
            out_of_pages: false,
        }
    }

    /// Whether a poisoned prompt of this kind is in the plan and old enough.
    fn acts(&self, plan: &StepPlan, poison: u32) -> bool {
        plan.work.iter().any(|item| {
            let seat = self.seats.get(&item.slot).expect("works on an empty slot");
            let generated = seat.tokens.len() - seat.prompt as usize;
            let runs = !seat.ended && !self.failed.contains(&item.slot);
            seat.tokens[0] == poison && runs && generated >= POISON_AFTER
        })
    }

    /// The step fails as a whole. What it has written until then is worth nothing.
    fn failure(&mut self, plan: &StepPlan, out_of_pages: bool) -> StepOutcome {
        let runs = plan
            .work
            .iter()
            .filter(|item| !self.failed.contains(&item.slot));
        let spoilt: Vec<WorkItem> = runs.copied().collect();
        for item in spoilt {
            self.spoil(&item);
        }
        let failed = plan.work.iter().map(|item| item.slot);
        self.failed.extend(failed.clone());
        let void = plan.admitted.iter().map(|admission| admission.slot);
        let void = void.filter(|slot| self.groups.is_void(*slot));
        self.failed.extend(void.collect::<Vec<_>>());
        let result = RowResult::Failed {
            message: "simulated".into(),
        };
        let rows = failed.map(|slot| RowOutcome {
            slot,
            result: result.clone(),
            prompt: Vec::new(),
            pooled: Vec::new(),
        });
        StepOutcome {
            step_id: plan.step_id,
            rows: rows.collect(),
            timings: timings(plan),
            pages_available: None,
            failure: Some("simulated".into()),
            out_of_pages,
        }
    }

    fn spoil(&mut self, item: &WorkItem) {
        let seat = &self.seats[&item.slot];
        if seat.ended || self.groups.is_void(item.slot) {
            return;
        }
        let shown = self.groups.shown(item.slot);
        for token in seat.fed..(seat.fed + item.count).min(shown) {
            self.groups.write(item.slot, token, 0xdead);
        }
    }

    fn row(&mut self, item: &WorkItem, rng: &mut Rng) -> RowOutcome {
        let seat = self
            .seats
            .get_mut(&item.slot)
            .expect("works on an empty slot");
        let prompt = seat.scores(item);
        let pooled = seat.pooled(item);
        let result = if seat.ended {
            RowResult::Ended
        } else if self.failed.contains(&item.slot) {
            RowResult::Cancelled
        } else {
            self.feed(item, rng)
        };
        RowOutcome {
            slot: item.slot,
            result,
            prompt,
            pooled,
        }
    }

    fn feed(&mut self, item: &WorkItem, rng: &mut Rng) -> RowResult {
        let shown = self.groups.shown(item.slot);
        let mut seat = self
            .seats
            .remove(&item.slot)
            .expect("works on an empty slot");
        let end = seat.fed + item.count;
        assert!(
            !self.prompt_runs.is_whole() || end >= seat.prompt,
            "cuts a prompt"
        );
        assert!(
            item.count > 0 && end <= shown,
            "feeds {} to {end} of {shown}",
            seat.fed
        );
        assert!(
            end as usize <= seat.tokens.len(),
            "feeds more than is known"
        );
        self.check(item.slot, &mut seat, rng);
        let mut history = self.groups.last(item.slot, seat.fed);
        for token in seat.fed..end {
            history.push(seat.tokens[token as usize]);
            self.groups.write(item.slot, token, history.0);
        }
        seat.fed = end;
        let result = seat.finish(item.wanted, history);
        self.seats.insert(item.slot, seat);
        result
    }

    /// What a slot shows is checked when it is first used, and now and then later.
    fn check(&self, slot: Slot, seat: &mut Seat, rng: &mut Rng) {
        let first = !std::mem::replace(&mut seat.checked, true);
        if seat.fed > 0 && (first || rng.chance(20)) {
            self.groups.check(slot, &seat.tokens, seat.fed);
        }
    }
}

impl Seat {
    fn new(admission: &Admission) -> Self {
        Self {
            tokens: admission.token_ids.clone(),
            prompt: admission.prompt_tokens,
            seed: admission.sampling.seed,
            fed: 0,
            stop_token_ids: admission.stop_token_ids.to_vec(),
            ended: false,
            checked: false,
            pool: Vec::new(),
        }
    }

    /// What the tokens to be fed say of those behind them: their ids, made negative.
    fn scores(&self, item: &WorkItem) -> Vec<TokenScore> {
        let (begin, end) = (self.fed + 1, (self.fed + item.count + 1).min(self.prompt));
        let behind = self
            .tokens
            .get(begin as usize..end as usize)
            .unwrap_or_default();
        let wanted = if item.scores_prompt { behind } else { &[] };
        wanted.iter().map(|token| model::score(*token)).collect()
    }

    /// In place of a mean the tokens of all runs, which would lack those of a prefix hit; in place of the last state its token.
    fn pooled(&mut self, item: &WorkItem) -> Vec<f32> {
        let run = self.fed as usize..(self.fed + item.count) as usize;
        let tokens = self.tokens.get(run).unwrap_or_default();
        match item.pools {
            None => return Vec::new(),
            Some(Pooling::Mean) => self.pool.extend(tokens.iter().map(|token| *token as f32)),
            Some(Pooling::Last) => {
                self.pool = tokens.last().map(|last| *last as f32).into_iter().collect();
            }
        }
        if item.wanted == Wanted::End {
            self.pool.clone()
        } else {
            Vec::new()
        }
    }

    fn finish(&mut self, wanted: Wanted, history: History) -> RowResult {
        let known = self.tokens.len() as u32;
        match wanted {
            Wanted::Nothing => {
                assert!(
                    self.fed < known,
                    "the run reaches the end and wants nothing"
                );
                RowResult::Fed
            }
            Wanted::End => {
                assert_eq!(self.fed, known, "an end needs all known tokens");
                self.ended = true;
                RowResult::Fed
            }
            Wanted::Sample => {
                assert_eq!(self.fed, known, "a sample needs all known tokens");
                let id = history.next(self.seed);
                self.tokens.push(id);
                self.ended = self.stop_token_ids.contains(&id);
                RowResult::Sampled {
                    token: Token {
                        id,
                        logprob: -1.0,
                        top: Vec::new(),
                    },
                    stopped: self.ended,
                }
            }
        }
    }
}

/// A decode takes its share of a fixed cost, a prompt token much more.
fn timings(plan: &StepPlan) -> StepTimings {
    let micros = plan.work.iter().map(|item| match item.count {
        1 => 300,
        count => u64::from(count) * 800,
    });
    let total = Duration::from_micros(5_000 + micros.sum::<u64>());
    StepTimings {
        total,
        forward: total,
        ..StepTimings::default()
    }
}
