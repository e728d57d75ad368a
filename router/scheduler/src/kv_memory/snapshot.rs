//! The KV memory as `GET /debug/ribbons` shows it.

use ribbon_core::{PagesSnapshot, RibbonsSnapshot, SlotSnapshot, SpanSnapshot, StorageSnapshot};

use super::KvMemory;
use crate::ribbons::{Extent, Ribbon, State};

impl KvMemory {
    /// A copy for people. Who sits in a slot is not known here.
    pub(crate) fn snapshot(&self) -> RibbonsSnapshot {
        let usage = self.usage();
        RibbonsSnapshot {
            pages: PagesSnapshot {
                total: usage.pool,
                live: usage.live,
                shared: usage.shared,
                cached: usage.cached,
                free: usage.free(),
            },
            page_bytes: usage.page_bytes,
            slots: self
                .ribbons
                .iter()
                .map(|(slot, ribbon)| self.slot(slot.0, ribbon))
                .collect(),
            free_slots: usage.slots - usage.slots_used,
            storages: self
                .ribbons
                .storages()
                .map(|(storage, extent)| self.storage(storage.0, extent))
                .collect(),
            free_storages: self.ribbons.num_free_storages() as u32,
        }
    }

    fn slot(&self, slot: u32, ribbon: &Ribbon) -> SlotSnapshot {
        let mut begin = 0;
        let spans = ribbon.spans.iter().map(|span| SpanSnapshot {
            storage: span.storage.0,
            begin: std::mem::replace(&mut begin, span.end),
            end: span.end,
        });
        SlotSnapshot {
            slot,
            sequence: None,
            storage: ribbon.own.0,
            spans: spans.collect(),
            tokens: self
                .ribbons
                .extent(ribbon.own)
                .map_or(0, |extent| extent.end),
        }
    }

    fn storage(&self, storage: u32, extent: &Extent) -> StorageSnapshot {
        StorageSnapshot {
            storage,
            state: match extent.state {
                State::Free => "free",
                State::Live => "live",
                State::Cached => "cached",
            },
            start: extent.start,
            end: extent.end,
            pages: self.ribbons.paging().pages(&extent.fronts, extent.end),
            readers: extent.claims.iter().map(|(slot, _)| slot.0).collect(),
        }
    }
}
