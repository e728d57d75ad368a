//! Everything together under one clock. One round: clients act, plans leave, the shard answers one of them.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use ribbon_core::{
    GroupOp, KvGroup, KvKind, PromptRuns, Refusal, RibbonOp, SequenceRequest, ShardDescription,
    StepOutcome, StepPlan,
};
use ribbon_scheduler::{Event, Gate, PageUsage, Scheduler, SchedulerSettings, Usage, invariants};

use super::{
    clients::{self, Clients, Crowd},
    model::Rng,
    shard::{Answer, Shard, Trouble},
};

/// How often things happen, per thousand rounds (poison: per thousand requests).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chances {
    pub(crate) arrival: u64,
    pub(crate) cancel: u64,
    pub(crate) hurried: u64,
    /// Per thousand requests: nearly as long as can be.
    pub(crate) giant: u64,
    /// No operation of a plan finds a page, whatever the account says.
    pub(crate) no_pages: u64,
    /// The pool shrinks or grows again.
    pub(crate) resize: u64,
    pub(crate) poison: u64,
    pub(crate) failed_step: u64,
    pub(crate) loss: u64,
    pub(crate) hang: u64,
    /// Per thousand outages.
    pub(crate) long_outage: u64,
}

/// Rounds without progress after which the world is stuck.
const PATIENCE: u64 = 20_000;

/// A plan under way, and the account of pages when it was sent.
#[derive(Debug)]
struct Sent {
    plan: StepPlan,
    pages: PageUsage,
}

pub(crate) struct World {
    pub(crate) clients: Clients,
    pub(crate) losses: u32,
    pub(crate) failed_steps: u32,
    scheduler: Scheduler,
    gate: Arc<Gate>,
    rng: Rng,
    chances: Chances,
    description: ShardDescription,
    least_pages: u64,
    shard: Option<Shard>,
    in_flight: VecDeque<Sent>,
    /// From this step on, router and shard agree on the pages.
    mended_from: u64,
    /// How often they did.
    pub(crate) compared: u64,
    pub(crate) short_steps: u32,
    /// Times a window gave its front up.
    pub(crate) trims: u64,
    now: Instant,
    pub(crate) step: u64,
    outage_was_long: bool,
    prefix_caching: bool,
}

/// What a world is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) pipeline_depth: usize,
    pub(crate) chances: Chances,
    /// Tokens of a step.
    pub(crate) budget: u32,
    /// Of the pool.
    pub(crate) pages: u64,
    pub(crate) prefix_caching: bool,
    /// Retention rules of the KV groups.
    pub(crate) kinds: &'static [KvKind],
    /// Tokens of the longest sequence.
    pub(crate) longest: u32,
    pub(crate) prompt_runs: PromptRuns,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            seed: 1,
            pipeline_depth: 2,
            chances: Chances::default(),
            budget: 64,
            pages: 1_000,
            prefix_caching: true,
            kinds: &[KvKind::Full],
            longest: 256,
            prompt_runs: PromptRuns::Causal,
        }
    }
}

