//! What the rest of the router holds: submits, asks, drains. Cheap to clone.

use std::sync::Arc;

use ribbon_core::{
    Engine, EngineLoad, EngineState, Limits, Refusal, SequenceRequest, ShardDescription, Shards,
    TokenStream,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Loss, SchedulerActor,
    mailbox::{Command, Mailbox},
    stream::SequenceStream,
};
use crate::{Gate, SchedulerSettings, metrics};

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
        let gate = Gate::new(settings.max_concurrent_requests);
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

    /// Refuses new requests from now on; resolves when nothing waits or runs, or the actor is gone.
    pub async fn drain(&self) {
        self.gate.drain();
        let (done, drained) = oneshot::channel();
        self.mailbox.post(Command::Drain(done));
        // An error means that the actor is gone, and with it everything that ran.
        drained.await.ok();
    }

    /// Ends every stream with `ShuttingDown`; then the actor's task ends.
    pub fn stop(&self) {
        self.gate.drain();
        self.mailbox.post(Command::Stop);
    }

    /// The last loss of a generation of shards.
    pub fn losses(&self) -> watch::Receiver<Option<Loss>> {
        self.losses.clone()
    }
}

impl Engine for SchedulerHandle {
    fn submit(&self, request: SequenceRequest) -> Result<TokenStream, Refusal> {
        let permit = self.gate.admit(&request).inspect_err(metrics::refused)?;
        // Every token and one error fit, so the actor never waits for a slow client.
        let (sender, items) = mpsc::channel(request.max_new_tokens as usize + 1);
        let id = permit.id();
        self.mailbox.post(Command::Submit {
            request,
            permit,
            items: sender,
        });
        Ok(Box::pin(SequenceStream {
            id,
            items,
            mailbox: self.mailbox.clone(),
            ended: false,
        }))
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

    fn load(&self) -> EngineLoad {
        self.gate.load()
    }
}
