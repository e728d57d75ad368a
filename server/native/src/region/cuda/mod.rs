//! Memory of a region on a CUDA device: page sets behind storages, mapped under slots by the driver. Knows bytes and steps in
//! flight; not tokens.

mod ahead;
pub mod bench;
pub mod driver;
mod editor;
pub mod fake_driver;
mod fences;
mod geometry;
pub mod library;
mod pages;
mod probe;
mod shared;
mod statistics;
mod table;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use self::ahead::Ahead;
use self::driver::{Driver, Entered, Stream};
use self::editor::Editor;
use self::fences::Fences;
pub use self::geometry::Geometry;
use self::pages::{Pages, Reservation};
use self::shared::Shared;
use self::statistics::Statistics;
use self::table::{Edit, SetId, Table};
use super::backend::{Access, Backend};

/// The names of `Memory::statistics`, all 0: for memory without page tables to edit.
pub fn no_statistics() -> Vec<(&'static str, u64)> {
    Statistics::default().rows(0, 0)
}

/// A region's memory on a device.
pub struct Memory {
    // Dropped first: the thread ends before what it works on.
    ahead: Ahead,
    shared: Arc<Shared>,
    aliasing: bool,
}

impl Memory {
    /// Creates all pages and reserves all addresses.
    ///
    /// # Errors
    /// A size that cannot be (`InvalidInput`), or the driver's call that failed.
    pub fn new(driver: Arc<dyn Driver>, geometry: Geometry) -> io::Result<Self> {
        let context = Entered::new(&*driver)?;
        geometry.check(driver.memory()?.granularity)?;
        let found = probe::probe(&driver, geometry.page_bytes)?;
        if !found.aliasing && geometry.tail_pages > 0 {
            let message =
                "tail_tokens needs a device that can show a page at two addresses; this one cannot";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        let bytes = geometry.num_bands * geometry.band_pages() * geometry.page_bytes;
        let editor = Editor {
            geometry,
            fences: Fences::default(),
            statistics: Statistics::default(),
            pages: Pages::create(&driver, geometry, found)?,
            range: Reservation::new(&driver, bytes, geometry.page_bytes)?,
            read_only: found.read_only,
            driver: Arc::clone(&driver),
        };
        let shared = Arc::new(Shared::new(Table::new(geometry), editor));
        let limit = geometry.num_pages.min(1 << 20) as usize;
        let memory = Self {
            ahead: Ahead::start(Arc::clone(&shared), limit)?,
            shared,
            aliasing: found.aliasing,
        };
        memory.show_scratch()?;
        drop(context);
        Ok(memory)
    }

    /// Slot 0 is always there: one page, for rows that only fill a batch.
    fn show_scratch(&self) -> io::Result<()> {
        let scratch = Edit {
            place: 0,
            set: self.geometry().scratch_set(),
            access: Access::ReadWrite,
        };
        let mut table = self.shared.lock();
        self.shared.show_live(&mut table, &[scratch])?;
        Ok(())
    }

    /// Whether a page may be shown at two addresses.
    pub fn aliasing(&self) -> bool {
        self.aliasing
    }

    fn geometry(&self) -> &Geometry {
        &self.shared.editor.geometry
    }

    fn enter(&self) -> io::Result<Entered<'_>> {
        Ok(Entered::new(&*self.shared.editor.driver)?)
    }

    /// Whole pages of a byte range.
    fn pages(&self, offset: u64, bytes: u64) -> Range<u64> {
        let page = self.geometry().page_bytes;
        offset / page..(offset + bytes).div_ceil(page)
    }

    /// Says that the kernels launched so far on the stream may touch what slots show now.
    pub fn fence(&self, stream: Stream) -> io::Result<()> {
        let _context = self.enter()?;
        let editor = &self.shared.editor;
        // Under the table's lock, so that no page table is edited between the fence and the note of it.
        let mut table = self.shared.lock();
        let number = editor.fences.record(&*editor.driver, stream)?;
        table.note_fence(number);
        Ok(())
    }

    /// Asks the mapping thread for pages.
    pub fn prefetch(&self, virtual_offset: u64, bytes: u64) {
        self.ahead.ask(self.pages(virtual_offset, bytes));
    }

    /// Has the pages behind a growth mapped ahead, as far as the slot goes.
    fn ask_behind(&self, end: u64) {
        let geometry = self.geometry();
        let slot_end = end.next_multiple_of(geometry.slot_pages);
        let last = slot_end.min(end + geometry.ahead_pages);
        if last > end {
            self.ahead.ask(end..last);
        }
    }

