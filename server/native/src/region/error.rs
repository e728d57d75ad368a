//! Why an operation on the region was not done.

use std::io;

/// An operation that is refused, or finds no pages, leaves the region as it was.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The sizes given to the constructor cannot be.
    #[error("{0}")]
    Layout(String),
    /// The operation contradicts the state of the region: the planner's mistake.
    #[error("{0}")]
    Refused(String),
    /// The pool of physical pages is exhausted.
    #[error("{needed} pages needed, {available} of {total} available (--kv-memory)")]
    OutOfPages {
        /// Pages the operation would take.
        needed: u64,
        /// Pages the pool has left.
        available: u64,
        /// Pages of the pool.
        total: u64,
    },
    /// The kernel refused a memory call.
    #[error("{what}: {source}")]
    Kernel {
        /// The call.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// The kernel refused a memory call before, so that nobody knows what is mapped; only a reset mends it.
    #[error("the KV memory is in an unknown state since a memory call failed")]
    Broken,
    /// One of a list of operations was not done; the first of them, if several.
    #[error("operation {index} ({kind}): {source}")]
    Operation {
        /// Position in the list.
        index: usize,
        /// Name of the operation.
        kind: &'static str,
        /// The reason.
        source: Box<RegionError>,
    },
}

impl RegionError {
    /// The reason without the place in the list.
    pub fn cause(&self) -> &Self {
        match self {
            Self::Operation { source, .. } => source.cause(),
            other => other,
        }
    }

    /// Whether the memory itself failed: no account of it can be trusted any more.
    pub fn is_fatal(&self) -> bool {
        matches!(self.cause(), Self::Kernel { .. } | Self::Broken)
    }
}
