//! The KV region: slots of virtual memory over storages of physical pages. Knows tokens, pages and who shows what; not
//! layers, dtypes or sequences.

mod backend;
mod book;
pub mod cuda;
mod error;
mod layout;
pub mod memfd;
mod operation;
mod plan;
mod pool;
#[cfg(test)]
mod tests;
mod trim;

pub use backend::{Access, Backend};
pub use book::{Book, Reader, Slot, Span, Storage, StorageState};
pub use error::RegionError;
pub use layout::Layout;
pub use operation::{Operation, kind_name};
pub use plan::Row;
pub use pool::PagePool;

use std::io;
use std::sync::Arc;

/// Bookkeeping and memory together. An operation is checked, done in memory, then noted.
pub struct Region {
    book: Book,
    memory: Box<dyn Backend>,
    epoch: u64,
    is_broken: bool,
}

fn kernel(what: &'static str) -> impl FnOnce(io::Error) -> RegionError {
    move |source| RegionError::Kernel { what, source }
}

impl Region {
    /// A region over the given memory that draws on `pool`; every slot closed.
    ///
    /// # Errors
    /// When the slots could need more maps than the memory allows, or slot 0 cannot be mapped.
    pub fn new(
        layout: Layout,
        memory: Box<dyn Backend>,
        pool: Arc<PagePool>,
    ) -> Result<Self, RegionError> {
        layout.check_maps(memory.max_maps())?;
        // The reserved slot is always mapped.
        memory
            .map(0, 0, layout.slot_bytes(), Access::ReadWrite)
            .map_err(kernel("mmap of slot 0"))?;
        Ok(Self {
            book: Book::new(layout, pool),
            memory,
            epoch: 0,
            is_broken: false,
        })
    }

    /// The sizes.
    pub fn layout(&self) -> &Layout {
        &self.book.layout
    }

    /// Who owns and shows what.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// Address of slot 0.
    pub fn address(&self) -> usize {
        self.memory.address()
    }

    /// Grows with every change, so that a user of addresses can tell whether his checks still hold.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Pages owned by all storages, by our own account.
    pub fn pages_used(&self) -> u64 {
        self.book.pages_used
    }

    /// The pages it draws on.
    pub fn pool(&self) -> &Arc<PagePool> {
        &self.book.pool
    }

    /// Bytes the kernel holds for the region.
    pub fn resident_bytes(&self) -> Result<u64, RegionError> {
        self.memory.resident_bytes().map_err(kernel("fstat"))
    }

    /// Applies one operation, wholly or not at all.
    ///
    /// # Errors
    /// The reason it was refused; the region is as it was. After a failed memory call only `reset` is possible.
    pub fn apply(&mut self, operation: Operation) -> Result<(), RegionError> {
        if self.is_broken {
            return Err(RegionError::Broken);
        }
        self.epoch += 1;
        let done = self.apply_one(operation);
        self.is_broken = done.as_ref().is_err_and(RegionError::is_fatal);
        done
    }

    fn apply_one(&mut self, operation: Operation) -> Result<(), RegionError> {
        match operation {
            Operation::Open {
                slot,
                storage,
                tokens,
            } => self.open(slot, storage, tokens),
            Operation::Share { slot, storage, end } => self.share(slot, storage, end),
            Operation::Grow { slot, end } => self.grow(slot, end),
            Operation::TrimFront { slot, begin } => self.trim_front(slot, begin),
            Operation::Close { slot, keep } => self.close(slot, keep),
            // Behind its end a storage has nothing to give up.
            Operation::Truncate { storage, end } => {
                let owned = self.book.used_storage(storage)?.end;
                self.truncate(storage, end.min(owned))
            }
            Operation::Drop { storage } => self.drop_storage(storage),
        }
    }

    /// Closes every slot and gives every page back.
    ///
    /// # Errors
    /// When the kernel refuses to unmap or to punch.
    pub fn reset(&mut self) -> Result<(), RegionError> {
        self.is_broken = false;
        self.book.void.fill(false);
        let open: Vec<u32> = (1..self.layout().num_slots)
            .filter(|slot| self.book.slot(*slot).is_ok())
            .collect();
        for slot in open {
            self.apply(Operation::Close { slot, keep: true })?;
        }
        let cached: Vec<u32> = (1..self.layout().num_storages)
            .filter(|id| self.book.used_storage(*id).is_ok())
            .collect();
        for storage in cached {
            self.apply(Operation::Drop { storage })?;
        }
        Ok(())
    }