    /// Waits until the mapping thread has nothing to do. Returns whether that was reached in time.
    pub fn settle(&self, limit: Duration) -> bool {
        self.ahead.settle(limit)
    }

    /// Names and numbers of what page tables cost so far.
    pub fn statistics(&self) -> Vec<(&'static str, u64)> {
        let table = self.shared.lock();
        let rows = &self.shared.editor.statistics;
        rows.rows(table.num_idle(), table.num_parked())
    }

    /// Shows physical pages of other storages, or copies of them where they are few.
    fn show_shared(&self, places: Range<u64>, physical: Range<u64>) -> io::Result<()> {
        let mut table = self.shared.lock();
        let sets: Option<Vec<SetId>> = physical.map(|page| table.behind(page)).collect();
        let Some(sets) = sets else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a shared page has no memory",
            ));
        };
        let few = (sets.len() as u64) < self.geometry().copy_below_pages;
        if few && sets.len() as u64 <= table.num_idle() {
            drop(table);
            return self.shared.show_copies(places, &sets);
        }
        let edits: Vec<Edit> = places
            .zip(sets)
            .map(|(place, set)| Edit {
                place,
                set,
                access: Access::ReadOnly,
            })
            .collect();
        // No tail: what the slot grows next stands behind.
        self.shared.show(&mut table, &edits)?;
        Ok(())
    }

    /// A slot writes the storage from now on: what the storage has is shown.
    fn seat(&self, places: Range<u64>, physical: Range<u64>) -> io::Result<()> {
        let pages = self.geometry().slot_pages;
        let mut table = self.shared.lock();
        // What the slot shows there of others is over.
        table.leave(places.clone());
        let edits: Vec<Edit> = table
            .filled(physical.clone())
            .into_iter()
            .map(|(page, set)| Edit {
                place: places.start + (page - physical.start),
                set,
                access: Access::ReadWrite,
            })
            .collect();
        self.shared.show_live(&mut table, &edits)?;
        table.seat(places.start / pages, physical.start / pages);
        Ok(())
    }
}

/// A region holds one end, whoever fences and prefetches the other.
impl Backend for Arc<Memory> {
    fn address(&self) -> usize {
        self.shared.editor.range.address as usize
    }

    fn map(
        &self,
        virtual_offset: u64,
        physical_offset: u64,
        bytes: u64,
        access: Access,
    ) -> io::Result<()> {
        let _context = self.enter()?;
        let (places, physical) = (
            self.pages(virtual_offset, bytes),
            self.pages(physical_offset, bytes),
        );
        match access {
            Access::ReadOnly => self.show_shared(places, physical),
            Access::ReadWrite => self.seat(places, physical),
        }
    }

    fn unmap(&self, virtual_offset: u64, bytes: u64) -> io::Result<()> {
        let places = self.pages(virtual_offset, bytes);
        let pages = self.geometry().slot_pages;
        let mut table = self.shared.lock();
        table.leave(places.clone());
        if places.end - places.start == pages {
            table.unseat(places.start / pages);
        }
        Ok(())
    }

    fn populate(&self, virtual_offset: u64, bytes: u64) -> io::Result<()> {
        let _context = self.enter()?;
        let places = self.pages(virtual_offset, bytes);
        self.shared.grow(places.clone())?;
        self.ask_behind(places.end);
        Ok(())
    }

    fn copy(&self, from: u64, to: u64, bytes: u64) -> io::Result<()> {
        let _context = self.enter()?;
        let page = self.geometry().page_bytes;
        let mut done = 0;
        while done < bytes {
            let (source, target) = (from + done, to + done);
            let run = (bytes - done)
                .min(page - source % page)
                .min(page - target % page);
            self.shared.copy_bytes(
                (source / page, source % page),
                (target / page, target % page),
                run,
            )?;
            done += run;
        }
        Ok(())
    }

    fn release(&self, physical_offset: u64, bytes: u64) -> io::Result<()> {
        let physical = self.pages(physical_offset, bytes);
        self.shared.lock().release(physical);
        Ok(())
    }

    fn resident_bytes(&self) -> io::Result<u64> {
        Ok(self.shared.lock().num_owned() * self.geometry().page_bytes)
    }

    fn max_maps(&self) -> usize {
        usize::MAX
    }

    fn can_alias(&self) -> bool {
        self.aliasing
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.ahead.stop();
        // Nobody is left to tell; the fake driver's tests see a refusal.
        let _ = self.shared.close();
    }
}
