//! The client side of the wire: finds the shards of a generation, warms them, carries plans down and outcomes up.
//! The only crate that sees generated types. Knows no request, queue or policy.
//!
//! ```ignore
//! let (groups, control, mut hung) = ShardGroups::new(ShardSettings { .. });
//! // groups: `Shards`, for the scheduler's actor.
//! control.shards(1, vec!["unix:///run/ribbon/1/0".into()]).await;  // launcher: {"type":"shards",...}
//! control.lost(1, "killed by signal 9".into()).await;              // launcher: {"type":"lost",...}
//! while let Some(Hung { rank, generation, step, refused }) = hung.next().await { .. } // to the launcher: {"type":"hung",...}
//! ```
//!
//! A generation that cannot be reached, warmed or whose stream breaks is reported both as `ShardEvent::Lost` and as
//! [`Hung`], so that the launcher replaces a process which still lives.

mod client;
mod convert;
mod error;
mod group;

/// Generated from `proto/ribbon/shard/v1/shard.proto`.
mod wire {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::pedantic,
        clippy::indexing_slicing
    )]
    tonic::include_proto!("ribbon.shard.v1");
}

pub use client::Place;
pub use error::{Hopeless, ShardError};
pub use group::{GenerationControl, Hung, HungReports, ShardGroups};

/// What the operator decided about the shards; `None` lets the shard choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardSettings {
    /// Token budget of one step.
    pub max_batch_prefill_tokens: Option<u32>,
    /// Longest sequence, in tokens.
    pub max_total_tokens: Option<u32>,
    /// Sequences that may hold a slot at once.
    pub max_concurrent_requests: u32,
}
