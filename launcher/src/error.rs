//! Why a launch ended badly, and the exit code that says so.

use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

use thiserror::Error;

/// Why the launcher gives up.
#[derive(Debug, Error)]
pub(crate) enum LaunchError {
    /// The command line contradicts itself or this machine.
    #[error("{0}")]
    Arguments(String),
    /// A program of ours is nowhere.
    #[error(
        "`{name}` is neither next to ribbon-launcher ({beside}) nor in PATH: install Ribbon's wheel, or add its directory to PATH"
    )]
    MissingProgram {
        /// Its file name.
        name: &'static str,
        /// Where it should be.
        beside: PathBuf,
    },
    /// A process could not be started.
    #[error("cannot start `{name}`")]
    Spawn {
        /// What was to be started.
        name: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The sockets of the shards cannot be made there.
    #[error("`--shard-uds-path`: no socket can be made at {path}: {reason}")]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The model could not be resolved.
    #[error("the model could not be prepared ({status}): {message}")]
    Download {
        /// How `ribbon-server download` ended.
        status: ExitStatus,
        /// What it said last.
        message: String,
    },
    /// The shard refuses what the operator asked for.
    #[error("the shard cannot start: {0}")]
    ShardRefused(String),
    /// Shards die faster than they are worth restarting.
    #[error("the shard died {deaths} times within {} minutes: giving up. Last: {last}", window.as_secs() / 60)]
    TooManyRestarts {
        /// Deaths counted.
        deaths: usize,
        /// Within.
        window: Duration,
        /// The last death.
        last: String,
    },
    /// The model did not answer in time.
    #[error("the model was not ready within {} s (`--startup-timeout`)", .0.as_secs_f64())]
    StartupTimeout(Duration),
    /// The router does not answer, so nobody serves requests.
    #[error("the router has not answered for {} s (`--router-timeout`): stopping", .0.as_secs_f64())]
    RouterHung(Duration),
    /// The router is gone, and with it every request.
    #[error("the router ended ({status}), see its last message: stopping")]
    RouterEnded {
        /// How.
        status: String,
        /// It found a mistake of the operator's before it was ready.
        refused: bool,
    },
}

impl LaunchError {
    /// 2: the operator can mend it. 1: anything else.
    pub(crate) fn exit_code(&self) -> u8 {
        let operators_mistake = match self {
            Self::Arguments(_)
            | Self::SocketPath { .. }
            | Self::MissingProgram { .. }
            | Self::ShardRefused(_) => true,
            Self::Download { status, .. } => status.code() == Some(2),
            Self::RouterEnded { refused, .. } => *refused,
            Self::Spawn { .. }
            | Self::TooManyRestarts { .. }
            | Self::RouterHung(_)
            | Self::StartupTimeout(_) => false,
        };
        if operators_mistake { 2 } else { 1 }
    }
}
