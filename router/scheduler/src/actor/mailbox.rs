//! How other tasks reach the actor: commands in order, never waited for. Bounded by the gate: every submission holds a place
//! there, a stream cancels at most once, and a search has one round under way.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ribbon_core::{Line, RibbonsSnapshot, StreamError, TokenEvent};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::gate::{GroupId, Permit, SequenceId};

/// One item of a stream.
pub(super) type Item = Result<TokenEvent, StreamError>;

/// One sequence on its way in.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) line: Line,
    pub(super) permit: Permit,
    pub(super) items: mpsc::Sender<Item>,
}

/// What a task wants from the actor.
#[derive(Debug)]
pub(super) enum Command {
    /// All sequences of one request, so that one step can begin them together.
    Submit(Vec<Submission>),
    /// A search has begun: more of its request is to come.
    Search(GroupId),
    /// A search is over: nothing more is to come, and its place is free.
    Release(Permit),
    Cancel(SequenceId),
    /// The client has all it wanted.
    Finish(SequenceId),
    /// Answered once nothing waits or runs.
    Drain(oneshot::Sender<()>),
    /// Answered at once.
    Debug(oneshot::Sender<Option<RibbonsSnapshot>>),
    Stop,
}

/// Commands the actor has not seen; `None` once it is gone.
#[derive(Debug)]
pub(super) struct Mailbox {
    commands: Mutex<Option<Vec<Command>>>,
    arrival: Notify,
}

impl Mailbox {
    pub(super) fn new() -> Self {
        Self {
            commands: Mutex::new(Some(Vec::new())),
            arrival: Notify::new(),
        }
    }

    /// Leaves a command. Without an actor it is dropped, and with it what it would have answered.
    pub(super) fn post(&self, command: Command) {
        if let Some(commands) = self.lock().as_mut() {
            commands.push(command);
        }
        self.arrival.notify_one();
    }

    /// Waits until something was posted since the last `take`.
    pub(super) async fn arrival(&self) {
        self.arrival.notified().await;
    }

    pub(super) fn take(&self) -> Vec<Command> {
        self.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The actor is gone: whatever is posted from now on ends at once.
    pub(super) fn close(&self) {
        drop(self.lock().take());
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<Command>>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