    fn open(&mut self, slot: u32, storage: u32, tokens: u32) -> Result<(), RegionError> {
        self.book.check_slot_number(slot)?;
        if self.book.slot(slot).is_ok() {
            return Err(RegionError::Refused(format!("slot {slot} is already open")));
        }
        let found = self.book.storage(storage)?.clone();
        match found.state {
            StorageState::Live => {
                return Err(RegionError::Refused(format!(
                    "storage {storage} has a writer"
                )));
            }
            StorageState::Free if tokens != 0 => {
                return Err(RegionError::Refused(format!(
                    "storage {storage} is new, it cannot be opened at token {tokens}"
                )));
            }
            StorageState::Free => {}
            // The slot will write from `tokens` on.
            StorageState::Cached => self
                .book
                .check_unread(storage, self.layout().page_floor(tokens))?,
        }
        if found.state == StorageState::Cached {
            self.truncate(storage, tokens)?;
        }
        let layout = *self.layout();
        let mapped = self.memory.map(
            layout.range_start(slot),
            layout.range_start(storage),
            layout.slot_bytes(),
            Access::ReadWrite,
        );
        mapped.map_err(kernel("mmap of a slot"))?;
        let settled = found.state == StorageState::Cached;
        self.book.set_extent(
            storage,
            StorageState::Live,
            found.start,
            tokens.max(found.start),
        );
        self.book.slots[slot as usize] = Some(Slot {
            spans: Vec::new(),
            own: storage,
            settled,
            begin: 0,
            grown: false,
        });
        Ok(())
    }

    fn share(&mut self, slot: u32, storage: u32, end: u32) -> Result<(), RegionError> {
        let open = self.book.slot(slot)?.clone();
        self.check_share(&open, storage, end)?;
        let own = self.book.storage(open.own)?.clone();
        let moves_start = !open.settled;
        if moves_start {
            self.move_start(open.own, storage, end)?;
        }
        if let Err(error) = self.map_span(slot, &open, storage, end) {
            if moves_start {
                let _ = self.give_back(
                    open.own,
                    self.layout().page_floor(end),
                    self.layout().page_ceil(end),
                );
                self.book
                    .set_extent(open.own, StorageState::Live, own.start, own.end);
            }
            return Err(error);
        }
        let begin = open.shared_end();
        self.book.storages[storage as usize]
            .readers
            .push(Reader { slot, begin, end });
        if let Some(Some(slot)) = self.book.slots.get_mut(slot as usize) {
            slot.spans.push(Span { storage, end });
        }
        Ok(())
    }

    fn check_share(&self, open: &Slot, storage: u32, end: u32) -> Result<(), RegionError> {
        let refuse = |message: String| Err(RegionError::Refused(message));
        let owner = self.book.used_storage(storage)?;
        let own = self.book.storage(open.own)?;
        let shown = open.shared_end();
        if !self.memory.can_alias() {
            return refuse("this device cannot show a page at two addresses (tried at the start): nothing is shared".into());
        }
        if storage == open.own {
            return refuse(format!("storage {storage} is the slot's own"));
        }
        if open.settled && end > own.start {
            return refuse(format!(
                "the slot's own tokens begin at {}, so it cannot share up to {end}",
                own.start
            ));
        }
        if end <= shown || owner.start > shown || owner.end < end {
            let owned = format!("owns tokens {} to {}", owner.start, owner.end);
            return refuse(format!(
                "storage {storage} {owned}, it cannot show {shown} to {end}"
            ));
        }
        let limit = self.book.layout.max_spans;
        if open.spans.len() >= limit as usize {
            return refuse(format!(
                "the slot shows {limit} spans of other storages, which is the limit (vm.max_map_count)"
            ));
        }
        Ok(())
    }

    /// The slot's own storage, still empty, begins at `end`: its first page gets a copy of what precedes.
    fn move_start(&mut self, own: u32, owner: u32, end: u32) -> Result<(), RegionError> {
        let layout = *self.layout();
        let before = self.book.storage(own)?.clone();
        let (first, last) = (layout.page_floor(end), layout.page_ceil(end));
        self.book
            .check_pool((last - first).saturating_sub(self.book.owned_pages(&before)))?;
        let begin = first * layout.page_bytes;
        let bytes = layout.token_byte(end) - begin;
        if bytes > 0 {
            let copied = self.memory.copy(
                layout.range_start(owner) + begin,
                layout.range_start(own) + begin,
                bytes,
            );
            copied.map_err(kernel("copy of a shared page"))?;
        }
        let (old_first, old_last) = (
            layout.page_floor(before.start),
            layout.page_ceil(before.start),
        );
        if old_first != first {
            self.give_back(own, old_first, old_last)?;
        }
        self.book.set_extent(own, StorageState::Live, end, end);
        Ok(())
    }

