//! Keeps one router and the current generation of shards alive, from their start to the end of the drain.
//! Decides restarts; touches no request.

mod deadlines;
mod stopping;

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use ribbon_link::{ToLauncher, ToRouter};
use tokio::{
    sync::mpsc::{Receiver, Sender},
    task::JoinSet,
    time::sleep_until,
};
use tracing::{debug, error, info, warn};

use crate::{
    error::LaunchError,
    process::Ending,
    pulse::Pulse,
    restarts::{self, Restarts},
    shard::{Origin, ShardEvent, ShardRecipe},
    shards::Shards,
    webserver::{RouterEvent, Webserver},
};

/// Time that the router has to tell whether a death is explained, before it is one too many.
const EXPLANATION: Duration = Duration::from_secs(2);
/// Pause before a shard that never came up is tried again.
const FAILED_START_PAUSE: Duration = Duration::from_secs(1);
/// Time that processes have to end when asked.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// What happens to a launch.
#[derive(Debug)]
pub(crate) enum Event {
    /// SIGINT, SIGTERM or SIGHUP, by number.
    Signal(i32),
    /// Of a shard.
    Shard(Origin, ShardEvent),
    /// Of the router.
    Router(RouterEvent),
}

/// Why supervision ends.
#[derive(Debug)]
enum End {
    /// Everything that ran was finished, or its time was over.
    Drained,
    /// A second signal: no time left.
    Now(i32),
    /// Something cannot be mended.
    Failed(LaunchError),
}

/// What is due at a later time.
#[derive(Debug)]
enum Due {
    StartShards,
    GiveUp(LaunchError),
}

/// The running house.
#[derive(Debug)]
pub(crate) struct Supervisor {
    recipe: ShardRecipe,
    events: Receiver<Event>,
    sender: Sender<Event>,
    tasks: JoinSet<()>,
    router: Option<Webserver>,
    shards: Option<Shards>,
    generation: u64,
    restarts: Restarts,
    due: Option<(Instant, Due)>,
    launched: Instant,
    processes_started: Instant,
    /// Seconds of each start-up phase.
    phases: BTreeMap<String, f64>,
    ready: bool,
    /// Of the router, once it is ready.
    pulse: Option<Pulse>,
    drain_until: Option<Instant>,
}

impl Supervisor {
    /// Starts the router and the first shards.
    ///
    /// # Errors
    /// [`LaunchError::Spawn`].
    pub(crate) fn start(
        recipe: ShardRecipe,
        (sender, events): (Sender<Event>, Receiver<Event>),
        launched: Instant,
    ) -> Result<Self, LaunchError> {
        let mut tasks = JoinSet::new();
        let arguments = recipe.plan.router_arguments(&recipe.model);
        let router = Webserver::start(
            &recipe.programs.router,
            &arguments,
            recipe.plan.api_keys.as_ref(),
            sender.clone(),
            &mut tasks,
        )?;
        let mut supervisor = Self {
            recipe,
            events,
            sender,
            tasks,
            router: Some(router),
            shards: None,
            generation: 0,
            restarts: Restarts::default(),
            due: None,
            launched,
            processes_started: Instant::now(),
            phases: BTreeMap::from([("download".to_owned(), launched.elapsed().as_secs_f64())]),
            ready: false,
            pulse: None,
            drain_until: None,
        };
        supervisor.start_shards()?;
        Ok(supervisor)
    }

    /// Watches until a signal or a failure that cannot be mended, then stops everything. Returns the exit code.
    pub(crate) async fn run(mut self) -> Result<u8, LaunchError> {
        let end = self.watch().await;
        match end {
            End::Drained => {
                self.say(&ToRouter::Stop).await;
                self.stop(STOP_LIMIT).await;
                info!("stopped");
                Ok(0)
            }
            End::Now(signal) => {
                warn!("second signal: stopping at once");
                self.stop(Duration::ZERO).await;
                Ok(128 + signal as u8)
            }
            End::Failed(error @ LaunchError::RouterHung(_)) => {
                self.kill_router();
                self.stop(STOP_LIMIT).await;
                Err(error)
            }
            End::Failed(error) => {
                self.say(&ToRouter::GiveUp {
                    reason: error.to_string(),
                })
                .await;
                self.stop(STOP_LIMIT).await;
                Err(error)
            }
        }
    }

