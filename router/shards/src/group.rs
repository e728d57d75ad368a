//! The generations of shards, one after the other: told by the launcher, turned into events for the scheduler.
//! What belongs to an older generation is dropped with it.

mod generation;
mod outcomes;
#[cfg(test)]
mod tests;

use std::pin::Pin;

use futures_core::Stream;
use futures_util::{StreamExt, stream::unfold};
use ribbon_core::{ShardEvent, Shards};
use tokio::sync::mpsc;

use self::generation::Generation;
use crate::{Hopeless, ShardError, ShardSettings};

/// Messages of the launcher that wait; each generation makes two.
const COMMANDS: usize = 16;
/// Reports that wait for the launcher.
const REPORTS: usize = 16;

/// What the launcher says.
#[derive(Debug)]
enum Command {
    Shards { generation: u64, uris: Vec<String> },
    Lost { generation: u64, reason: String },
}

/// A shard that has to be replaced, for the launcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hung {
    /// Which of the group.
    pub rank: u32,
    /// Of which start.
    pub generation: u64,
    /// The step it hangs in; 0 where it is no step that failed.
    pub step: u64,
    /// Another start would end the same way.
    pub hopeless: Option<Hopeless>,
}

/// Passes on what the launcher says about generations.
#[derive(Clone, Debug)]
pub struct GenerationControl(mpsc::Sender<Command>);

impl GenerationControl {
    /// The shards of a generation listen, ordered by rank.
    pub async fn shards(&self, generation: u64, uris: Vec<String>) {
        self.tell(Command::Shards { generation, uris }).await;
    }

    /// A generation died.
    pub async fn lost(&self, generation: u64, reason: String) {
        self.tell(Command::Lost { generation, reason }).await;
    }

    /// An error means that the scheduler is gone, and with it all interest.
    async fn tell(&self, command: Command) {
        self.0.send(command).await.ok();
    }
}

/// Shards to be replaced, as they are found.
#[derive(Debug)]
pub struct HungReports(mpsc::Receiver<Hung>);

impl HungReports {
    /// The next report; `None` once the scheduler is gone.
    pub async fn next(&mut self) -> Option<Hung> {
        self.0.recv().await
    }
}

/// The shards of the server, generation after generation.
#[derive(Debug)]
pub struct ShardGroups {
    settings: ShardSettings,
    commands: mpsc::Receiver<Command>,
    hung: mpsc::Sender<Hung>,
    current: Option<Generation>,
}

impl ShardGroups {
    /// The shards for the scheduler, and both ends that face the launcher.
    pub fn new(settings: ShardSettings) -> (Self, GenerationControl, HungReports) {
        let (control, commands) = mpsc::channel(COMMANDS);
        let (hung, reports) = mpsc::channel(REPORTS);
        let groups = Self {
            settings,
            commands,
            hung,
            current: None,
        };
        (groups, GenerationControl(control), HungReports(reports))
    }

    async fn next(&mut self) -> Option<ShardEvent> {
        loop {
            let event = tokio::select! {
                biased;
                command = self.commands.recv() => self.on_command(command?),
                event = progress(&mut self.current) => Some(self.on_progress(event)),
            };
            if event.is_some() {
                return event;
            }
        }
    }

    fn on_command(&mut self, command: Command) -> Option<ShardEvent> {
        match command {
            Command::Shards { generation, uris } => {
                let before = self.current.take();
                tracing::info!(generation, ?uris, "shards listen");
                self.current = Some(Generation::new(
                    generation,
                    uris,
                    self.settings,
                    self.hung.clone(),
                ));
                before.map(|_| ShardEvent::Lost {
                    reason: "replaced by a new generation".into(),
                })
            }
            Command::Lost { generation, reason } => {
                self.current
                    .take_if(|current| current.number() == generation)?;
                Some(ShardEvent::Lost { reason })
            }
        }
    }

    /// A generation that broke is over, even before the launcher notices; it is told in case the process still lives.
    fn on_progress(&mut self, event: Result<ShardEvent, ShardError>) -> ShardEvent {
        let error = match event {
            Ok(event) => return event,
            Err(error) => error,
        };
        let words = error.chain();
        if let Some(current) = self.current.take() {
            let generation = current.number();
            tracing::error!(generation, reason = words, "the shard cannot be used");
            let hopeless = error.hopeless();
            generation::report(
                &self.hung,
                Hung {
                    rank: 0,
                    generation,
                    step: 0,
                    hopeless,
                },
            );
        }
        ShardEvent::Lost {
            reason: error.summary(),
        }
    }
}

/// The next event of the current generation; never comes while there is none.
async fn progress(current: &mut Option<Generation>) -> Result<ShardEvent, ShardError> {
    match current {
        None => std::future::pending().await,
        Some(generation) => generation.next().await,
    }
}

impl Shards for ShardGroups {
    fn events(self: Box<Self>) -> Pin<Box<dyn Stream<Item = ShardEvent> + Send>> {
        let events = unfold(*self, |mut groups| async move {
            let event = groups.next().await?;
            Some((event, groups))
        });
        Box::pin(events.fuse())
    }
}