    fn map_span(&self, slot: u32, open: &Slot, owner: u32, end: u32) -> Result<(), RegionError> {
        let layout = self.layout();
        let begin = layout.page_floor(open.shared_end()) * layout.page_bytes;
        let bytes = layout.page_floor(end) * layout.page_bytes - begin;
        if bytes == 0 {
            return Ok(());
        }
        let mapped = self.memory.map(
            layout.range_start(slot) + begin,
            layout.range_start(owner) + begin,
            bytes,
            Access::ReadOnly,
        );
        mapped.map_err(kernel("mmap of a shared span"))
    }

    fn grow(&mut self, slot: u32, end: u32) -> Result<(), RegionError> {
        self.book.check_tokens(end)?;
        let open = self.book.slot(slot)?.clone();
        let own = self.book.storage(open.own)?.clone();
        if own.start != open.shared_end() {
            let message = format!(
                "slot {slot} shares {} tokens, its storage begins at {}",
                open.shared_end(),
                own.start
            );
            return Err(RegionError::Refused(message));
        }
        if end < own.end {
            return Err(RegionError::Refused(format!(
                "slot {slot} already holds {} tokens, more than {end}",
                own.end
            )));
        }
        let layout = *self.layout();
        let first = layout.page_floor(own.start) + self.book.owned_pages(&own);
        let needed = layout.page_ceil(end).saturating_sub(first);
        self.book.check_pool(needed)?;
        if needed > 0 {
            let at = layout.range_start(slot) + first * layout.page_bytes;
            self.memory
                .populate(at, needed * layout.page_bytes)
                .map_err(kernel("populating pages"))?;
        }
        self.book
            .set_extent(open.own, StorageState::Live, own.start, end);
        if let Some(Some(slot)) = self.book.slots.get_mut(slot as usize) {
            (slot.settled, slot.grown) = (true, true);
        }
        Ok(())
    }

    /// A slot that is not open is one whose opening was refused: then there is nothing to do.
    fn close(&mut self, slot: u32, keep: bool) -> Result<(), RegionError> {
        self.book.check_slot_number(slot)?;
        let Ok(open) = self.book.slot(slot).cloned() else {
            self.book.set_void(slot, false);
            return Ok(());
        };
        let own = self.book.storage(open.own)?.clone();
        if !keep {
            self.book.check_unread(open.own, 0)?;
        }
        let layout = *self.layout();
        self.memory
            .unmap(layout.range_start(slot), layout.slot_bytes())
            .map_err(kernel("unmapping a slot"))?;
        for span in &open.spans {
            self.book.storages[span.storage as usize]
                .readers
                .retain(|reader| reader.slot != slot);
        }
        self.book.slots[slot as usize] = None;
        self.book.set_void(slot, false);
        self.book
            .set_extent(open.own, StorageState::Cached, own.start, own.end);
        if keep {
            Ok(())
        } else {
            self.drop_storage(open.own)
        }
    }

    fn truncate(&mut self, storage: u32, end: u32) -> Result<(), RegionError> {
        let found = self.book.used_storage(storage)?.clone();
        if end < found.start || end > found.end {
            let message = format!(
                "storage {storage} owns tokens {} to {}, it cannot be cut to {end}",
                found.start, found.end
            );
            return Err(RegionError::Refused(message));
        }
        let layout = *self.layout();
        let kept = layout.page_ceil(end);
        // A writer will write again from `end` on, also into a page that stays.
        let touched = match found.state {
            StorageState::Live => layout.page_floor(end),
            _ => kept,
        };
        self.book.check_unread(storage, touched)?;
        self.give_back(
            storage,
            kept,
            layout.page_floor(found.start) + self.book.owned_pages(&found),
        )?;
        self.book.set_extent(storage, found.state, found.start, end);
        Ok(())
    }

    fn drop_storage(&mut self, storage: u32) -> Result<(), RegionError> {
        let found = self.book.used_storage(storage)?.clone();
        if found.state == StorageState::Live {
            return Err(RegionError::Refused(format!(
                "storage {storage} has a writer"
            )));
        }
        self.book.check_unread(storage, 0)?;
        let first = self.layout().page_floor(found.start);
        self.give_back(storage, first, first + self.book.owned_pages(&found))?;
        self.book.set_extent(storage, StorageState::Free, 0, 0);
        Ok(())
    }

    /// Releases pages [first, last) of a storage.
    fn give_back(&self, storage: u32, first: u64, last: u64) -> Result<(), RegionError> {
        if last <= first {
            return Ok(());
        }
        let layout = self.layout();
        let at = layout.range_start(storage) + first * layout.page_bytes;
        self.memory
            .release(at, (last - first) * layout.page_bytes)
            .map_err(kernel("punching pages"))
    }
}
