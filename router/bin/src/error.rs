//! Why the router ends badly, and the exit code that says so.

use std::{io, net::SocketAddr};

use ribbon_text::LoadError;
use thiserror::Error;

/// Why the router gives up.
#[derive(Debug, Error)]
pub(crate) enum RouterError {
    /// A flag cannot be meant.
    #[error("{0}")]
    Arguments(String),
    /// Somebody else listens there.
    #[error("port {0} is already in use: choose another with --port")]
    PortInUse(u16),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; check --hostname and --port")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Started by hand.
    #[error(
        "ribbon-router is started by ribbon-launcher, which passes its socket as standard input: {0}"
    )]
    NoLauncher(io::Error),
    /// The model's text files are not usable.
    #[error(transparent)]
    Text(#[from] LoadError),
    /// The warm model and the flags contradict each other.
    #[error("{0}")]
    Limits(String),
    /// The shards are not for this router.
    #[error("the shard cannot be used: {0}")]
    Shard(String),
    /// The launcher is gone.
    #[error("the launcher is gone")]
    LauncherGone,
    /// The launcher has no more shards for us.
    #[error("the launcher gave up: {0}")]
    GaveUp(String),
    /// A part of the router ended by itself.
    #[error("{0}")]
    Broken(String),
}

impl RouterError {
    /// 2: the operator can mend it. 1: anything else.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Arguments(_)
            | Self::PortInUse(_)
            | Self::Bind { .. }
            | Self::NoLauncher(_)
            | Self::Text(_)
            | Self::Limits(_) => 2,
            Self::Shard(_) | Self::LauncherGone | Self::GaveUp(_) | Self::Broken(_) => 1,
        }
    }
}
