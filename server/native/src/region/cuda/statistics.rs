//! What the page tables cost: calls, nanoseconds, how growths got their pages. Knows counters only.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Calls of one kind and the time they took.
#[derive(Debug, Default)]
pub struct Cost {
    calls: AtomicU64,
    ns: AtomicU64,
}

impl Cost {
    /// Counts one call that began at `started`.
    pub fn add(&self, started: Instant) {
        self.calls.fetch_add(1, Relaxed);
        self.ns
            .fetch_add(started.elapsed().as_nanos() as u64, Relaxed);
    }

    /// Does the work and counts it.
    pub fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let done = work();
        self.add(started);
        done
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    /// Their time.
    pub fn ns(&self) -> u64 {
        self.ns.load(Relaxed)
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Counts `number` more.
    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// All counters of a region on a device; each is described in _native.pyi, `map_statistics`.
#[derive(Debug, Default)]
pub struct Statistics {
    pub map: Cost,
    pub unmap: Cost,
    pub set_access: Cost,
    pub late: Cost,
    pub fence: Cost,
    pub inherited_pages: Count,
    pub stolen_pages: Count,
    pub fresh_pages: Count,
    pub prefetched_pages: Count,
    pub copied_pages: Count,
}

impl Statistics {
    /// Names and numbers, the pages idle and parked now among them.
    pub fn rows(&self, idle_pages: u64, parked_pages: u64) -> Vec<(&'static str, u64)> {
        vec![
            ("map_calls", self.map.calls()),
            ("map_ns", self.map.ns()),
            ("unmap_calls", self.unmap.calls()),
            ("unmap_ns", self.unmap.ns()),
            ("set_access_calls", self.set_access.calls()),
            ("set_access_ns", self.set_access.ns()),
            ("late_waits", self.late.calls()),
            ("late_ns", self.late.ns()),
            ("fence_waits", self.fence.calls()),
            ("fence_ns", self.fence.ns()),
            ("inherited_pages", self.inherited_pages.get()),
            ("stolen_pages", self.stolen_pages.get()),
            ("fresh_pages", self.fresh_pages.get()),
            ("prefetched_pages", self.prefetched_pages.get()),
            ("copied_pages", self.copied_pages.get()),
            ("idle_pages", idle_pages),
            ("parked_pages", parked_pages),
        ]
    }
}
