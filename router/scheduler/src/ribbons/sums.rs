//! Sums over all storages, kept up to date with every change.

use super::{Extent, State};
use crate::paging::Paging;

/// Figures of the KV memory, for metrics and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageUsage {
    /// Pages of the pool.
    pub pool: u64,
    /// Pages that live sequences own and nobody else shows.
    pub live: u64,
    /// Pages shown to sequences that do not own them, counted once.
    pub shared: u64,
    /// Pages kept for their tokens only.
    pub cached: u64,
    /// Pages that live sequences may soon want.
    pub awaited: u64,
    /// Bytes of the tokens of live sequences, fed or named in plans and not behind a window, shared ones once.
    pub bytes: u64,
    /// Slots that may be used at once.
    pub slots: u32,
    /// Slots that are used.
    pub slots_used: u32,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Bytes of a token.
    pub stride_bytes: u64,
}

impl PageUsage {
    /// Pages of the pool that nobody owns.
    pub fn free(&self) -> u64 {
        self.pool
            .saturating_sub(self.live + self.shared + self.cached)
    }

    /// Share of the bytes owned by or shown to live sequences that hold no token; 0 where there are none.
    pub fn waste_ratio(&self) -> f64 {
        let pages = self.live + self.shared;
        if pages == 0 {
            return 0.0;
        }
        1.0 - self.bytes as f64 / (pages * self.page_bytes) as f64
    }
}

/// Running sums, in pages of all groups.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) live: u64,
    pub(super) shared: u64,
    cached: u64,
    pub(super) awaited: u64,
    bytes: u64,
    pub(super) slots_used: u32,
}

/// What one storage adds.
struct Share {
    live: u64,
    shared: u64,
    cached: u64,
    awaited: u64,
    bytes: u64,
}

impl Share {
    fn of(paging: &Paging, extent: &Extent) -> Self {
        let fronts = extent.fronts.as_slice();
        let claimed = extent.claimed().min(extent.end);
        let shared = paging.claimed_pages(fronts, claimed);
        let owned = paging.pages(fronts, extent.end);
        let rest = owned - shared;
        let (live, cached, bytes, awaited) = match extent.state {
            State::Free => (0, 0, 0, 0),
            State::Cached => (0, rest, paging.token_bytes(fronts, claimed), 0),
            State::Live => {
                let goal = extent.goal.max(extent.end);
                let awaited = paging.goal_pages(fronts, extent.end, goal) - owned;
                (rest, 0, paging.token_bytes(fronts, extent.end), awaited)
            }
        };
        Self {
            live,
            shared,
            cached,
            awaited,
            bytes,
        }
    }
}

impl Sums {
    pub(super) fn used(&self) -> u64 {
        self.live + self.shared + self.cached
    }

    pub(super) fn add(&mut self, paging: &Paging, extent: &Extent) {
        let share = Share::of(paging, extent);
        self.live += share.live;
        self.shared += share.shared;
        self.cached += share.cached;
        self.awaited += share.awaited;
        self.bytes += share.bytes;
    }

    pub(super) fn take(&mut self, paging: &Paging, extent: &Extent) {
        let share = Share::of(paging, extent);
        self.live -= share.live;
        self.shared -= share.shared;
        self.cached -= share.cached;
        self.awaited -= share.awaited;
        self.bytes -= share.bytes;
    }

    pub(super) fn usage(&self, paging: &Paging, pool: u64, slots: u32) -> PageUsage {
        PageUsage {
            pool,
            live: self.live,
            shared: self.shared,
            cached: self.cached,
            awaited: self.awaited,
            bytes: self.bytes,
            slots,
            slots_used: self.slots_used,
            page_bytes: paging.page_bytes(),
            stride_bytes: paging.stride_bytes(),
        }
    }
}
