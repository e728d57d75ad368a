//! The only asynchronous part: one task that owns the state machine, feeds it, and carries out what it says.

mod handle;
mod mailbox;
mod search;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::HashMap;
use futures_core::Stream;
use futures_util::{FutureExt, StreamExt};
use ribbon_core::{PlanSink, ShardDescription, ShardEvent, Shards};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep_until,
};

pub use self::handle::SchedulerHandle;
use self::mailbox::{Command, Item, Mailbox, Submission};
use crate::{
    event::{Event, StepReport},
    gate::{Gate, SequenceId},
    metrics,
    scheduler::Scheduler,
    settings::SchedulerSettings,
    step_log::StepLog,
};

/// How often the gauges are brought up to date while something runs.
const SHOW_EVERY: Duration = Duration::from_millis(50);
/// How long to sleep when nothing is due.
const FOREVER: Duration = Duration::from_hours(24);

/// A generation of shards was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Which.
    pub generation: u64,
    /// Suspects were running: isolating them explains the loss.
    pub suspects_running: bool,
}

/// Owns the state machine. Dropping it ends every stream.
#[derive(Debug)]
pub struct SchedulerActor {
    scheduler: Scheduler,
    mailbox: Arc<Mailbox>,
    shards: ShardEvents,
    plans: Option<Box<dyn PlanSink>>,
    generation: u64,
    streams: HashMap<SequenceId, mpsc::Sender<Item>>,
    drains: Vec<oneshot::Sender<()>>,
    loss: watch::Sender<Option<Loss>>,
    shown: Option<Instant>,
    log: StepLog,
    stopped: bool,
}

impl SchedulerActor {
    fn new(
        settings: SchedulerSettings,
        gate: Arc<Gate>,
        mailbox: Arc<Mailbox>,
        shards: Box<dyn Shards>,
        loss: watch::Sender<Option<Loss>>,
    ) -> Self {
        Self {
            scheduler: Scheduler::new(settings, gate),
            mailbox,
            shards: ShardEvents(shards.events()),
            plans: None,
            generation: 0,
            streams: HashMap::default(),
            drains: Vec::new(),
            loss,
            shown: None,
            log: StepLog::new(Instant::now()),
            stopped: false,
        }
    }

    /// Runs until stopped, or until there will be no shards any more.
    pub async fn run(mut self) {
        let mailbox = self.mailbox.clone();
        while !self.stopped {
            let wake = self.wake();
            tokio::select! {
                event = self.shards.0.next() => self.on_shards(event),
                () = mailbox.arrival() => {}
                () = sleep_until(wake.into()) => {}
            }
            self.turn();
        }
    }

    /// When to look again if nothing happens.
    fn wake(&self) -> Instant {
        let now = Instant::now();
        let due = self.scheduler.deadline().unwrap_or(now + FOREVER);
        // A last look after the work is done, so that the gauges come to rest at the truth.
        self.shown.map_or(due, |shown| due.min(shown + SHOW_EVERY))
    }

    /// Takes in everything that is there, sends plans first (the shard must not wait), then hands out tokens.
    fn turn(&mut self) {
        for command in self.mailbox.take() {
            self.on_command(command);
        }
        while let Some(event) = self.shards.0.next().now_or_never() {
            self.on_shards(event);
            if self.stopped {
                break;
            }
        }
        self.scheduler.on_time(Instant::now());
        self.send_plans();
        self.deliver();
        self.settle();
    }

