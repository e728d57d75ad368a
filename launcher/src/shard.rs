//! One shard process: its start, its events, its end. Knows no policy, no router and no other shard.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tokio::{
    process::{Child, ChildStdin, ChildStdout},
    sync::mpsc::Sender,
    task::JoinSet,
};

use crate::{
    env::{HUB_TOKENS, Programs},
    error::LaunchError,
    lines::Lines,
    plan::{LaunchPlan, Model, Seat},
    process::{self, Ending, Group},
    sockets::Sockets,
    supervisor::Event,
};

const NAME: &str = "ribbon-server serve";

/// What a shard tells, through its stdout or by ending.
#[derive(Debug)]
pub(crate) enum ShardEvent {
    /// A start-up phase is over.
    Phase {
        /// Its name.
        name: String,
        /// What it took.
        milliseconds: u64,
    },
    /// Weights are loaded, gRPC listens.
    Listening,
    /// The process is gone.
    Ended(Ending),
}

/// One line of a shard's stdout.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Phase { phase: String, ms: u64 },
    Listening,
}

/// Whose events these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Counts from 1.
    pub(crate) generation: u64,
    /// Counts from 0.
    pub(crate) rank: u32,
}

/// A running shard.
#[derive(Debug)]
pub(crate) struct Shard {
    /// Its address.
    pub(crate) socket: PathBuf,
    group: Group,
    /// Its end of input tells the shard that we are gone.
    _stdin: Option<ChildStdin>,
}

/// What a shard is started from.
#[derive(Debug)]
pub(crate) struct ShardRecipe {
    pub(crate) plan: LaunchPlan,
    pub(crate) programs: Programs,
    pub(crate) model: Model,
    pub(crate) sockets: Sockets,
    /// Level for its log.
    pub(crate) log_level: &'static str,
}

impl Shard {
    /// Starts the process; its events go to `events`.
    ///
    /// # Errors
    /// [`LaunchError::Spawn`].
    pub(crate) fn start(
        recipe: &ShardRecipe,
        from: Origin,
        meeting_point: Option<&Path>,
        events: Sender<Event>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, LaunchError> {
        let socket = recipe.sockets.path(from.rank, from.generation);
        Sockets::clear(&socket);
        let seat = Seat {
            rank: from.rank,
            generation: from.generation,
            socket: &socket,
            meeting_point,
        };
        let mut child = spawn(recipe, &seat).map_err(failed)?;
        let group = Group::of(&child).map_err(failed)?;
        let stdin = child.stdin.take();
        tasks.spawn(watch(child, from, events));
        Ok(Self {
            socket,
            group,
            _stdin: stdin,
        })
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        self.group.terminate();
    }

    /// Ends it, hung or stopped or not.
    pub(crate) fn kill(&self) {
        self.group.kill();
    }
}

/// A shard cannot be started.
pub(crate) fn failed(source: io::Error) -> LaunchError {
    LaunchError::Spawn { name: NAME, source }
}

fn spawn(recipe: &ShardRecipe, seat: &Seat<'_>) -> io::Result<Child> {
    let mut arguments = recipe.plan.shard_arguments(&recipe.model, seat);
    arguments.push(format!("--logger-level={}", recipe.log_level).into());
    let mut command = process::command(&recipe.programs.server, &arguments);
    for name in HUB_TOKENS.iter().chain(&["LOG_LEVEL"]) {
        command.env_remove(name);
    }
    process::piped(&mut command).spawn()
}

async fn watch(mut child: Child, from: Origin, events: Sender<Event>) {
    let mut reader = JoinSet::new();
    if let Some(stdout) = child.stdout.take() {
        reader.spawn(read_events(stdout, from, events.clone()));
    }
    let Ok(ending) = process::wait(&mut child, from.rank).await else {
        return;
    };
    // Its last events come before its end; a grandchild may hold the pipe open.
    let _ = tokio::time::timeout(process::LAST_LINES, reader.join_next()).await;
    let _ = events
        .send(Event::Shard(from, ShardEvent::Ended(ending)))
        .await;
}

async fn read_events(stdout: ChildStdout, from: Origin, events: Sender<Event>) {
    let mut lines = Lines::new(stdout);
    while let Some(line) = lines.next().await {
        let event = match serde_json::from_str(&line) {
            Ok(Line::Phase { phase, ms }) => ShardEvent::Phase {
                name: phase,
                milliseconds: ms,
            },
            Ok(Line::Listening) => ShardEvent::Listening,
            Err(_) => {
                tracing::debug!(target: "ribbon_shard", rank = from.rank, "{line}");
                continue;
            }
        };
        if events.send(Event::Shard(from, event)).await.is_err() {
            return;
        }
    }
}
