//! What can go wrong between the router and a shard.

use std::time::Duration;

use thiserror::Error;
use tonic::{Code, Status};

use crate::client::Place;

/// Why a generation of shards cannot be used, or not any more.
#[derive(Debug, Error)]
pub enum ShardError {
    /// The launcher named an address this client does not speak.
    #[error("the shard's address `{0}` is not supported, only `unix://` is")]
    Address(String),
    /// A shard that takes itself for another one of its group.
    #[error("it says that it is rank {}, but is announced as rank {}", .said, .announced)]
    Place {
        /// Of the shard.
        said: Place,
        /// Of the launcher.
        announced: Place,
    },
    /// A generation without shards.
    #[error("no shards were announced")]
    NoShards,
    /// Nobody answers at the socket.
    #[error("cannot connect to the shard at `{uri}`")]
    Connect {
        /// Where.
        uri: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// No answer in time.
    #[error("the shard did not answer `{call}` within {} s", .limit.as_secs())]
    Deadline {
        /// Which call.
        call: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// The shard answered with an error.
    #[error("the shard failed in `{call}`: {}", .status.message())]
    Call {
        /// Which call.
        call: &'static str,
        /// What it said.
        #[source]
        status: Box<Status>,
    },
    /// The shard closed the stream of outcomes.
    #[error("the shard closed the stream of steps")]
    StreamEnded,
    /// A message that breaks the rules of the wire.
    #[error("the shard sent a malformed {message}: {reason}")]
    Malformed {
        /// Which message.
        message: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A shard that needs what this router cannot do yet.
    #[error("the shard needs {0}, which this version of the router does not support")]
    Unsupported(String),
}

/// What [`ShardError::Malformed`] calls what a shard says of itself.
pub(crate) const DESCRIPTION: &str = "description";

/// Why it makes no sense to start the shards again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hopeless {
    /// They refuse what the operator asked for, with these words.
    Settings(String),
    /// They and this router do not fit together.
    Shard(String),
}

/// Whether the shard's answer would be the same again. A status with a source was made on this side, from a connection that
/// failed.
fn is_final(status: &Status) -> bool {
    let may_change = matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Aborted
            | Code::ResourceExhausted
    );
    !may_change && std::error::Error::source(status).is_none()
}

impl ShardError {
    pub(crate) fn malformed(message: &'static str, reason: impl Into<String>) -> Self {
        Self::Malformed {
            message,
            reason: reason.into(),
        }
    }

    /// Why another start would end the same way; `None` where it may not.
    pub(crate) fn hopeless(&self) -> Option<Hopeless> {
        match self {
            Self::Call {
                call: "Warmup",
                status,
            } if status.code() == Code::InvalidArgument => {
                Some(Hopeless::Settings(status.message().to_owned()))
            }
            Self::Call {
                call: "Describe",
                status,
            } if is_final(status) => Some(Hopeless::Shard(self.chain())),
            Self::Address(_)
            | Self::Place { .. }
            | Self::Unsupported(_)
            | Self::Malformed {
                message: DESCRIPTION,
                ..
            } => Some(Hopeless::Shard(self.chain())),
            _ => None,
        }
    }

    /// The error in words for clients: what broke, without the machinery's own account of how.
    pub(crate) fn summary(&self) -> String {
        match self {
            // A status with a source was made on this side, from a connection that failed.
            Self::Call { call, status } if std::error::Error::source(status.as_ref()).is_some() => {
                format!("the connection to the shard broke in `{call}`")
            }
            Self::Connect { .. } => "cannot connect to the shard".to_owned(),
            _ => self.to_string(),
        }
    }

    /// The error and what caused it, in one line.
    pub(crate) fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let text = error.to_string();
            if !line.contains(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            cause = error.source();
        }
        line
    }
}
