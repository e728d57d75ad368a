//! Random operations against a plain-memory model: contents, pages and refusals.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::memfd::{Memfd, page_bytes};
use super::{Layout, Operation, PagePool, Region, RegionError, StorageState};

mod chains;
mod plans;
mod trims;

pub(in crate::region) const SLOTS: u32 = 5;
pub(in crate::region) const STORAGES: u32 = 7;
pub(in crate::region) const TOKENS: u32 = 60;
pub(in crate::region) const POOL: u64 = 150;
pub(in crate::region) const SPANS: u32 = 3;

fn region(stride_bytes: u32) -> Region {
    let layout = Layout {
        num_slots: SLOTS,
        num_storages: STORAGES,
        slot_tokens: TOKENS,
        stride_bytes,
        page_bytes: page_bytes(),
        max_spans: SPANS,
    };
    let layout = layout.checked().unwrap();
    let memory = Memfd::new(layout.range_start(SLOTS), layout.range_start(STORAGES)).unwrap();
    Region::new(layout, Box::new(memory), Arc::new(PagePool::new(POOL))).unwrap()
}

/// A region and what every open slot should show: a byte per token, another one in each band.
pub(in crate::region) struct Model {
    pub(in crate::region) region: Region,
    /// Bytes from slot 0 of the first band to that of each band.
    bands: Vec<u64>,
    slots: HashMap<u32, Vec<u8>>,
    storages: HashMap<u32, Vec<u8>>,
    next: u8,
}

impl Model {
    fn new(stride: u32) -> Self {
        Self::over(region(stride), vec![0])
    }

    pub(in crate::region) fn over(region: Region, bands: Vec<u64>) -> Self {
        Self {
            region,
            bands,
            slots: HashMap::new(),
            storages: HashMap::new(),
            next: 1,
        }
    }

    fn token(&self, band: u64, slot: u32, token: u32) -> *mut u8 {
        let layout = self.region.layout();
        let offset = band + layout.range_start(slot) + layout.token_byte(token);
        (self.region.address() + offset as usize) as *mut u8
    }

    fn write(&self, slot: u32, token: u32, value: u8) {
        for (number, band) in self.bands.iter().enumerate() {
            let bytes = self.region.layout().stride_bytes as usize;
            // SAFETY: the slot has just grown over this token.
            unsafe {
                self.token(*band, slot, token)
                    .write_bytes(value ^ number as u8, bytes);
            };
        }
    }

    /// Seats a slot on a new storage that shows what another slot shows up to `end`, owner by owner, as a cache hit does.
    fn follow(&mut self, slot: u32, storage: u32, other: u32, end: u32) -> Result<(), RegionError> {
        let shown = self.region.book().slot(other)?.clone();
        let new = Operation::Open {
            slot,
            storage,
            tokens: 0,
        };
        let front = Operation::TrimFront {
            slot,
            begin: shown.begin,
        };
        self.apply(new)?;
        self.apply(front)?;
        let owners = shown.spans.iter().map(|span| (span.storage, span.end));
        for (storage, last) in owners.chain([(shown.own, end)]) {
            // An owner whose page was only copied may be gone since, and its storage be another's.
            if !self.continues(slot, storage) {
                return Ok(());
            }
            let end = end.min(last);
            self.apply(Operation::Share { slot, storage, end })?;
        }
        Ok(())
    }

    /// Does what the random test wants, as far as anybody would.
    pub(in crate::region) fn act(&mut self, act: Act) -> Result<(), RegionError> {
        match act {
            Act::Apply(Operation::Share { slot, storage, .. })
                if !self.continues(slot, storage) =>
            {
                Ok(())
            }
            Act::Apply(operation) => self.apply(operation),
            Act::Follow {
                slot,
                storage,
                other,
                end,
            } => self.follow(slot, storage, other, end),
        }
    }

    /// Whether the owner's tokens are those that the slot shows: nobody shares others.
    fn continues(&self, slot: u32, storage: u32) -> bool {
        let Ok(open) = self.region.book().slot(slot) else {
            return true;
        };
        let (mine, theirs) = (&self.slots[&slot], self.contents(storage));
        let mut both = mine.iter().zip(&theirs).skip(open.begin as usize);
        both.all(|(mine, theirs)| mine == theirs)
    }

    fn shows(&self, slot: u32, token: u32, value: u8) -> bool {
        let bytes = self.region.layout().stride_bytes as usize;
        self.bands.iter().enumerate().all(|(number, band)| {
            // SAFETY: the slot shows this token.
            let seen = unsafe { std::slice::from_raw_parts(self.token(*band, slot, token), bytes) };
            seen.iter().all(|byte| *byte == value ^ number as u8)
        })
    }

