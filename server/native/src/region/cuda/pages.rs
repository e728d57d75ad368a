//! The physical pages of a region: all created at the start, zeroed, and kept mapped at a home address of their own, so that
//! copies need no page-table edit. Knows handles and addresses; not who uses a page.

use std::io;
use std::sync::Arc;

use super::Geometry;
use super::driver::{Answer, Driver, Entered, Handle, Stream};
use super::probe::Abilities;
use super::table::SetId;
use crate::region::Access;

/// Reserved addresses, given back in the end.
pub struct Reservation {
    driver: Arc<dyn Driver>,
    /// The first one.
    pub address: u64,
    bytes: u64,
}

impl Reservation {
    /// Reserves addresses for whole pages.
    pub fn new(driver: &Arc<dyn Driver>, bytes: u64, page_bytes: u64) -> Answer<Self> {
        // An alignment is a power of two: the largest that divides a page.
        let alignment = page_bytes & page_bytes.wrapping_neg();
        Ok(Self {
            driver: Arc::clone(driver),
            address: driver.reserve(bytes, alignment)?,
            bytes,
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let _context = Entered::new(&*self.driver);
        // Nobody is left to tell; the fake driver's tests see a refusal.
        let _ = self.driver.free(self.address, self.bytes);
    }
}

/// Handles and their home addresses.
pub struct Pages {
    driver: Arc<dyn Driver>,
    geometry: Geometry,
    handles: Vec<Handle>,
    homes: Reservation,
    /// How many of the handles are mapped at home.
    homed: usize,
}

impl Pages {
    /// Creates every page of the budget, filled with zeros.
    ///
    /// # Errors
    /// The call that failed, and at which page.
    pub fn create(
        driver: &Arc<dyn Driver>,
        geometry: Geometry,
        abilities: Abilities,
    ) -> io::Result<Self> {
        let bytes = geometry.num_handles() * geometry.page_bytes;
        let mut pages = Self {
            driver: Arc::clone(driver),
            geometry,
            handles: Vec::new(),
            homes: Reservation::new(driver, bytes, geometry.page_bytes)?,
            homed: 0,
        };
        pages.fill()?;
        driver.set_access(pages.homes.address, bytes, Access::ReadWrite)?;
        driver.zero(pages.homes.address, bytes, 0)?;
        // A synchronous read on the default stream waits for the zeros.
        driver.read(pages.homes.address, &mut [0])?;
        if !abilities.aliasing {
            pages.leave_homes()?;
        }
        Ok(pages)
    }

    fn fill(&mut self) -> io::Result<()> {
        let (total, bytes) = (self.geometry.num_handles(), self.geometry.page_bytes);
        for number in 0..total {
            let created = self.create_one(number);
            created.map_err(|error| {
                let kind = io::Error::from(error.clone()).kind();
                let what = format!("page {number} of {total}, {bytes} bytes each (--kv-memory)");
                io::Error::new(kind, format!("{what}: {error}"))
            })?;
        }
        Ok(())
    }

    fn create_one(&mut self, number: u64) -> Answer<()> {
        let bytes = self.geometry.page_bytes;
        let handle = self.driver.create(bytes)?;
        self.handles.push(handle);
        self.driver
            .map(self.homes.address + number * bytes, bytes, handle)?;
        self.homed += 1;
        Ok(())
    }

    fn leave_homes(&mut self) -> Answer<()> {
        let bytes = self.geometry.page_bytes;
        while self.homed > 0 {
            self.homed -= 1;
            let address = self.homes.address + self.homed as u64 * bytes;
            self.driver.unmap(address, bytes)?;
        }
        Ok(())
    }

    fn number(&self, set: SetId, band: u64) -> u64 {
        // The zero page is one for all bands.
        if set == self.geometry.zero_set() {
            u64::from(set) * self.geometry.num_bands
        } else {
            u64::from(set) * self.geometry.num_bands + band
        }
    }

    /// The handle of a set in a band.
    pub fn handle(&self, set: SetId, band: u64) -> Handle {
        self.handles[self.number(set, band) as usize]
    }

    /// Copies bytes from one set to another in every band, in the stream's order.
    pub fn copy(&self, from: Spot, to: Spot, bytes: u64, stream: Stream) -> Answer<()> {
        for band in 0..self.geometry.num_bands {
            let (to, from) = (self.home(to, band), self.home(from, band));
            self.driver.copy(to, from, bytes, stream)?;
        }
        Ok(())
    }

    fn home(&self, spot: Spot, band: u64) -> u64 {
        let page = self.number(spot.set, band);
        self.homes.address + page * self.geometry.page_bytes + spot.byte
    }
}

/// A byte of a set, the same in every band.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    /// The set.
    pub set: SetId,
    /// Byte within its page.
    pub byte: u64,
}

impl Drop for Pages {
    fn drop(&mut self) {
        let driver = Arc::clone(&self.driver);
        let _context = Entered::new(&*driver);
        // Nobody is left to tell; the fake driver's tests see a refusal.
        let _ = self.leave_homes();
        for handle in self.handles.drain(..) {
            let _ = driver.release(handle);
        }
    }
}
