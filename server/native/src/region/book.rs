//! Who owns and who shows which tokens. Pure bookkeeping: checks every operation; never touches memory.

use std::sync::Arc;

use super::{Layout, PagePool, RegionError, Row};

/// The physical pages behind one ribbon.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    /// First token it owns.
    pub start: u32,
    /// Token after the last it owns.
    pub end: u32,
    /// Where it stands.
    pub state: StorageState,
    /// Slots that show tokens of it without owning it.
    pub readers: Vec<Reader>,
}

/// A slot that shows tokens [begin, end) of a storage it does not own.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// The slot.
    pub slot: u32,
    /// First token it shows.
    pub begin: u32,
    /// Token after the last.
    pub end: u32,
}

/// Where a storage stands between a new one and a given-back one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StorageState {
    /// Owns nothing.
    #[default]
    Free,
    /// A slot writes it.
    Live,
    /// Kept for its tokens; no slot writes it.
    Cached,
}

/// Tokens of another storage that a slot shows, from the end of the span before.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The owner.
    pub storage: u32,
    /// Token after the last.
    pub end: u32,
}

/// A seat: which storages a sequence sees.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Shared spans, oldest owner first.
    pub spans: Vec<Span>,
    /// The storage the slot writes.
    pub own: u32,
    /// Set when `own` came with tokens or has grown: its start is final.
    pub settled: bool,
    /// First token it still shows: those before were given up.
    pub begin: u32,
    /// Set when it has grown: what it shows is no longer only what it found.
    pub grown: bool,
}

impl Slot {
    /// Token after the last shared one; where none is shared, the first token that is not given up.
    pub fn shared_end(&self) -> u32 {
        self.spans.last().map_or(self.begin, |span| span.end)
    }
}

/// All slots and storages.
#[derive(Debug)]
pub struct Book {
    pub(super) layout: Layout,
    pub(super) slots: Vec<Option<Slot>>,
    pub(super) storages: Vec<Storage>,
    pub(super) pages_used: u64,
    /// Slots that were refused an operation and are not closed yet.
    pub(super) void: Vec<bool>,
    pub(super) pool: Arc<PagePool>,
}

fn refuse<T>(message: String) -> Result<T, RegionError> {
    Err(RegionError::Refused(message))
}

impl Book {
    /// Every slot closed, every storage free.
    pub fn new(layout: Layout, pool: Arc<PagePool>) -> Self {
        let slots = vec![None; layout.num_slots as usize];
        Self {
            layout,
            slots,
            storages: vec![Storage::default(); layout.num_storages as usize],
            pages_used: 0,
            void: vec![false; layout.num_slots as usize],
            pool,
        }
    }

    /// Pages a storage owns.
    pub fn owned_pages(&self, storage: &Storage) -> u64 {
        if storage.state == StorageState::Free {
            return 0;
        }
        self.layout
            .page_ceil(storage.end)
            .saturating_sub(self.layout.page_floor(storage.start))
    }

    /// The open slot of that number.
    pub fn slot(&self, slot: u32) -> Result<&Slot, RegionError> {
        self.check_slot_number(slot)?;
        match self.slots.get(slot as usize) {
            Some(Some(open)) => Ok(open),
            _ => refuse(format!("slot {slot} is not open")),
        }
    }

    /// Refuses slot 0 and slots that do not exist.
    pub fn check_slot_number(&self, slot: u32) -> Result<(), RegionError> {
        if slot == 0 || slot >= self.layout.num_slots {
            return refuse(format!(
                "slot {slot}: slots to be used are 1 to {}",
                self.layout.num_slots - 1
            ));
        }
        Ok(())
    }

    /// The storage of that number, free or not.
    pub fn storage(&self, storage: u32) -> Result<&Storage, RegionError> {
        match self.storages.get(storage as usize) {
            Some(found) if storage != 0 => Ok(found),
            _ => refuse(format!(
                "storage {storage}: storages to be used are 1 to {}",
                self.layout.num_storages - 1
            )),
        }
    }

    /// The storage, which must have an owner's claim on it.
    pub fn used_storage(&self, storage: u32) -> Result<&Storage, RegionError> {
        let found = self.storage(storage)?;
        if found.state == StorageState::Free {
            return refuse(format!("storage {storage} is free"));
        }
        Ok(found)
    }

