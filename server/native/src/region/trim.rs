//! Gives up the front of a slot, as windows of attention move on. Knows spans and pages; not windows.

use super::{Access, Region, RegionError, Slot, Storage, StorageState, kernel};

impl Region {
    /// The slot shows nothing before `begin` any more. Spans of others that end there are let go and their pages stay; pages of
    /// its own that lie wholly before it are given back. A slot that shows nothing yet only learns where it will begin.
    pub(super) fn trim_front(&mut self, slot: u32, begin: u32) -> Result<(), RegionError> {
        self.book.check_tokens(begin)?;
        let open = self.book.slot(slot)?.clone();
        if begin <= open.begin {
            return Ok(());
        }
        let own = self.book.storage(open.own)?.clone();
        self.check_trim(slot, &open, &own, begin)?;
        let passed = open.spans.iter().filter(|span| span.end <= begin).count();
        self.let_spans_go(slot, &open, passed)?;
        if own.start < begin && begin <= own.end {
            let layout = self.layout();
            let pages = (layout.page_floor(own.start), layout.page_floor(begin));
            self.give_back(open.own, pages.0, pages.1)?;
            self.book
                .set_extent(open.own, StorageState::Live, begin, own.end);
        }
        self.forget_front(slot, &open, begin);
        if let Some(Some(slot)) = self.book.slots.get_mut(slot as usize) {
            slot.begin = begin;
            slot.spans.drain(..passed);
        }
        Ok(())
    }

    fn check_trim(
        &self,
        slot: u32,
        open: &Slot,
        own: &Storage,
        begin: u32,
    ) -> Result<(), RegionError> {
        let is_empty = !open.settled && open.spans.is_empty();
        let inside_own = (own.start..=own.end).contains(&begin);
        let shown = self.book.shown_tokens(slot)?;
        if !is_empty && !inside_own && begin > shown {
            return Err(RegionError::Refused(format!(
                "slot {slot} shows {shown} tokens, fewer than {begin}"
            )));
        }
        if inside_own {
            self.book.check_front_unread(open.own, begin)?;
        }
        Ok(())
    }

    /// Shows the slot's own range where the first `passed` spans were, so that no other storage's page is in reach.
    fn let_spans_go(&self, slot: u32, open: &Slot, passed: usize) -> Result<(), RegionError> {
        let Some(last) = passed
            .checked_sub(1)
            .and_then(|index| open.spans.get(index))
        else {
            return Ok(());
        };
        let layout = self.layout();
        let first = layout.page_floor(open.begin) * layout.page_bytes;
        let bytes = (layout.page_floor(last.end) * layout.page_bytes).saturating_sub(first);
        if bytes == 0 {
            return Ok(());
        }
        let mapped = self.memory.map(
            layout.range_start(slot) + first,
            layout.range_start(open.own) + first,
            bytes,
            Access::ReadWrite,
        );
        mapped.map_err(kernel("mmap of a slot's front"))
    }

    /// What the slot reads of others begins later, or is over.
    fn forget_front(&mut self, slot: u32, open: &Slot, begin: u32) {
        for span in &open.spans {
            let readers = &mut self.book.storages[span.storage as usize].readers;
            readers.retain(|reader| reader.slot != slot || reader.end > begin);
            for reader in readers.iter_mut().filter(|reader| reader.slot == slot) {
                reader.begin = reader.begin.max(begin);
            }
        }
    }
}
