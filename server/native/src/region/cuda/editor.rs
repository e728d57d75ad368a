//! Brings the device's page tables to what the bookkeeping wants: unmap behind the fence, map, one access call a run. Knows
//! the driver and the table; not why a page is wanted.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Geometry;
use super::driver::{Answer, Driver};
use super::fences::Fences;
use super::pages::{Pages, Reservation};
use super::statistics::Statistics;
use super::table::{Edit, Place, Shown, Table};
use crate::region::Access;

/// The one who edits page tables.
pub struct Editor {
    /// The device.
    pub driver: Arc<dyn Driver>,
    /// The region's sizes.
    pub geometry: Geometry,
    /// Steps in flight.
    pub fences: Fences,
    /// What it all cost.
    pub statistics: Statistics,
    /// The physical side.
    pub pages: Pages,
    /// The virtual side: every band's slots.
    pub range: Reservation,
    /// Whether the device knows read-only mappings; else shared pages are writable too.
    pub read_only: bool,
}

impl Editor {
    /// Makes the page tables show the wanted sets. Whatever is replaced, or taken from another place, waits for the fence
    /// behind its last use. Returns whether anything had to change.
    ///
    /// # Errors
    /// The call that failed; nothing is mapped then at the places wanted or displaced.
    pub fn commit(&self, table: &mut Table, wanted: &[Edit]) -> Answer<bool> {
        let mut edits = table.missing(wanted);
        if edits.is_empty() {
            return Ok(false);
        }
        let places = edits.iter().flat_map(|edit| table.displaced(edit));
        let displaced: BTreeMap<Place, Shown> = places
            .filter_map(|place| Some((place, table.shown(place)?)))
            .collect();
        let fence = displaced.keys().map(|place| table.fence_of(*place)).max();
        self.pass(fence.unwrap_or(0))?;
        edits.extend(self.holes(&edits, &displaced));
        edits.sort_by_key(|edit| edit.place);
        let mut mapped = 0;
        let done = self.replace(table, &edits, &displaced, &mut mapped);
        if done.is_err() {
            for edit in &edits[..mapped] {
                // The first failure is the one to tell.
                let _ = self.clear(table, edit.place);
            }
        }
        done.map(|()| true)
    }

    /// The fence that `commit` would wait for.
    pub fn fence_before(table: &Table, wanted: &[Edit]) -> u64 {
        let edits = table.missing(wanted);
        let places = edits.iter().flat_map(|edit| table.displaced(edit));
        places.map(|place| table.fence_of(place)).max().unwrap_or(0)
    }

    fn pass(&self, fence: u64) -> Answer<()> {
        let started = std::time::Instant::now();
        if self.fences.wait(&*self.driver, fence)? {
            self.statistics.fence.add(started);
        }
        Ok(())
    }

    /// A set taken from behind an open slot's end leaves a zero page there: kernels may load that far.
    fn holes(&self, edits: &[Edit], displaced: &BTreeMap<Place, Shown>) -> Vec<Edit> {
        let refilled = |place: &Place| edits.iter().any(|edit| edit.place == *place);
        let open = displaced
            .iter()
            .filter(|(place, shown)| shown.is_live() && !refilled(place));
        let zero = self.geometry.zero_set();
        open.map(|(place, _)| Edit {
            place: *place,
            set: zero,
            access: Access::ReadOnly,
        })
        .collect()
    }

    fn replace(
        &self,
        table: &mut Table,
        edits: &[Edit],
        displaced: &BTreeMap<Place, Shown>,
        mapped: &mut usize,
    ) -> Answer<()> {
        for place in displaced.keys() {
            self.clear(table, *place)?;
        }
        for edit in edits {
            self.map(edit)?;
            let live = displaced.get(&edit.place).is_some_and(Shown::is_live);
            table.note_shown(edit, live);
            *mapped += 1;
        }
        edits
            .chunk_by(|one, next| one.place + 1 == next.place && one.access == next.access)
            .try_for_each(|run| self.allow(run))
    }

    fn address(&self, band: u64, place: Place) -> u64 {
        self.range.address + (band * self.geometry.band_pages() + place) * self.geometry.page_bytes
    }

    /// Unmaps a place in every band.
    pub fn clear(&self, table: &mut Table, place: Place) -> Answer<()> {
        for band in 0..self.geometry.num_bands {
            let address = self.address(band, place);
            let bytes = self.geometry.page_bytes;
            self.statistics
                .unmap
                .time(|| self.driver.unmap(address, bytes))?;
        }
        table.note_cleared(place);
        Ok(())
    }

    fn map(&self, edit: &Edit) -> Answer<()> {
        let bytes = self.geometry.page_bytes;
        for band in 0..self.geometry.num_bands {
            let address = self.address(band, edit.place);
            let handle = self.pages.handle(edit.set, band);
            let mapped = self
                .statistics
                .map
                .time(|| self.driver.map(address, bytes, handle));
            if let Err(error) = mapped {
                for done in 0..band {
                    let _ = self.driver.unmap(self.address(done, edit.place), bytes);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn allow(&self, run: &[Edit]) -> Answer<()> {
        let Some(first) = run.first() else {
            return Ok(());
        };
        let access = if self.read_only {
            first.access
        } else {
            Access::ReadWrite
        };
        let bytes = run.len() as u64 * self.geometry.page_bytes;
        for band in 0..self.geometry.num_bands {
            let address = self.address(band, first.place);
            self.statistics
                .set_access
                .time(|| self.driver.set_access(address, bytes, access))?;
        }
        Ok(())
    }
}
