//! What the driver's page-table calls cost, one kind after the other. Knows the driver; not the region.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::driver::{Answer, Driver, Entered, Handle};
use super::pages::Reservation;
use crate::region::Access;

/// Costs in ns a call, over `num_pages` pages of `page_bytes` each, mapped as one run.
///
/// # Errors
/// A size that cannot be (`InvalidInput`), or the call that failed.
pub fn bench_map(
    driver: &Arc<dyn Driver>,
    page_bytes: u64,
    num_pages: u64,
) -> io::Result<Vec<(&'static str, f64)>> {
    let _context = Entered::new(&**driver)?;
    let granularity = driver.memory()?.granularity;
    let bytes = page_bytes.checked_mul(num_pages).filter(|bytes| *bytes > 0);
    let fits =
        |bytes: &u64| page_bytes.is_multiple_of(granularity) && i64::try_from(*bytes).is_ok();
    let Some(bytes) = bytes.filter(fits) else {
        let message = format!(
            "page_bytes is {page_bytes} and num_pages {num_pages}: page_bytes must be a positive multiple of {granularity}, num_pages at least 1"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    };
    let mut bench = Bench {
        ranges: [
            Reservation::new(driver, bytes, page_bytes)?,
            Reservation::new(driver, bytes, page_bytes)?,
        ],
        driver: Arc::clone(driver),
        handles: Vec::new(),
        mapped: [0, 0],
        page_bytes,
        rows: Vec::new(),
    };
    bench.run(num_pages)?;
    Ok(std::mem::take(&mut bench.rows))
}

/// Handles and the two ranges they are shown at.
struct Bench {
    driver: Arc<dyn Driver>,
    handles: Vec<Handle>,
    ranges: [Reservation; 2],
    mapped: [u64; 2],
    page_bytes: u64,
    rows: Vec<(&'static str, f64)>,
}

impl Bench {
    fn run(&mut self, pages: u64) -> Answer<()> {
        let (driver, bytes) = (Arc::clone(&self.driver), self.page_bytes);
        self.timed("create", pages, |bench, _| {
            bench.handles.push(driver.create(bytes)?);
            Ok(())
        })?;
        self.show(0, ["map", "set_access_run"], pages)?;
        self.timed("set_access", pages, |bench, page| {
            driver.set_access(bench.address(0, page), bytes, Access::ReadWrite)
        })?;
        self.waited("zero_page", pages, |bench, page| {
            driver.zero(bench.address(0, page), bytes, 0)
        })?;
        self.waited("copy_page", pages / 2, |bench, page| {
            let (to, from) = (bench.address(0, page + pages / 2), bench.address(0, page));
            driver.copy(to, from, bytes, 0)
        })?;
        self.show(1, ["alias_map", "alias_set_access_run"], pages)?;
        self.timed("alias_unmap", pages, |bench, _| bench.unmap(1))?;
        self.timed("unmap", pages, |bench, _| bench.unmap(0))?;
        self.timed("release", pages, |bench, _| bench.release())
    }

    fn address(&self, range: usize, page: u64) -> u64 {
        self.ranges[range].address + page * self.page_bytes
    }

    fn show(&mut self, range: usize, names: [&'static str; 2], pages: u64) -> Answer<()> {
        let (driver, bytes) = (Arc::clone(&self.driver), self.page_bytes);
        self.timed(names[0], pages, |bench, page| {
            driver.map(
                bench.address(range, page),
                bytes,
                bench.handles[page as usize],
            )?;
            bench.mapped[range] += 1;
            Ok(())
        })?;
        self.timed(names[1], 1, |bench, _| {
            driver.set_access(bench.address(range, 0), pages * bytes, Access::ReadWrite)
        })
    }

    fn unmap(&mut self, range: usize) -> Answer<()> {
        self.mapped[range] -= 1;
        let address = self.address(range, self.mapped[range]);
        self.driver.unmap(address, self.page_bytes)
    }

    fn release(&mut self) -> Answer<()> {
        let last = self.handles.pop();
        last.map_or(Ok(()), |handle| self.driver.release(handle))
    }

    fn timed(
        &mut self,
        name: &'static str,
        calls: u64,
        work: impl Fn(&mut Self, u64) -> Answer<()>,
    ) -> Answer<()> {
        self.timed_until(name, calls, work, |_| Ok(()))
    }

    fn timed_until(
        &mut self,
        name: &'static str,
        calls: u64,
        work: impl Fn(&mut Self, u64) -> Answer<()>,
        done: impl Fn(&Self) -> Answer<()>,
    ) -> Answer<()> {
        let started = Instant::now();
        for page in 0..calls {
            work(self, page)?;
        }
        done(self)?;
        self.note(name, calls, started);
        Ok(())
    }

    /// As `timed`, for work that the device does later: a read on its stream waits for it.
    fn waited(
        &mut self,
        name: &'static str,
        calls: u64,
        work: impl Fn(&mut Self, u64) -> Answer<()>,
    ) -> Answer<()> {
        self.timed_until(name, calls, work, |bench| {
            bench.driver.read(bench.address(0, 0), &mut [0])
        })
    }

    fn note(&mut self, name: &'static str, calls: u64, started: Instant) {
        if calls > 0 {
            let ns = started.elapsed().as_nanos() as f64;
            self.rows.push((name, ns / calls as f64));
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // After a failure; nobody is left to tell of a second one.
        for range in [1, 0] {
            while self.mapped[range] > 0 {
                let _ = self.unmap(range);
            }
        }
        while !self.handles.is_empty() {
            let _ = self.release();
        }
    }
}
