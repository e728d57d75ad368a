//! The seam between the scheduler and the shards: plans go down, outcomes come up.

use std::pin::Pin;

use futures_core::Stream;

use crate::{ShardDescription, StepOutcome, StepPlan};

/// What comes up from the shards. Events of one generation are in order; a new `Ready` starts a new generation.
#[derive(Debug)]
pub enum ShardEvent {
    /// A warm generation of shards is there, with an empty KV memory. Plans go to `plans`, counted from step 1.
    Ready {
        /// What it is.
        description: Box<ShardDescription>,
        /// Where its plans go.
        plans: Box<dyn PlanSink>,
        /// Its number.
        generation: u64,
    },
    /// One plan's answer.
    Outcome(StepOutcome),
    /// The generation is gone: process dead, stream broken, or replaced because it hung.
    Lost {
        /// Why.
        reason: String,
    },
}

/// Takes plans for one generation of shards. Never blocks; plans for a lost generation vanish.
pub trait PlanSink: Send + std::fmt::Debug {
    /// Sends one plan to every rank.
    fn send(&mut self, plan: StepPlan);

    /// A step is over its deadline: asks the launcher to replace the generation.
    fn report_hung(&self, step_id: u64);
}

/// Where shards come from. Used by the scheduler's actor; `ribbon-shards` is one, the simulation another.
pub trait Shards: Send + 'static {
    /// Events, for the life of the server. Ends only when the server stops.
    fn events(self: Box<Self>) -> Pin<Box<dyn Stream<Item = ShardEvent> + Send>>;
}
