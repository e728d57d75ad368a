//! What is due when nothing happens: questions to the router, starts that take too long, the end of a drain. Knows the clock.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use ribbon_link::ToRouter;
use tracing::warn;

use super::{Due, End, Supervisor};
use crate::{
    error::LaunchError,
    pulse::{Beat, Pulse},
};

impl Supervisor {
    /// The next moment at which something is due even if nothing happens.
    pub(super) fn deadline(&self) -> Instant {
        let due = self.due.as_ref().map(|(at, _)| *at);
        [
            due,
            self.drain_until,
            self.ready_deadline(),
            self.listening_deadline(),
            self.pulse.as_ref().map(Pulse::due),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or_else(|| Instant::now() + Duration::from_hours(1))
    }

    fn ready_deadline(&self) -> Option<Instant> {
        (!self.ready).then(|| self.processes_started + self.recipe.plan.startup_timeout)
    }

    fn listening_deadline(&self) -> Option<Instant> {
        self.shards
            .as_ref()
            .filter(|shards| !shards.are_listening())
            .map(|shards| shards.started + self.recipe.plan.startup_timeout)
    }

    /// Does what is due.
    pub(super) async fn on_time(&mut self) -> ControlFlow<End> {
        let now = Instant::now();
        match self.pulse.as_mut().map(|pulse| pulse.beat(now)) {
            None | Some(Beat::Wait) => {}
            Some(Beat::Ask) => self.say(&ToRouter::Ping).await,
            Some(Beat::Dead) => {
                let timeout = self.recipe.plan.router_timeout;
                return ControlFlow::Break(End::Failed(LaunchError::RouterHung(timeout)));
            }
        }
        self.on_deadlines(now)
    }

    fn on_deadlines(&mut self, now: Instant) -> ControlFlow<End> {
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if passed(self.drain_until) {
            warn!(
                "requests still ran after {} s: stopping",
                self.recipe.plan.graceful_timeout.as_secs()
            );
            return ControlFlow::Break(End::Drained);
        }
        if passed(self.ready_deadline()) {
            return ControlFlow::Break(End::Failed(LaunchError::StartupTimeout(
                self.recipe.plan.startup_timeout,
            )));
        }
        if passed(self.listening_deadline())
            && let Some(shards) = &mut self.shards
        {
            warn!(
                "shard generation {} does not come up: restarting it",
                self.generation
            );
            shards.kill();
            shards.started = now;
        }
        match self.due.take_if(|(at, _)| *at <= now) {
            Some((_, Due::StartShards)) => match self.start_shards() {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(End::Failed(error)),
            },
            Some((_, Due::GiveUp(error))) => ControlFlow::Break(End::Failed(error)),
            None => ControlFlow::Continue(()),
        }
    }
}
