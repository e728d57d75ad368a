//! What the rest of the router holds: submits, asks, drains. Cheap to clone.

use std::{sync::Arc, time::Duration};

use ribbon_core::{
    DebugAnswer, Engine, EngineLoad, EngineState, Limits, Line, Refusal, Search, SequenceRequest,
    ShardDescription, Shards, TokenStream,
};
use tokio::{
    sync::{oneshot, watch},
    time::sleep,
};

use super::{
    Loss, SchedulerActor,
    mailbox::{Command, Mailbox},
    search::SequenceSearch,
};
use crate::{Gate, SchedulerSettings, metrics, whole::completed};

/// The scheduler, as an [`Engine`].
#[derive(Clone, Debug)]
pub struct SchedulerHandle {
    pub(super) gate: Arc<Gate>,
    mailbox: Arc<Mailbox>,
    losses: watch::Receiver<Option<Loss>>,
}

impl SchedulerHandle {
    /// A scheduler over `shards`. Nothing happens until the caller runs the actor on a task it joins.
    pub fn start(settings: SchedulerSettings, shards: Box<dyn Shards>) -> (Self, SchedulerActor) {
        let gate = Gate::new(settings.max_concurrent_requests, settings.max_queued_tokens);
        let mailbox = Arc::new(Mailbox::new());
        let (loss, losses) = watch::channel(None);
        let actor = SchedulerActor::new(settings, gate.clone(), mailbox.clone(), shards, loss);
        (
            Self {
                gate,
                mailbox,
                losses,
            },
            actor,
        )
    }

    /// Is not ready from now on, and refuses new requests after `grace`; then resolves when nothing waits or runs, or the
    /// actor is gone. Whoever sends requests here needs the grace to notice.
    pub async fn drain(&self, grace: Duration) {
        self.gate.drain();
        sleep(grace).await;
        self.gate.close();
        let (done, drained) = oneshot::channel();
        self.mailbox.post(Command::Drain(done));
        // An error means that the actor is gone, and with it everything that ran.
        drained.await.ok();
    }

    /// Ends every stream with `ShuttingDown`; then the actor's task ends.
    pub fn stop(&self) {
        self.gate.close();
        self.mailbox.post(Command::Stop);
    }

    /// The last loss of a generation of shards.
    pub fn losses(&self) -> watch::Receiver<Option<Loss>> {
        self.losses.clone()
    }
}

impl Engine for SchedulerHandle {
    fn submit(&self, group: Vec<SequenceRequest>) -> Result<Vec<TokenStream>, Refusal> {
        let admitted = self.gate.prompt_runs().and_then(|runs| {
            let group = completed(group, runs);
            let permits = self.gate.admit(&group)?;
            Ok(group.into_iter().zip(permits))
        });
        let pairs = admitted.inspect_err(metrics::refused)?;
        let begins = |(request, permit)| {
            let generated = Vec::new();
            (Line { request, generated }, permit)
        };
        Ok(self.mailbox.submit(pairs.map(begins)))
    }

    fn search(&self, group: Vec<SequenceRequest>) -> Result<Vec<Box<dyn Search>>, Refusal> {
        let permits = self.gate.admit(&group).inspect_err(metrics::refused)?;
        let begin = |permit| -> Box<dyn Search> {
            Box::new(SequenceSearch::begin(permit, self.mailbox.clone()))
        };
        Ok(permits.into_iter().map(begin).collect())
    }

    fn room(&self, prompt_tokens: u64) -> Result<(), Refusal> {
        self.gate.room(prompt_tokens).inspect_err(metrics::refused)
    }

    fn limits(&self) -> Option<Arc<Limits>> {
        self.gate.limits()
    }

    fn description(&self) -> Option<Arc<ShardDescription>> {
        self.gate.description()
    }

    fn state(&self) -> EngineState {
        self.gate.state()
    }

    fn makes_steps(&self) -> bool {
        self.gate.is_live()
    }

    fn turned_away(&self) -> Duration {
        metrics::turned_away();
        self.gate.retry_after()
    }

    fn load(&self) -> EngineLoad {
        self.gate.load()
    }

    fn debug(&self) -> DebugAnswer {
        let (answer, snapshot) = oneshot::channel();
        self.mailbox.post(Command::Debug(answer));
        // An error means that the actor is gone.
        Box::pin(async { snapshot.await.ok().flatten() })
    }
}
