//! The physical pages that all groups of layers draw from, as a count. Knows neither slots nor memory.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Pages that may be owned in all, and those that are. Only the thread that runs the plans changes it.
#[derive(Debug)]
pub struct PagePool {
    total: AtomicU64,
    used: AtomicU64,
}

impl PagePool {
    /// A pool of `total` pages, none owned.
    pub fn new(total: u64) -> Self {
        Self {
            total: AtomicU64::new(total),
            used: AtomicU64::new(0),
        }
    }

    /// Pages that may be owned in all.
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Pages left; 0 where the pool shrank below what is owned.
    pub fn available(&self) -> u64 {
        self.total().saturating_sub(self.used.load(Relaxed))
    }

    /// Makes the pool larger or smaller. What is owned stays owned.
    pub fn resize(&self, total: u64) {
        self.total.store(total, Relaxed);
    }

    /// A storage that owned `before` pages owns `after`.
    pub(super) fn exchange(&self, before: u64, after: u64) {
        self.used.fetch_add(after.wrapping_sub(before), Relaxed);
    }
}
