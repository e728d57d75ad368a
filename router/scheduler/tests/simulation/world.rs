//! Everything together under one clock. One round: clients act, plans leave, the shard answers one of them.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use ribbon_core::{KvGroup, KvKind, Refusal, SequenceRequest, ShardDescription, StepPlan};
use ribbon_scheduler::{Event, Gate, Scheduler, SchedulerSettings, invariants};

use super::{
    clients::{self, Clients},
    model::Rng,
    shard::{Answer, Shard},
};

/// How often things happen, per thousand rounds (poison: per thousand requests).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chances {
    pub(crate) cancel: u64,
    pub(crate) poison: u64,
    pub(crate) failed_step: u64,
    pub(crate) loss: u64,
    pub(crate) hang: u64,
    /// Per thousand outages.
    pub(crate) long_outage: u64,
}

/// Rounds without progress after which the world is stuck.
const PATIENCE: u64 = 20_000;

pub(crate) struct World {
    pub(crate) clients: Clients,
    pub(crate) losses: u32,
    pub(crate) failed_steps: u32,
    scheduler: Scheduler,
    gate: Arc<Gate>,
    rng: Rng,
    chances: Chances,
    description: ShardDescription,
    shard: Option<Shard>,
    in_flight: VecDeque<StepPlan>,
    now: Instant,
    pub(crate) step: u64,
    outage_was_long: bool,
}

impl World {
    pub(crate) fn new(seed: u64, depth: usize, chances: Chances) -> Self {
        Self::with_shard(seed, depth, chances, 64, 400)
    }

    pub(crate) fn with_shard(
        seed: u64,
        pipeline_depth: usize,
        chances: Chances,
        budget: u32,
        pages: u64,
    ) -> Self {
        let gate = Gate::new(40, Some(u64::MAX));
        let settings = SchedulerSettings {
            pipeline_depth,
            ..SchedulerSettings::default()
        };
        let mut world = Self {
            clients: Clients::default(),
            losses: 0,
            failed_steps: 0,
            scheduler: Scheduler::new(settings, gate.clone()),
            gate,
            rng: Rng(seed),
            chances,
            description: description(budget, pages),
            shard: None,
            in_flight: VecDeque::new(),
            now: Instant::now(),
            step: 0,
            outage_was_long: false,
        };
        world.bring_up();
        world
    }

    pub(crate) fn run(&mut self, steps: u64) {
        let until = self.step + steps;
        while self.step < until {
            self.clients_act();
            self.round();
        }
    }

    /// No new clients and no new trouble: everyone must come to an end, and everything be given back.
    pub(crate) fn drain(&mut self) {
        self.chances = Chances {
            cancel: 0,
            poison: 0,
            failed_step: 0,
            loss: 0,
            hang: 0,
            long_outage: 0,
        };
        let patience = self.step + PATIENCE;
        while !self.clients.waiting.is_empty() {
            assert!(
                self.step < patience,
                "stuck: {:?}",
                self.clients.waiting.keys()
            );
            self.round();
        }
        while !self.in_flight.is_empty() || !self.scheduler.at_rest() {
            assert!(self.step < patience, "slots are not given back");
            self.round();
        }
        let pages = self.scheduler.usage().pages;
        assert_eq!((pages.owned, pages.reserved, pages.tokens), (0, 0, 0));
        assert_eq!(self.shard.as_ref().map(Shard::pages), Some(0));
        assert!(self.scheduler.is_idle());
    }

    fn clients_act(&mut self) {
        if self.rng.chance(120) {
            let request = clients::request(&mut self.rng, self.chances.poison);
            self.submit(&request);
        }
        if self.rng.chance(self.chances.cancel)
            && let Some(id) = self.clients.pick(&mut self.rng)
        {
            self.clients.cancel(id);
            self.scheduler.cancel(id, self.now);
        }
        self.check();
    }

    pub(crate) fn submit(&mut self, request: &SequenceRequest) {
        match self.scheduler.submit(request.clone(), self.now) {
            Ok(id) => self.clients.add(id, request, self.step),
            Err(Refusal::Overloaded { running, limit, .. }) => assert_eq!(running, limit),
            Err(Refusal::NeverFits { needed, limit }) => assert!(needed > limit),
            Err(other) => panic!("{other}"),
        }
    }

