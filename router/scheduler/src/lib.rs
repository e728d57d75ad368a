//! Decides what every step does: queue, token budget, slots, page accounting, recovery. Knows no text, no wire format, no HTTP.
//!
//! [`Scheduler`] is a pure state machine: requests, outcomes and the time go in, plans and events come out. Tests drive it
//! without a model. Everything asynchronous is in [`actor`], which owns one `Scheduler` on one task.
//!
//! Wiring, for `router/bin`:
//!
//! ```ignore
//! let (groups, control, hung) = ribbon_shards::ShardGroups::new(shard_settings);
//! let (handle, actor) = SchedulerHandle::start(settings, Box::new(groups));
//! tasks.spawn(actor.run());          // ends after `handle.stop()`; join it
//! engines.insert(name, Arc::new(handle.clone()) as Arc<dyn Engine>);
//! handle.drain(grace).await;         // not ready; refuses new requests after `grace`, resolves when nothing runs
//! handle.stop();                     // ends what is left with `StreamError::ShuttingDown`
//! let mut losses = handle.losses();  // watch: one value each time a generation is lost, for the launcher's `suspects`
//! ```
//!
//! Metrics: call [`metrics::describe`] once the recorder is installed; [`metrics::METRICS`] lists names and buckets.

pub mod actor;
pub mod budget;
pub mod event;
pub mod gate;
pub mod invariants;
pub mod metrics;
pub mod settings;

mod batch;
mod deadlines;
mod fairness;
mod history;
mod kv_memory;
mod memory_pressure;
mod newcomers;
mod outcome;
mod paging;
mod planning;
mod prefill_rate;
mod prefix_tree;
mod queue;
mod recovery;
mod ribbons;
mod scheduler;
mod sequence;
mod step;
mod step_log;
mod tenants;
#[cfg(test)]
mod testing;
mod usage;
mod waiting;
mod whole;

pub use actor::{Loss, SchedulerActor, SchedulerHandle};
pub use event::{CancelStage, Event, StepKind, StepReport};
pub use gate::{Gate, GroupId, Permit, SequenceId};
pub use ribbons::PageUsage;
pub use scheduler::Scheduler;
pub use settings::SchedulerSettings;
pub use usage::{Totals, Usage};