    async fn watch(&mut self) -> End {
        loop {
            let deadline = self.deadline();
            let next = tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(event) => self.handle(event).await,
                    None => ControlFlow::Continue(()),
                },
                () = sleep_until(deadline.into()) => self.on_time().await,
            };
            if let ControlFlow::Break(end) = next {
                return end;
            }
        }
    }

    async fn handle(&mut self, event: Event) -> ControlFlow<End> {
        match event {
            Event::Signal(signal) => self.on_signal(signal).await,
            Event::Shard(origin, event) if origin.generation == self.generation => {
                self.on_shard(origin.rank, event).await
            }
            Event::Shard(..) => ControlFlow::Continue(()),
            Event::Router(RouterEvent::Says(message)) => self.on_message(message),
            Event::Router(RouterEvent::Ended { status, code }) => self.on_router_end(status, code),
        }
    }

    async fn on_signal(&mut self, signal: i32) -> ControlFlow<End> {
        if self.drain_until.is_some() {
            return ControlFlow::Break(End::Now(signal));
        }
        if !self.ready {
            info!("stopping before the model was ready");
            return ControlFlow::Break(End::Drained);
        }
        let limit = self.recipe.plan.graceful_timeout;
        let grace = self.grace(signal).min(limit);
        info!(
            "draining: late requests are taken for {} s more, running ones have {} s to finish; a second signal stops at once",
            grace.as_secs_f64(),
            limit.as_secs()
        );
        self.drain_until = Some(Instant::now() + limit);
        let grace_seconds = grace.as_secs_f64();
        self.say(&ToRouter::Drain { grace_seconds }).await;
        ControlFlow::Continue(())
    }

    /// An orchestrator sends SIGTERM and goes on sending requests for a while; nobody else does.
    fn grace(&self, signal: i32) -> Duration {
        if signal == nix::sys::signal::Signal::SIGTERM as i32 {
            self.recipe.plan.drain_grace
        } else {
            Duration::ZERO
        }
    }

    async fn on_shard(&mut self, rank: u32, event: ShardEvent) -> ControlFlow<End> {
        match event {
            ShardEvent::Phase { name, milliseconds } => {
                debug!("shard {rank}: {name} took {milliseconds} ms");
                // They do the same at the same time.
                if rank == 0 {
                    self.phases.insert(name, milliseconds as f64 / 1e3);
                }
                ControlFlow::Continue(())
            }
            ShardEvent::Listening => {
                self.on_listening(rank).await;
                ControlFlow::Continue(())
            }
            ShardEvent::Ended(ending) => self.on_shard_end(rank, ending).await,
        }
    }

    async fn on_listening(&mut self, rank: u32) {
        let Some(shards) = &mut self.shards else {
            return;
        };
        if !shards.listens(rank) {
            return;
        }
        info!(
            "shard generation {} listens after {} ms",
            self.generation,
            shards.started.elapsed().as_millis()
        );
        let uris = shards.uris();
        let message = ToRouter::Shards {
            generation: self.generation,
            uris,
            phases: self.phases.clone(),
        };
        self.say(&message).await;
    }

    async fn on_shard_end(&mut self, rank: u32, ending: Ending) -> ControlFlow<End> {
        let Some(mut shards) = self.shards.take() else {
            return ControlFlow::Continue(());
        };
        if shards.ended(rank, ending) {
            return self.on_generation_end(&shards).await;
        }
        // None can go on alone.
        shards.kill();
        self.shards = Some(shards);
        ControlFlow::Continue(())
    }

    async fn on_generation_end(&mut self, shards: &Shards) -> ControlFlow<End> {
        let listened = shards.are_listening();
        if !self.ready
            && let Some(words) = shards.refusal()
        {
            let words = words.to_owned();
            return ControlFlow::Break(End::Failed(LaunchError::ShardRefused(words)));
        }
        let reason = shards.reason();
        error!("shard generation {} ended: {reason}", self.generation);
        self.say(&ToRouter::Lost {
            generation: self.generation,
            reason: reason.clone(),
        })
        .await;
        let now = Instant::now();
        self.restarts.died(self.generation, now);
        self.due = Some(if self.restarts.exceeded() {
            let error = LaunchError::TooManyRestarts {
                deaths: self.restarts.deaths(),
                window: restarts::WINDOW,
                last: reason,
            };
            (now + EXPLANATION, Due::GiveUp(error))
        } else {
            (
                now + if listened {
                    Duration::ZERO
                } else {
                    FAILED_START_PAUSE
                },
                Due::StartShards,
            )
        });
        ControlFlow::Continue(())
    }

    fn on_message(&mut self, message: ToLauncher) -> ControlFlow<End> {
        if let Some(pulse) = &mut self.pulse {
            pulse.heard();
        }
        match message {
            ToLauncher::Ready { port, phases } => self.on_ready(port, phases),
            ToLauncher::Hung {
                rank,
                generation,
                step,
            } if generation == self.generation => {
                warn!(
                    "shard {rank} of generation {generation} is over the deadline of step {step}: restarting it"
                );
                if let Some(shards) = &self.shards {
                    shards.kill();
                }
            }
            ToLauncher::Suspects {
                generation,
                running: true,
            } => self.on_explanation(generation),
            ToLauncher::Drained if self.drain_until.is_some() => {
                return ControlFlow::Break(End::Drained);
            }
            ToLauncher::Hung { .. }
            | ToLauncher::Suspects { .. }
            | ToLauncher::Drained
            | ToLauncher::Pong => {}
        }
        ControlFlow::Continue(())
    }

    fn on_ready(&mut self, port: u16, phases: BTreeMap<String, f64>) {
        self.ready = true;
        self.pulse = Some(Pulse::new(self.recipe.plan.router_timeout, Instant::now()));
        self.phases.extend(phases);
        let parts: Vec<String> = self
            .phases
            .iter()
            .map(|(name, seconds)| format!("{name} {:.0}", seconds * 1e3))
            .collect();
        let address = std::net::SocketAddr::new(self.recipe.plan.hostname, port);
        info!(
            "ready on http://{address} in {} ms ({} ms)",
            self.launched.elapsed().as_millis(),
            parts.join(", ")
        );
    }

    fn on_explanation(&mut self, generation: u64) {
        self.restarts.explained(generation);
        if matches!(self.due, Some((_, Due::GiveUp(_)))) && !self.restarts.exceeded() {
            self.due = Some((Instant::now(), Due::StartShards));
        }
    }

    fn on_router_end(&mut self, status: String, code: Option<i32>) -> ControlFlow<End> {
        self.router = None;
        if self.drain_until.is_some() && code == Some(0) {
            return ControlFlow::Break(End::Drained);
        }
        ControlFlow::Break(End::Failed(LaunchError::RouterEnded {
            status,
            refused: !self.ready && code == Some(2),
        }))
    }

    fn start_shards(&mut self) -> Result<(), LaunchError> {
        self.generation += 1;
        self.shards = Some(Shards::start(
            &self.recipe,
            self.generation,
            &self.sender,
            &mut self.tasks,
        )?);
        Ok(())
    }

    async fn say(&mut self, message: &ToRouter) {
        if let Some(router) = &mut self.router {
            router.say(message).await;
        }
    }
}
