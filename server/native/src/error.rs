//! What can go wrong in the native module. Knows nothing of Python: the bindings map each variant to one exception.

use std::io;

use crate::region::RegionError;

/// Every failure a caller can see.
#[derive(Debug, thiserror::Error)]
pub enum NativeError {
    /// An argument that cannot be: the caller's mistake.
    #[error("{0}")]
    Invalid(String),
    /// An operation on the region was refused or the pool is exhausted.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// A call that the kernel refused outside the region's operations.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Shorthand for a refusal with a formatted message.
pub fn invalid<T>(message: impl Into<String>) -> Result<T, NativeError> {
    Err(NativeError::Invalid(message.into()))
}