    /// Closes and forgets everything.
    pub(in crate::region) fn reset(&mut self) {
        self.region.reset().unwrap();
        self.slots.clear();
        self.storages.clear();
    }

    /// Applies an operation to both; the region may refuse, then nothing may change. After a failed memory call only a reset
    /// is possible.
    pub(in crate::region) fn apply(&mut self, operation: Operation) -> Result<(), RegionError> {
        let before = (self.region.pages_used(), self.region.resident_bytes()?);
        if let Err(error) = self.region.apply(operation) {
            if error.is_fatal() {
                return Err(error);
            }
            assert_eq!(
                before,
                (self.region.pages_used(), self.region.resident_bytes()?),
                "{operation:?}: {error}"
            );
            return Err(error);
        }
        match operation {
            Operation::Open {
                slot,
                storage,
                tokens,
            } => {
                let mut known = self.storages.remove(&storage).unwrap_or_default();
                known.truncate(tokens as usize);
                self.slots.insert(slot, known);
            }
            Operation::Share { slot, storage, end } => self.share(slot, storage, end),
            Operation::Grow { slot, end } => self.grow(slot, end),
            Operation::Close { slot, keep } => {
                if let Some(shown) = self.slots.remove(&slot)
                    && keep
                {
                    self.storages.insert(self.just_cached(), shown);
                }
            }
            // What was given up is not read any more; `check` asks the region where a slot begins.
            Operation::TrimFront { .. } => {}
            Operation::Truncate { storage, end } => self.truncate(storage, end),
            Operation::Drop { storage } => drop(self.storages.remove(&storage)),
        }
        Ok(())
    }

    fn share(&mut self, slot: u32, storage: u32, end: u32) {
        let owner = self.contents(storage);
        let shown = self.slots.get_mut(&slot).unwrap();
        if shown.len() < end as usize {
            shown.extend_from_slice(&owner[shown.len()..end as usize]);
        }
    }

    fn grow(&mut self, slot: u32, end: u32) {
        for token in self.slots[&slot].len() as u32..end {
            self.next = self.next % 250 + 1;
            self.write(slot, token, self.next);
            self.slots.get_mut(&slot).unwrap().push(self.next);
        }
    }

    fn truncate(&mut self, storage: u32, end: u32) {
        if let Some(known) = self.storages.get_mut(&storage) {
            known.truncate(end as usize);
        } else if let Some(slot) = self.writer(storage) {
            self.slots.get_mut(&slot).unwrap().truncate(end as usize);
        }
    }

    /// The storage that a close has just left behind: the cached one the model does not know yet.
    fn just_cached(&self) -> u32 {
        let cached = |id: &u32| {
            self.region
                .book()
                .storage(*id)
                .is_ok_and(|found| found.state == StorageState::Cached)
        };
        (1..STORAGES)
            .filter(cached)
            .find(|id| !self.storages.contains_key(id))
            .unwrap()
    }

    fn writer(&self, storage: u32) -> Option<u32> {
        (1..SLOTS).find(|slot| {
            self.region
                .book()
                .slot(*slot)
                .is_ok_and(|open| open.own == storage)
        })
    }

    fn contents(&self, storage: u32) -> Vec<u8> {
        match self.writer(storage) {
            Some(slot) => self.slots[&slot].clone(),
            None => self.storages.get(&storage).cloned().unwrap_or_default(),
        }
    }

    pub(in crate::region) fn check(&self) {
        let book = self.region.book();
        let owned: u64 = (1..STORAGES)
            .map(|id| book.owned_pages(book.storage(id).unwrap()))
            .sum();
        assert_eq!(owned, self.region.pages_used());
        assert!(owned <= POOL);
        let page_bytes = self.region.layout().page_bytes;
        assert_eq!(owned * page_bytes, self.region.resident_bytes().unwrap());
        for (slot, known) in &self.slots {
            let shown = book.shown_tokens(*slot).unwrap();
            let complete = book.storage(book.slot(*slot).unwrap().own).unwrap().start <= shown;
            let begin = book.slot(*slot).unwrap().begin;
            for token in begin..shown.min(known.len() as u32) {
                let expected = known[token as usize];
                assert!(
                    self.shows(*slot, token, expected),
                    "slot {slot} token {token}"
                );
            }
            assert!(!complete || shown <= begin || known.len() >= shown as usize);
        }
    }
}

