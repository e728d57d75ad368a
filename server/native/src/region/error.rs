//! Why an operation on the region was not done.

use std::io;

/// A refused operation leaves the region as it was.
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
    /// Sharing would come too near vm.max_map_count.
    #[error("{maps} memory maps in use, the limit here is {limit} (vm.max_map_count)")]
    TooManyMaps {
        /// Maps that the operation would leave.
        maps: usize,
        /// 80 % of what the kernel allows.
        limit: usize,
    },
    /// The kernel refused a memory call.
    #[error("{what}: {source}")]
    Kernel {
        /// The call.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// One of a list of operations failed; the earlier ones stay applied.
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
}