    fn round(&mut self) {
        self.step += 1;
        self.now += Duration::from_millis(1);
        while let Some(plan) = self.scheduler.next_plan(self.now) {
            self.in_flight.push_back(plan);
            self.check();
        }
        if self.rng.chance(self.chances.loss) {
            self.lose();
        } else if self.rng.chance(self.chances.hang) && !self.in_flight.is_empty() {
            self.hang();
        } else {
            self.answer();
        }
        self.take_events();
        self.check();
        assert_eq!(self.gate.occupied() as usize, self.clients.waiting.len());
    }

    fn answer(&mut self) {
        let (Some(plan), Some(shard)) = (self.in_flight.pop_front(), self.shard.as_mut()) else {
            return;
        };
        let fail = self.rng.chance(self.chances.failed_step);
        match shard.run(&plan, fail) {
            Answer::Died => {
                self.in_flight.push_front(plan);
                self.lose();
            }
            Answer::Outcome(outcome) => {
                if outcome.failure.is_some() {
                    self.failed_steps += 1;
                    self.blame(&[plan]);
                }
                self.now += outcome.timings.total;
                self.scheduler.on_outcome(outcome, self.now);
            }
        }
    }

    /// Everyone in these plans was there when it happened.
    fn blame(&mut self, plans: &[StepPlan]) {
        // Which sequence sits where is the scheduler's business; that a failure happened at all while a client waited is an
        // upper bound of what it may be blamed for.
        if plans.iter().any(|plan| !plan.work.is_empty()) {
            self.clients
                .waiting
                .values_mut()
                .for_each(|client| client.failures += 1);
        }
    }

    fn lose(&mut self) {
        self.losses += 1;
        let plans: Vec<StepPlan> = self.in_flight.drain(..).collect();
        self.blame(&plans);
        self.shard = None;
        self.scheduler.on_lost("simulated", self.now);
        self.outage();
    }

    /// The shard stops answering: after the deadline it is replaced.
    fn hang(&mut self) {
        let plans: Vec<StepPlan> = self.in_flight.drain(..).collect();
        self.blame(&plans);
        let deadline = self.scheduler.deadline().expect("a plan is in flight");
        self.now = deadline;
        self.scheduler.on_time(self.now);
        self.shard = None;
        let events = self.scheduler.take_events();
        let hung = events
            .iter()
            .any(|event| matches!(event, Event::Hung { .. }));
        assert!(hung, "an overdue step is reported");
        for event in events {
            self.take_event(event);
        }
        self.losses += 1;
        self.scheduler.on_lost("simulated", self.now);
        self.outage();
    }

    /// Some time without a shard; now and then longer than anyone waits.
    fn outage(&mut self) {
        self.outage_was_long = self.rng.chance(self.chances.long_outage);
        self.now += Duration::from_secs(if self.outage_was_long { 121 } else { 20 });
        self.check();
        self.scheduler.on_time(self.now);
        self.take_events();
        self.outage_was_long = false;
        self.bring_up();
    }

    fn bring_up(&mut self) {
        let group = self.description.kv_groups[0].clone();
        self.shard = Some(Shard::new(group, self.description.max_batch_prefill_tokens));
        self.scheduler.on_ready(self.description.clone(), self.now);
    }

    fn take_events(&mut self) {
        for event in self.scheduler.take_events() {
            self.take_event(event);
        }
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Token { sequence, event } => self.clients.token(sequence, &event, self.step),
            Event::Failed { sequence, error } => {
                self.clients.failed(sequence, &error, self.outage_was_long);
            }
            Event::Hung { .. } => assert!(self.chances.hang > 0, "nothing hangs"),
            Event::Cancelled { .. }
            | Event::Expired { .. }
            | Event::Lost { .. }
            | Event::Step(_) => {}
        }
    }

    fn check(&self) {
        if let Err(violation) = invariants::check(&self.scheduler) {
            panic!("step {}: {violation}", self.step);
        }
    }
}

fn description(budget: u32, num_pages: u64) -> ShardDescription {
    ShardDescription {
        architecture: "Simulated".into(),
        dtype: "float32".into(),
        device: "cpu".into(),
        vocab_size: 100,
        max_positions: 256,
        eos_token_ids: vec![2],
        kv_groups: vec![KvGroup {
            kind: KvKind::Full,
            stride_bytes: 3072,
            page_bytes: 4096,
            num_pages,
            slot_tokens: 256,
            num_slots: 41,
            num_storages: 41,
            max_spans: 8,
        }],
        max_batch_prefill_tokens: budget,
        max_total_tokens: 256,
        slowest_step: Duration::from_millis(60),
        revision: None,
    }
}