    fn on_command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Submit(group) => {
                for Submission {
                    line,
                    permit,
                    items,
                } in group
                {
                    self.streams.insert(permit.id(), items);
                    self.scheduler.enqueue_line(line, permit, now);
                }
            }
            Command::Search(group) => self.scheduler.begin_search(group),
            Command::Release(permit) => self.scheduler.end_search(permit.group()),
            Command::Cancel(id) => {
                self.streams.remove(&id);
                self.scheduler.cancel(id, now);
            }
            Command::Finish(id) => {
                self.streams.remove(&id);
                self.scheduler.finish(id, now);
            }
            Command::Drain(done) => self.drains.push(done),
            Command::Debug(answer) => drop(answer.send(self.scheduler.snapshot())),
            Command::Stop => self.stop(),
        }
    }

    fn stop(&mut self) {
        self.scheduler.stop(Instant::now());
        self.stopped = true;
    }

    fn on_shards(&mut self, event: Option<ShardEvent>) {
        let now = Instant::now();
        match event {
            Some(ShardEvent::Ready {
                description,
                plans,
                generation,
            }) => {
                self.on_ready(*description, plans, generation);
            }
            Some(ShardEvent::Outcome(outcome)) => {
                self.scheduler.on_outcome(outcome, now);
                // Between two outcomes that came together, so that the second finds its successor on its way.
                self.send_plans();
            }
            Some(ShardEvent::Lost { reason }) => {
                self.scheduler.on_lost(&reason, now);
                self.plans = None;
            }
            None => self.stop(),
        }
    }

    fn on_ready(
        &mut self,
        description: ShardDescription,
        plans: Box<dyn PlanSink>,
        generation: u64,
    ) {
        if self.generation != 0 {
            metrics::restarted();
        }
        tracing::info!(generation, "the shard is ready");
        self.scheduler.on_ready(description, Instant::now());
        self.generation = generation;
        self.plans = Some(plans);
    }

    fn send_plans(&mut self) {
        while let Some(plan) = self.scheduler.next_plan(Instant::now()) {
            if let Some(plans) = &mut self.plans {
                plans.send(plan);
            }
        }
    }

    fn deliver(&mut self) {
        let began = Instant::now();
        let mut last_step: Option<StepReport> = None;
        for event in self.scheduler.take_events() {
            metrics::record(&event);
            match event {
                Event::Token { sequence, event } => {
                    let ended = event.finish.is_some();
                    self.send(sequence, Ok(event), ended);
                }
                Event::Failed { sequence, error } => self.send(sequence, Err(error), true),
                Event::Hung { step_id, due } => self.report_hung(step_id, due),
                Event::Lost { suspects_running } => {
                    let generation = self.generation;
                    self.loss.send_replace(Some(Loss {
                        generation,
                        suspects_running,
                    }));
                }
                Event::Step(report) => {
                    self.log.add(&report);
                    last_step = Some(report);
                }
                Event::Cancelled { .. } | Event::Expired { .. } => {}
            }
        }
        if let Some(report) = last_step {
            metrics::delivered(&report, began.elapsed());
        }
    }

    /// Never waits: the stream has room for all it may get. A receiver that is gone has left a cancel in the mailbox.
    fn send(&mut self, sequence: SequenceId, item: Item, ended: bool) {
        if let Some(stream) = self.streams.get(&sequence) {
            stream.try_send(item).ok();
        }
        if ended {
            self.streams.remove(&sequence);
        }
    }

    /// Health has turned by now: `overdue_ms` says how long after the step's deadline.
    fn report_hung(&self, step_id: u64, due: Option<Instant>) {
        tracing::error!(
            step = step_id,
            generation = self.generation,
            overdue_ms = due.map(|due| due.elapsed().as_millis() as u64),
            "the shard hangs"
        );
        if let Some(plans) = &self.plans {
            plans.report_hung(step_id);
        }
    }

    fn settle(&mut self) {
        let now = Instant::now();
        if self.scheduler.is_idle() {
            for drained in self.drains.drain(..) {
                drained.send(()).ok();
            }
        }
        self.scheduler.publish(now);
        self.show(now);
    }

    fn show(&mut self, now: Instant) {
        if self.shown.is_none_or(|shown| now >= shown + SHOW_EVERY) {
            let usage = self.scheduler.usage();
            metrics::show(&usage, now);
            self.log.write(&usage, now);
            self.shown = (!self.scheduler.at_rest()).then_some(now);
        }
    }
}

impl Drop for SchedulerActor {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

/// The shards' events, for the life of the server.
struct ShardEvents(Pin<Box<dyn Stream<Item = ShardEvent> + Send>>);

impl std::fmt::Debug for ShardEvents {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ShardEvents")
    }
}
