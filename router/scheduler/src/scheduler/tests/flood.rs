//! How long a short request waits behind a flood of long ones, in the time of a shard whose steps cost what a model says.

use std::collections::{HashMap, VecDeque};

use super::*;

/// What a step takes, in milliseconds.
#[derive(Clone, Copy)]
struct Cost {
    step: f64,
    decode: f64,
    prompt_token: f64,
}

impl Cost {
    fn of(self, rows: usize, prompt_tokens: u32) -> Duration {
        let ms =
            self.step + self.decode * rows as f64 + self.prompt_token * f64::from(prompt_tokens);
        Duration::from_secs_f64(ms / 1e3)
    }
}

/// From a step's end to the beginning of one that was planned only then.
const PLAN_TRAVELS: Duration = Duration::from_millis(1);

/// A plan on its way through the shard.
struct Running {
    plan: StepPlan,
    took: Duration,
    ends: Instant,
}

struct House {
    scheduler: Scheduler,
    cost: Cost,
    now: Instant,
    running: VecDeque<Running>,
    /// Sequences and when they were submitted.
    waiting: HashMap<SequenceId, Instant>,
    first_tokens: HashMap<SequenceId, Duration>,
    ended: Vec<SequenceId>,
    chunk_steps: Vec<Duration>,
}

impl House {
    fn new(cost: Cost, budget: u32) -> Self {
        let now = Instant::now();
        let mut scheduler = Scheduler::new(SchedulerSettings::default(), Gate::new(1000, None));
        let mut shard = description();
        shard.max_batch_prefill_tokens = budget;
        shard.max_total_tokens = 4096;
        shard.slowest_step = cost.of(0, budget);
        shard.prompt_token = shard.slowest_step / budget;
        shard.kv_groups[0].slot_tokens = 4096;
        shard.kv_groups[0].num_pages = 100_000;
        scheduler.on_ready(shard, now);
        Self {
            scheduler,
            cost,
            now,
            running: VecDeque::new(),
            waiting: HashMap::new(),
            first_tokens: HashMap::new(),
            ended: Vec::new(),
            chunk_steps: Vec::new(),
        }
    }

    fn ask(&mut self, tokens: u32, output: u32, tenant: &str) -> SequenceId {
        let request = SequenceRequest {
            tenant: Some(tenant.into()),
            // Nothing is shared.
            prompt: (0..tokens).map(|_| self.waiting.len() as u32 + 3).collect(),
            ..request(1, output)
        };
        let id = self.scheduler.submit(request, self.now).unwrap();
        self.waiting.insert(id, self.now);
        id
    }

    /// Sends what may be sent.
    fn send(&mut self) {
        while let Some(plan) = self.scheduler.next_plan(self.now) {
            let decodes = plan.work.iter().filter(|work| work.count == 1).count();
            let fed: u32 = plan.work.iter().map(|work| work.count).sum();
            let prompt_tokens = fed - decodes as u32;
            let took = self.cost.of(decodes, prompt_tokens);
            if prompt_tokens > 0 {
                self.chunk_steps.push(took);
            }
            let waits_for_the_plan = self.now + PLAN_TRAVELS;
            let starts = self
                .running
                .back()
                .map_or(waits_for_the_plan, |last| last.ends.max(self.now));
            self.running.push_back(Running {
                plan,
                took,
                ends: starts + took,
            });
        }
    }

    /// Lets so many tenths of what is left of the running step pass.
    fn wait(&mut self, tenths: u32) {
        self.send();
        let ends = self
            .running
            .front()
            .map_or(self.now, |running| running.ends);
        self.now += ends.saturating_duration_since(self.now) * tenths / 10;
    }

    /// Sends what may be sent, then lets the oldest plan end.
    fn step(&mut self) {
        self.send();
        let Running { plan, took, ends } = self.running.pop_front().expect("something runs");
        self.now = ends;
        let mut outcome = answer(&plan, 5);
        outcome.timings.total = took;
        self.scheduler.on_outcome(outcome, ends);
        for event in self.scheduler.take_events() {
            if let Event::Token { sequence, event } = event {
                let since = self.waiting[&sequence];
                self.first_tokens.entry(sequence).or_insert(ends - since);
                if event.finish.is_some() {
                    self.ended.push(sequence);
                }
            }
        }
    }

    fn first_token(&mut self, id: SequenceId) -> Duration {
        while !self.first_tokens.contains_key(&id) {
            self.step();
        }
        self.first_tokens[&id]
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Waits of short requests, and times of steps that carried a chunk, behind clients that keep asking for long prompts.
fn flooded(
    cost: Cost,
    (budget, output): (u32, u32),
    tenant: &str,
) -> (Vec<Duration>, Vec<Duration>) {
    let mut house = House::new(cost, budget);
    let mut flood: Vec<SequenceId> = (0..16).map(|_| house.ask(3000, output, "flood")).collect();
    let mut waits = Vec::new();
    for probe in 0..40 {
        for _ in 0..3 + probe % 5 {
            house.step();
            for id in std::mem::take(&mut house.ended) {
                if let Some(client) = flood.iter_mut().find(|one| **one == id) {
                    *client = house.ask(3000, output, "flood");
                }
            }
        }
        // Who comes does not know when a step ends.
        house.wait(probe as u32 * 7 % 10);
        let id = house.ask(100, 4, tenant);
        waits.push(house.first_token(id));
    }
    (waits, house.chunk_steps)
}

#[test]
fn a_short_request_behind_a_flood_waits_for_little_more_than_a_chunk() {
    // The second to last is about that of 120 million parameters on two cores.
    for (step, decode, prompt_token) in [
        (10.0, 0.5, 0.4),
        (3.0, 0.1, 0.05),
        (8.0, 0.8, 0.255),
        (30.0, 1.0, 2.0),
    ] {
        let cost = Cost {
            step,
            decode,
            prompt_token,
        };
        for case @ (budget, _) in [(512, 1), (512, 8), (512, 64), (128, 8)] {
            let mut alone = House::new(cost, budget);
            let id = alone.ask(100, 4, "short");
            let idle = alone.first_token(id);
            for tenant in ["flood", "other"] {
                let (waits, chunks) = flooded(cost, case, tenant);
                let slowest = chunks.iter().max().copied().unwrap();
                let longest = waits.iter().max().copied().unwrap();
                let (typical, chunk) = (median(waits), median(chunks));
                let words =
                    format!("{case:?} {tenant}: {typical:?} of {idle:?} idle, {chunk:?} a chunk");
                assert!(typical <= 2 * idle + chunk, "{words}");
                assert!(
                    longest <= 2 * (idle + slowest),
                    "{words}, longest {longest:?} of {slowest:?}"
                );
            }
        }
    }
}
