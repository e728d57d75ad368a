//! Figures of the scheduler as of now, for metrics, logs and people. Changes nothing.

use std::time::Instant;

use ribbon_core::{RibbonsSnapshot, Slot};

use crate::{ribbons::PageUsage, scheduler::Scheduler};

/// Figures for metrics, as of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Sequences with a slot.
    pub running: usize,
    /// Sequences without one.
    pub queued: usize,
    /// Known tokens of those.
    pub queue_tokens: u64,
    /// When the oldest of them came.
    pub waiting_since: Option<Instant>,
    /// Tokens that the running sequences may grow to.
    pub max_tokens: u64,
    /// The KV memory.
    pub pages: PageUsage,
    /// What has happened since the start.
    pub totals: Totals,
}

/// Counts since the start, over all generations of shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Known tokens of sequences when they first got a slot.
    pub lookup_tokens: u64,
    /// Those of them that had not to be computed.
    pub hit_tokens: u64,
    /// Sequences that lost their slot for lack of pages.
    pub preemptions: u64,
    /// Cached storages that were given up or cut for their pages.
    pub evictions: u64,
}

impl Scheduler {
    /// Figures for metrics.
    pub fn usage(&self) -> Usage {
        let suspects = self.sequences.len() - self.batch.len() - self.queue.len();
        Usage {
            running: self.batch.len(),
            queued: self.queue.len() + suspects,
            queue_tokens: self.queue.tokens(),
            waiting_since: self.waiting_since(),
            pages: self
                .live
                .as_ref()
                .map(|live| live.memory.usage())
                .unwrap_or_default(),
            max_tokens: self
                .batch
                .iter()
                .map(|(_, seat)| u64::from(seat.total))
                .sum(),
            totals: self.totals(),
        }
    }

    fn waiting_since(&self) -> Option<Instant> {
        let oldest = self.sequences.get(&self.queue.oldest()?)?;
        Some(oldest.submitted)
    }

    fn totals(&self) -> Totals {
        let current = self.live.as_ref().map_or(0, |live| live.memory.evictions());
        Totals {
            evictions: self.totals.evictions + current,
            ..self.totals
        }
    }

    /// What the KV memory looks like, while a shard is live. Costs a walk over all slots and storages.
    pub fn snapshot(&self) -> Option<RibbonsSnapshot> {
        let mut snapshot = self.live.as_ref()?.memory.snapshot();
        for slot in &mut snapshot.slots {
            slot.sequence = self.batch.get(Slot(slot.slot)).map(|seat| seat.sequence.0);
        }
        Some(snapshot)
    }
}
