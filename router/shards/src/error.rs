//! What can go wrong between the router and a shard.

use std::time::Duration;

use thiserror::Error;

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
        status: Box<tonic::Status>,
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

impl ShardError {
    pub(crate) fn malformed(message: &'static str, reason: impl Into<String>) -> Self {
        Self::Malformed {
            message,
            reason: reason.into(),
        }
    }

    /// The shard's words, if it refuses the operator's settings.
    pub(crate) fn refusal(&self) -> Option<String> {
        match self {
            Self::Call {
                call: "Warmup",
                status,
            } if status.code() == tonic::Code::InvalidArgument => Some(status.message().to_owned()),
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