/// What the random test does.
#[derive(Clone, Debug)]
pub(in crate::region) enum Act {
    Apply(Operation),
    Follow {
        slot: u32,
        storage: u32,
        other: u32,
        end: u32,
    },
}

pub(in crate::region) fn act() -> impl Strategy<Value = Act> {
    let (slot, storage, tokens) = (0..SLOTS + 1, 0..STORAGES + 1, 0..TOKENS + 2);
    prop_oneof![
        10 => operation().prop_map(Act::Apply),
        3 => (slot.clone(), storage, slot, tokens)
            .prop_map(|(slot, storage, other, end)| Act::Follow { slot, storage, other, end }),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let (slot, storage, tokens) = (0..SLOTS + 1, 0..STORAGES + 1, 0..TOKENS + 2);
    prop_oneof![
        2 => (slot.clone(), storage.clone()).prop_map(|(slot, storage)| Operation::Open { slot, storage, tokens: 0 }),
        1 => (slot.clone(), storage.clone(), tokens.clone())
            .prop_map(|(slot, storage, tokens)| Operation::Open { slot, storage, tokens }),
        3 => (slot.clone(), storage.clone(), tokens.clone())
            .prop_map(|(slot, storage, end)| Operation::Share { slot, storage, end }),
        4 => (slot.clone(), tokens.clone()).prop_map(|(slot, end)| Operation::Grow { slot, end }),
        2 => (slot.clone(), tokens.clone()).prop_map(|(slot, begin)| Operation::TrimFront { slot, begin }),
        2 => (slot, any::<bool>()).prop_map(|(slot, keep)| Operation::Close { slot, keep }),
        1 => (storage.clone(), tokens).prop_map(|(storage, end)| Operation::Truncate { storage, end }),
        1 => storage.prop_map(|storage| Operation::Drop { storage }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A page has one owner, shows what was written, and is counted as the kernel counts it.
    #[test]
    fn region_behaves_like_plain_memory(
        stride in prop::sample::select(vec![64u32, 192, 3072, 4096, 5056, 12_288]),
        acts in prop::collection::vec(act(), 1..120),
    ) {
        let mut model = Model::new(stride);
        for act in acts {
            let _refused = model.act(act);
            model.check();
        }
        model.region.reset().unwrap();
        prop_assert_eq!(model.region.pages_used(), 0);
        prop_assert_eq!(model.region.resident_bytes().unwrap(), 0);
        prop_assert_eq!(model.region.book().extra_maps(), 0);
    }
}

fn all(model: &mut Model, operations: &[Operation]) {
    for operation in operations {
        model.apply(*operation).unwrap();
        model.check();
    }
}

#[test]
fn an_exhausted_pool_refuses_and_stays_usable() {
    let mut model = Model::new(12_288);
    all(
        &mut model,
        &[
            Operation::Open {
                slot: 1,
                storage: 1,
                tokens: 0,
            },
            Operation::Grow { slot: 1, end: 50 },
        ],
    );
    let refused = model.apply(Operation::Open {
        slot: 2,
        storage: 2,
        tokens: 0,
    });
    assert!(refused.is_ok());
    let refused = model.apply(Operation::Grow { slot: 2, end: 1 });
    assert!(matches!(
        refused,
        Err(RegionError::OutOfPages {
            needed: 3,
            available: 0,
            total: 150
        })
    ));
    all(
        &mut model,
        &[
            Operation::Close {
                slot: 1,
                keep: false,
            },
            Operation::Grow { slot: 2, end: 50 },
        ],
    );
}

#[test]
fn sizes_that_cannot_be_are_named() {
    let good = Layout {
        num_slots: 2,
        num_storages: 2,
        slot_tokens: 8,
        stride_bytes: 64,
        page_bytes: 4096,
        max_spans: 3,
    };
    let message = |layout: Layout| layout.checked().unwrap_err().to_string();
    assert!(
        message(Layout {
            num_slots: 0,
            ..good
        })
        .contains("num_slots")
    );
    assert!(
        message(Layout {
            slot_tokens: 0,
            ..good
        })
        .contains("slot_tokens")
    );
    assert!(
        message(Layout {
            stride_bytes: 100,
            ..good
        })
        .contains("stride_bytes is 100")
    );
    assert!(
        message(Layout {
            slot_tokens: u32::MAX,
            stride_bytes: !63,
            ..good
        })
        .contains("address space")
    );
}