    /// Refuses tokens past a slot's end.
    pub fn check_tokens(&self, tokens: u32) -> Result<(), RegionError> {
        if tokens > self.layout.slot_tokens {
            return refuse(format!(
                "token {tokens} is past the slot's end ({} tokens)",
                self.layout.slot_tokens
            ));
        }
        Ok(())
    }

    /// Refuses to touch pages from `first_page` on while a slot shows one of them.
    pub fn check_unread(&self, storage: u32, first_page: u64) -> Result<(), RegionError> {
        let readers = &self.storage(storage)?.readers;
        let shown = readers.iter().find(|reader| {
            let begin = self.layout.page_floor(reader.begin).max(first_page);
            self.layout.page_floor(reader.end) > begin
        });
        match shown {
            Some(Reader { slot, end, .. }) => refuse(format!(
                "slot {slot} shows storage {storage} up to token {end}"
            )),
            None => Ok(()),
        }
    }

    /// Refuses to give up pages that lie wholly before `begin` while a slot shows one of them.
    pub fn check_front_unread(&self, storage: u32, begin: u32) -> Result<(), RegionError> {
        let readers = &self.storage(storage)?.readers;
        let shown = readers.iter().find(|reader| {
            let end = self.layout.page_floor(reader.end.min(begin));
            end > self.layout.page_floor(reader.begin)
        });
        match shown {
            Some(Reader { slot, begin, .. }) => refuse(format!(
                "slot {slot} shows storage {storage} from token {begin}"
            )),
            None => Ok(()),
        }
    }

    /// Refuses more pages than the pool has left.
    pub fn check_pool(&self, needed: u64) -> Result<(), RegionError> {
        let available = self.pool.available();
        if needed > available {
            return Err(RegionError::OutOfPages {
                needed,
                available,
                total: self.pool.total(),
            });
        }
        Ok(())
    }

    /// Tokens the slot may hold now: shared spans, then its own.
    pub fn shown_tokens(&self, slot: u32) -> Result<u32, RegionError> {
        let open = self.slot(slot)?;
        let own = self.storage(open.own)?;
        let shared = open.shared_end();
        Ok(if own.start == shared { own.end } else { shared })
    }

    /// Changes what a storage owns and accounts for its pages.
    pub fn set_extent(&mut self, number: u32, state: StorageState, start: u32, end: u32) {
        let Some(mut storage) = self.storages.get(number as usize).cloned() else {
            return;
        };
        let before = self.owned_pages(&storage);
        (storage.state, storage.start, storage.end) = (state, start, end);
        let after = self.owned_pages(&storage);
        self.pages_used = self.pages_used - before + after;
        self.pool.exchange(before, after);
        self.storages[number as usize] = storage;
    }

    /// The slot a row names, or the one that writes the storage it names; none where that does not exist.
    pub fn slot_of(&self, row: Row) -> Option<u32> {
        if !row.names_a_storage_alone() {
            return (1..self.layout.num_slots)
                .contains(&row.slot)
                .then_some(row.slot);
        }
        let writes =
            |slot: &Option<Slot>| slot.as_ref().is_some_and(|open| open.own == row.storage);
        let writer = self.slots.iter().position(writes)?;
        Some(writer as u32)
    }

    /// Whether the slot was refused an operation and is not closed yet.
    pub fn is_void(&self, slot: u32) -> bool {
        self.void.get(slot as usize).copied().unwrap_or(false)
    }

    pub(super) fn set_void(&mut self, slot: u32, is_void: bool) {
        if let Some(mark) = self.void.get_mut(slot as usize)
            && slot != 0
        {
            *mark = is_void;
        }
    }

    /// Maps that exist beyond one per slot.
    pub fn extra_maps(&self) -> usize {
        self.slots
            .iter()
            .flatten()
            .map(|slot| self.maps_of(slot) - 1)
            .sum()
    }

    /// Maps that a slot needs: one for its own range, one for each span of whole pages.
    pub fn maps_of(&self, slot: &Slot) -> usize {
        let mut begin = 0;
        let mut maps = 1;
        for span in &slot.spans {
            let end = self.layout.page_floor(span.end);
            maps += usize::from(end > begin);
            begin = end;
        }
        maps
    }
}
