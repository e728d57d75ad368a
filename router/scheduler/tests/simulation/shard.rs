//! The simulated shard: keeps slots and pages by the rules of the wire, and panics when a plan breaks one.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use ribbon_core::{
    Admission, GroupOp, KvGroup, RibbonOp, RowOutcome, RowResult, Slot, StepOutcome, StepPlan,
    StepTimings, Wanted, WorkItem,
};

use super::model::{FAILS_STEPS, History, KILLS_SHARDS, POISON_AFTER, STOP};

#[derive(Debug)]
struct Seat {
    history: History,
    known: u32,
    prompt: u32,
    first: u32,
    fed: u32,
    stop_token_ids: Vec<u32>,
    ended: bool,
}

/// What a step came to.
#[derive(Debug)]
pub(crate) enum Answer {
    Outcome(StepOutcome),
    Died,
}

#[derive(Debug)]
pub(crate) struct Shard {
    group: KvGroup,
    budget: u32,
    next_step: u64,
    seats: BTreeMap<Slot, Seat>,
    /// Tokens each open slot may hold.
    grown: BTreeMap<Slot, u32>,
    /// Slots of a step that failed: plans under way are cancelled for them. With two plans in flight that is the next one
    /// only, as the wire says; deeper pipelines need it for all that were sent.
    failed: HashSet<Slot>,
}

impl Shard {
    pub(crate) fn new(group: KvGroup, budget: u32) -> Self {
        let (seats, grown) = (BTreeMap::new(), BTreeMap::new());
        Self {
            group,
            budget,
            next_step: 1,
            seats,
            grown,
            failed: HashSet::new(),
        }
    }

    /// Physical pages behind all slots.
    pub(crate) fn pages(&self) -> u64 {
        self.grown
            .values()
            .map(|tokens| self.pages_of(*tokens))
            .sum()
    }

    fn pages_of(&self, tokens: u32) -> u64 {
        let bytes = u64::from(tokens) * u64::from(self.group.stride_bytes);
        bytes.div_ceil(u64::from(self.group.page_bytes))
    }

    /// Runs one plan. `fail`: the step fails as a whole for no reason of its own.
    pub(crate) fn run(&mut self, plan: &StepPlan, fail: bool) -> Answer {
        assert_eq!(plan.step_id, self.next_step, "steps are counted from 1");
        self.next_step += 1;
        let freed = self.apply(&plan.ops, &plan.admitted);
        assert!(self.pages() <= self.group.num_pages, "out of pages");
        let tokens: u32 = plan.work.iter().map(|item| item.count).sum();
        assert!(
            tokens <= self.budget,
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
        if (fail && tokens > 0) || self.acts(plan, FAILS_STEPS) {
            return Answer::Outcome(self.failure(plan));
        }
        let rows = plan.work.iter().map(|item| self.row(item)).collect();
        Answer::Outcome(StepOutcome {
            step_id: plan.step_id,
            rows,
            timings: timings(plan),
            pages_available: None,
            failure: None,
            out_of_pages: false,
        })
    }

    fn apply(&mut self, ops: &[GroupOp], admitted: &[Admission]) -> HashSet<Slot> {
        let mut closed = HashSet::new();
        for op in ops {
            match op.op {
                RibbonOp::Open {
                    slot,
                    storage,
                    tokens: 0,
                } => {
                    assert!(
                        slot.0 > 0 && slot.0 < self.group.num_slots,
                        "no such slot: {slot:?}"
                    );
                    assert!(storage.0 > 0 && storage.0 < self.group.num_storages);
                    assert!(!closed.contains(&slot), "reused in the plan that closes it");
                    assert!(
                        self.grown.insert(slot, 0).is_none(),
                        "{slot:?} is open already"
                    );
                }
                RibbonOp::Grow { slot, end } => {
                    let pages = self.pages_of(end);
                    let before = self
                        .grown
                        .insert(slot, end)
                        .expect("grows what is not open");
                    assert!(
                        pages > self.pages_of(before),
                        "grows without entering a page"
                    );
                    assert!(end <= self.group.slot_tokens, "grows beyond the slot");
                }
                RibbonOp::Close { slot, keep: false } => {
                    assert!(
                        self.grown.remove(&slot).is_some(),
                        "closes what is not open"
                    );
                    self.seats.remove(&slot);
                    self.failed.remove(&slot);
                    closed.insert(slot);
                }
                other => panic!("not in this version: {other:?}"),
            }
        }
        for admission in admitted {
            let seat = Seat {
                history: History::of(&admission.token_ids),
                known: admission.token_ids.len() as u32,
                prompt: admission.prompt_tokens,
                first: admission.token_ids[0],
                fed: 0,
                stop_token_ids: admission.stop_token_ids.to_vec(),
                ended: false,
            };
            assert!(
                self.seats.insert(admission.slot, seat).is_none(),
                "the slot is taken"
            );
        }
        closed
    }

    /// Whether a poisoned prompt of this kind is in the plan and old enough.
    fn acts(&self, plan: &StepPlan, poison: u32) -> bool {
        plan.work.iter().any(|item| {
            let seat = self.seats.get(&item.slot).expect("works on an empty slot");
            let generated = (seat.known - seat.prompt) as usize;
            let runs = !seat.ended && !self.failed.contains(&item.slot);
            seat.first == poison && runs && generated >= POISON_AFTER
        })
    }

    fn failure(&mut self, plan: &StepPlan) -> StepOutcome {
        let failed = plan.work.iter().map(|item| item.slot);
        self.failed.extend(failed.clone());
        let result = RowResult::Failed {
            message: "simulated".into(),
        };
        StepOutcome {
            step_id: plan.step_id,
            rows: failed
                .map(|slot| RowOutcome {
                    slot,
                    result: result.clone(),
                })
                .collect(),
            timings: timings(plan),
            pages_available: None,
            failure: Some("simulated".into()),
            out_of_pages: false,
        }
    }

    fn row(&mut self, item: &WorkItem) -> RowOutcome {
        let grown = self
            .grown
            .get(&item.slot)
            .copied()
            .expect("works on a closed slot");
        let seat = self
            .seats
            .get_mut(&item.slot)
            .expect("works on an empty slot");
        let result = if seat.ended {
            RowResult::Ended
        } else if self.failed.contains(&item.slot) {
            RowResult::Cancelled
        } else {
            seat.feed(item, grown)
        };
        RowOutcome {
            slot: item.slot,
            result,
        }
    }
}

impl Seat {
    fn feed(&mut self, item: &WorkItem, grown: u32) -> RowResult {
        assert!(item.count > 0, "an empty run");
        self.fed += item.count;
        assert!(self.fed <= grown, "feeds beyond what was grown");
        match item.wanted {
            Wanted::Nothing => {
                assert!(
                    self.fed < self.known,
                    "the run reaches the end and wants nothing"
                );
                RowResult::Fed
            }
            Wanted::Sample => {
                assert_eq!(self.fed, self.known, "a sample needs all known tokens");
                let token_id = self.history.next();
                self.history.push(token_id);
                self.known += 1;
                self.ended = self.stop_token_ids.contains(&token_id);
                debug_assert!(!self.ended || token_id == STOP);
                RowResult::Sampled {
                    token_id,
                    logprob: -1.0,
                    top: Vec::new(),
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
