//! What the KV memory looks like now, for people: slots, storages, spans, pages.

use serde::Serialize;

/// The KV memory of the live generation of shards.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RibbonsSnapshot {
    /// Pages by state; together the pool.
    pub pages: PagesSnapshot,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Slots that are used.
    pub slots: Vec<SlotSnapshot>,
    /// Slots that are not.
    pub free_slots: u32,
    /// Storages that are used.
    pub storages: Vec<StorageSnapshot>,
    /// Storages that are not.
    pub free_storages: u32,
}

/// Pages by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PagesSnapshot {
    /// Of the pool.
    pub total: u64,
    /// Owned by live sequences and shown to nobody else.
    pub live: u64,
    /// Shown to sequences that do not own them, counted once.
    pub shared: u64,
    /// Kept for their tokens only.
    pub cached: u64,
    /// Owned by nobody.
    pub free: u64,
}

/// A used slot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlotSnapshot {
    /// Its number.
    pub slot: u32,
    /// Who sits there; absent while it is being closed.
    pub sequence: Option<u64>,
    /// The storage it writes.
    pub storage: u32,
    /// Tokens fed or named in plans.
    pub tokens: u32,
    /// Storages it shows beside its own, oldest first.
    pub spans: Vec<SpanSnapshot>,
}

/// Tokens of another storage that a slot shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SpanSnapshot {
    /// The owner.
    pub storage: u32,
    /// First token.
    pub begin: u32,
    /// Token after the last.
    pub end: u32,
}

/// A used storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StorageSnapshot {
    /// Its number.
    pub storage: u32,
    /// `live` or `cached`.
    pub state: &'static str,
    /// First token it owns.
    pub start: u32,
    /// Token after the last.
    pub end: u32,
    /// Pages it owns, in all groups.
    pub pages: u64,
    /// Slots that rely on it beside its writer.
    pub readers: Vec<u32>,
}
