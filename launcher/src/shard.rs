//! One shard process: its start, its events, its end. Knows no policy and no router.

use std::{path::PathBuf, time::Instant};

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
    plan::{LaunchPlan, Model},
    process::{self, Ending, Group},
    sockets::Sockets,
    supervisor::Event,
};

const NAME: &str = "ribbon-server serve";
const RANK: u32 = 0;

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

/// A running shard.
#[derive(Debug)]
pub(crate) struct Shard {
    /// Its address.
    pub(crate) socket: PathBuf,
    /// gRPC listened once.
    pub(crate) listening: bool,
    /// When it was started.
    pub(crate) started: Instant,
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
    /// Starts the process; its events go to `events` with its generation.
    ///
    /// # Errors
    /// [`LaunchError::Spawn`].
    pub(crate) fn start(
        recipe: &ShardRecipe,
        generation: u64,
        events: Sender<Event>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, LaunchError> {
        let socket = recipe.sockets.path(RANK, generation);
        Sockets::clear(&socket);
        let failed = |source| LaunchError::Spawn { name: NAME, source };
        let mut child = spawn(recipe, generation, &socket).map_err(failed)?;
        let group = Group::of(&child).map_err(failed)?;
        let stdin = child.stdin.take();
        tasks.spawn(watch(child, generation, events));
        Ok(Self {
            socket,
            listening: false,
            started: Instant::now(),
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

fn spawn(
    recipe: &ShardRecipe,
    generation: u64,
    socket: &std::path::Path,
) -> std::io::Result<Child> {
    let mut arguments = recipe
        .plan
        .shard_arguments(&recipe.model, generation, socket);
    arguments.push(format!("--logger-level={}", recipe.log_level).into());
    let mut command = process::command(&recipe.programs.server, &arguments);
    for name in HUB_TOKENS.iter().chain(&["LOG_LEVEL"]) {
        command.env_remove(name);
    }
    process::piped(&mut command).spawn()
}

async fn watch(mut child: Child, generation: u64, events: Sender<Event>) {
    let mut reader = JoinSet::new();
    if let Some(stdout) = child.stdout.take() {
        reader.spawn(read_events(stdout, generation, events.clone()));
    }
    let Ok(ending) = process::wait(&mut child, RANK).await else {
        return;
    };
    // Its last events come before its end; a grandchild may hold the pipe open.
    let _ = tokio::time::timeout(process::LAST_LINES, reader.join_next()).await;
    let _ = events
        .send(Event::Shard(generation, ShardEvent::Ended(ending)))
        .await;
}

async fn read_events(stdout: ChildStdout, generation: u64, events: Sender<Event>) {
    let mut lines = Lines::new(stdout);
    while let Some(line) = lines.next().await {
        let event = match serde_json::from_str(&line) {
            Ok(Line::Phase { phase, ms }) => ShardEvent::Phase {
                name: phase,
                milliseconds: ms,
            },
            Ok(Line::Listening) => ShardEvent::Listening,
            Err(_) => {
                tracing::debug!(target: "ribbon_shard", rank = RANK, "{line}");
                continue;
            }
        };
        if events.send(Event::Shard(generation, event)).await.is_err() {
            return;
        }
    }
}