impl Setup {
    /// Pages with which the longest request fits: the pool never has fewer.
    fn least_pages(self) -> u64 {
        let fed_ahead = self.budget * self.pipeline_depth as u32;
        let tokens = |kind: &KvKind| match kind {
            KvKind::Full => self.longest,
            // What is kept in front of a window: design §3.
            KvKind::Window(window) => self.longest.min(window + 256 + fed_ahead),
        };
        let pages = |tokens| u64::from(tokens * STRIDE_BYTES).div_ceil(u64::from(PAGE_BYTES)) + 1;
        self.kinds.iter().map(|kind| pages(tokens(kind))).sum()
    }
}

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        let Setup { seed, chances, .. } = setup;
        let gate = Gate::new(40, None);
        let settings = SchedulerSettings {
            pipeline_depth: setup.pipeline_depth,
            prefix_caching: setup.prefix_caching,
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
            prefix_caching: setup.prefix_caching,
            description: description(setup),
            least_pages: setup.least_pages(),
            shard: None,
            in_flight: VecDeque::new(),
            mended_from: 0,
            compared: 0,
            short_steps: 0,
            trims: 0,
            now: Instant::now(),
            step: 0,
            outage_was_long: false,
        };
        world.clients.giant_from = setup.longest * 3 / 4;
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
        self.chances = Chances::default();
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
        assert_eq!(
            (pages.live, pages.shared, pages.awaited, pages.bytes),
            (0, 0, 0, 0)
        );
        assert_eq!(self.shard.as_ref().map(Shard::pages), Some(pages.cached));
        assert!(self.prefix_caching || pages.cached == 0, "{pages:?}");
        assert!(self.scheduler.is_idle());
    }

    pub(crate) fn usage(&self) -> Usage {
        self.scheduler.usage()
    }

    fn clients_act(&mut self) {
        if self.rng.chance(self.chances.arrival) {
            let crowd = Crowd {
                poison: self.chances.poison,
                hurried: self.chances.hurried,
                giant: self.chances.giant,
                longest: self.description.max_total_tokens,
            };
            let last = &self.clients.last_answer;
            let request = clients::request(&mut self.rng, crowd, last, self.now);
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

    pub(crate) fn submit(&mut self, group: &[SequenceRequest]) {
        match self.scheduler.submit_group(group.to_vec(), self.now) {
            Ok(ids) => {
                for (id, request) in ids.into_iter().zip(group) {
                    self.clients.add(id, request, self.step);
                }
            }
            Err(Refusal::QueueFull { queued, .. }) => assert!(queued > 0),
            Err(Refusal::Overloaded { running, limit, .. }) => assert_eq!(running, limit),
            Err(Refusal::NeverFits { needed, limit }) => assert!(needed > limit),
            Err(other) => panic!("{other}"),
        }
    }

    fn round(&mut self) {
        self.step += 1;
        self.now += Duration::from_millis(1);
        self.scheduler.on_time(self.now);
        while let Some(plan) = self.scheduler.next_plan(self.now) {
            let pages = self.scheduler.usage().pages;
            let is_trim = |op: &&GroupOp| matches!(op.op, RibbonOp::TrimFront { .. });
            self.trims += plan.ops.iter().filter(is_trim).count() as u64;
            self.in_flight.push_back(Sent { plan, pages });
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
        assert!(self.gate.occupied() as usize <= self.clients.waiting.len());
    }

    fn answer(&mut self) {
        let (Some(sent), Some(shard)) = (self.in_flight.pop_front(), self.shard.as_mut()) else {
            return;
        };
        let resized = self.rng.chance(self.chances.resize);
        let trouble = Trouble {
            fails: self.rng.chance(self.chances.failed_step),
            no_pages: self.rng.chance(self.chances.no_pages),
            resize: resized.then(|| {
                let all = self.description.kv_groups[0].num_pages;
                self.rng.between(self.least_pages, all)
            }),
        };
        match shard.run(&sent.plan, trouble, &mut self.rng) {
            Answer::Died => {
                self.in_flight.push_front(sent);
                self.lose();
            }
            Answer::Outcome(outcome) => {
                self.compare_pages(&sent, &outcome);
                if outcome.out_of_pages {
                    self.short_steps += 1;
                } else if outcome.failure.is_some() {
                    self.failed_steps += 1;
                    self.blame(&[sent]);
                }
                self.now += outcome.timings.total;
                self.scheduler.on_outcome(outcome, self.now);
            }
        }
    }

    /// Router and shard count the same pages, as soon as a plan is applied. After one that found no pages, those under way
    /// differ, and the next one that is made mends it.
    fn compare_pages(&mut self, sent: &Sent, outcome: &StepOutcome) {
        if outcome.out_of_pages {
            let newest = self.in_flight.back().unwrap_or(sent);
            self.mended_from = newest.plan.step_id + 1;
        }
        let shard = self.shard.as_ref().map_or(0, Shard::pages);
        let owned = sent.pages.live + sent.pages.shared + sent.pages.cached;
        if sent.plan.step_id >= self.mended_from {
            assert_eq!(shard, owned, "step {}: {:?}", self.step, sent.pages);
            self.compared += 1;
        }
    }

    /// Everyone in these plans was there when it happened.
    fn blame(&mut self, plans: &[Sent]) {
        // Which sequence sits where is the scheduler's business; that a failure happened at all while a client waited is an
        // upper bound of what it may be blamed for.
        if plans.iter().any(|sent| !sent.plan.work.is_empty()) {
            self.clients
                .waiting
                .values_mut()
                .for_each(|client| client.failures += 1);
        }
    }

    fn lose(&mut self) {
        self.losses += 1;
        let plans: Vec<Sent> = self.in_flight.drain(..).collect();
        self.blame(&plans);
        self.shard = None;
        self.scheduler.on_lost("simulated", self.now);
        self.outage();
    }

    /// The shard stops answering: after the deadline it is replaced.
    fn hang(&mut self) {
        let plans: Vec<Sent> = self.in_flight.drain(..).collect();
        self.blame(&plans);
        // Warm-up said 60 ms, so 30 s is the least.
        self.now += Duration::from_secs(31);
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
        self.mended_from = 0;
        self.shard = Some(Shard::new(&self.description));
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
                self.clients
                    .failed(sequence, &error, self.outage_was_long, self.now);
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

// As three quarters of a page are to 4 KiB, in small.
const STRIDE_BYTES: u32 = 192;
const PAGE_BYTES: u32 = 256;

fn description(setup: Setup) -> ShardDescription {
    let group = |kind: &KvKind| KvGroup {
        kind: *kind,
        stride_bytes: STRIDE_BYTES,
        page_bytes: PAGE_BYTES,
        num_pages: setup.pages,
        slot_tokens: setup.longest,
        num_slots: 41,
        num_storages: 60,
        max_spans: 8,
    };
    ShardDescription {
        architecture: "Simulated".into(),
        dtype: "float32".into(),
        device: "cpu".into(),
        vocab_size: 100,
        max_positions: setup.longest,
        eos_token_ids: vec![2],
        prompt_runs: setup.prompt_runs,
        kv_groups: setup.kinds.iter().map(group).collect(),
        max_batch_prefill_tokens: setup.budget,
        max_total_tokens: setup.longest,
        num_shards: 1,
        runs_bridge: false,
        can_pool: true,
        can_score_prompts: true,
        slowest_step: Duration::from_millis(60),
        prompt_token: Duration::from_millis(60) / setup.budget,
        revision: None,
    }
}
