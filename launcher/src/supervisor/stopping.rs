//! The end of the house: who is asked, who is killed, and when. Decides nothing else.

use std::time::Duration;

use super::{Event, RouterEvent, ShardEvent, Supervisor};

/// Time that a killed process has to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(2);

impl Supervisor {
    /// Ends a router that would not hear.
    pub(super) fn kill_router(&self) {
        if let Some(router) = &self.router {
            router.kill();
        }
    }

    /// Ends the router, which was told, then the shards, which are asked now: each is killed after `limit` or at another signal.
    pub(super) async fn stop(&mut self, limit: Duration) {
        let hurried = self.wait_until(limit, |house| house.router.is_none()).await;
        self.kill_router();
        if let Some(shards) = &self.shards {
            shards.terminate();
        }
        let limit = if hurried { Duration::ZERO } else { limit };
        self.wait_until(limit, |house| house.shards.is_none()).await;
        if let Some(shards) = &self.shards {
            shards.kill();
        }
        self.wait_until(KILL_LIMIT, |house| {
            house.router.is_none() && house.shards.is_none()
        })
        .await;
        self.tasks.abort_all();
    }

    /// Takes note of ends until `done`. True when a signal came or the time was over first.
    async fn wait_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let deadline = tokio::time::Instant::now() + limit;
        while !done(self) {
            match tokio::time::timeout_at(deadline, self.events.recv()).await {
                Ok(Some(Event::Router(RouterEvent::Ended { .. }))) => self.router = None,
                Ok(Some(Event::Shard(origin, ShardEvent::Ended(ending))))
                    if origin.generation == self.generation =>
                {
                    self.shards
                        .take_if(|shards| shards.ended(origin.rank, ending));
                }
                Ok(None | Some(Event::Signal(_))) | Err(_) => return true,
                Ok(Some(_)) => {}
            }
        }
        false
    }
}
