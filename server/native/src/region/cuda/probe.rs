//! What this device's page tables can really do, tried at the start: some drivers map a page twice, report success and show
//! different memory. Knows the driver; not the region.

use std::io;
use std::sync::Arc;

use super::driver::{Answer, Driver, Handle};
use super::pages::Reservation;
use crate::region::Access;

/// The device's abilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// One page may be shown at two addresses.
    pub aliasing: bool,
    /// A mapping may be read-only.
    pub read_only: bool,
}

const PATTERNS: [[u8; 8]; 2] = [*b"ribbon-1", *b"ribbon-2"];

/// Maps one page twice, writes through each address and reads through the other.
///
/// # Errors
/// When the device cannot even map a page once.
pub fn probe(driver: &Arc<dyn Driver>, page_bytes: u64) -> io::Result<Abilities> {
    let range = Reservation::new(driver, 2 * page_bytes, page_bytes)?;
    let handle = driver.create(page_bytes)?;
    let (first, second) = (range.address, range.address + page_bytes);
    let found = show(&**driver, first, page_bytes, handle).and_then(|()| {
        let abilities = twice(&**driver, (first, second), page_bytes, handle);
        driver.unmap(first, page_bytes)?;
        abilities
    });
    driver.release(handle)?;
    Ok(found?)
}

fn show(driver: &dyn Driver, address: u64, bytes: u64, handle: Handle) -> Answer<()> {
    driver.map(address, bytes, handle)?;
    let allowed = driver.set_access(address, bytes, Access::ReadWrite);
    if allowed.is_err() {
        driver.unmap(address, bytes)?;
    }
    allowed
}

/// The second mapping may be refused or wrong: that is an answer, not a failure.
fn twice(
    driver: &dyn Driver,
    (first, second): (u64, u64),
    bytes: u64,
    handle: Handle,
) -> Answer<Abilities> {
    let mut found = Abilities {
        aliasing: false,
        read_only: false,
    };
    if show(driver, second, bytes, handle).is_err() {
        return Ok(found);
    }
    found.aliasing = agree(driver, (first, second)).unwrap_or(false);
    let closed = driver.set_access(second, bytes, Access::ReadOnly);
    found.read_only = closed.is_ok() && driver.read(second, &mut [0; 8]).is_ok();
    driver.unmap(second, bytes)?;
    Ok(found)
}

fn agree(driver: &dyn Driver, (first, second): (u64, u64)) -> Answer<bool> {
    for pattern in PATTERNS {
        if !passes(driver, first, second, pattern)? || !passes(driver, second, first, pattern)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether bytes written at one address are read at the other.
fn passes(driver: &dyn Driver, to: u64, from: u64, pattern: [u8; 8]) -> Answer<bool> {
    let mut seen = [0; 8];
    driver.write(to, &[0; 8])?;
    driver.read(from, &mut seen)?;
    let cleared = seen == [0; 8];
    driver.write(to, &pattern)?;
    driver.read(from, &mut seen)?;
    Ok(cleared && seen == pattern)
}
