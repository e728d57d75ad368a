//! What exists on the pretended device, and the rules about it.

use std::collections::BTreeMap;

use super::INVALID_VALUE;
use crate::region::Access;
use crate::region::cuda::driver::{Answer, DriverError, Event, Handle, OUT_OF_MEMORY, Stream};

#[derive(Debug)]
pub(super) struct Memory {
    pub(super) bytes: u64,
    pub(super) offset: u64,
    pub(super) maps: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    pub(super) bytes: u64,
    pub(super) handle: Handle,
    pub(super) access: Option<Access>,
}

#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) number: u64,
    pub(super) stream: Stream,
    /// (address, bytes) it may touch.
    pub(super) ranges: Vec<(u64, u64)>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) reservations: BTreeMap<u64, u64>,
    pub(super) handles: BTreeMap<Handle, Memory>,
    pub(super) mappings: BTreeMap<u64, Mapping>,
    /// Number of the last kernel that each event stands behind.
    pub(super) events: BTreeMap<Event, Vec<u64>>,
    pub(super) kernels: Vec<Kernel>,
    pub(super) counter: u64,
    pub(super) file_end: u64,
    pub(super) fail_in: Option<u64>,
    pub(super) violations: Vec<String>,
}

pub(super) fn refused(call: &'static str, code: i32, name: &str) -> DriverError {
    let name = name.to_owned();
    DriverError { call, code, name }
}

impl State {
    /// A rule is broken: noted, and the call fails.
    pub(super) fn forbid<T>(&mut self, call: &'static str, why: String) -> Answer<T> {
        self.violations.push(format!("{call}: {why}"));
        Err(refused(call, INVALID_VALUE, &why))
    }

    /// The call that a test wants to fail.
    pub(super) fn strike(&mut self, call: &'static str) -> Answer<()> {
        let Some(left) = self.fail_in.as_mut() else {
            return Ok(());
        };
        if *left > 0 {
            *left -= 1;
            return Ok(());
        }
        self.fail_in = None;
        Err(refused(call, OUT_OF_MEMORY, "injected"))
    }

    pub(super) fn number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub(super) fn is_reserved(&self, address: u64, bytes: u64) -> bool {
        let before = self.reservations.range(..=address).next_back();
        before.is_some_and(|(start, size)| address + bytes <= start + size)
    }

    /// Mappings that overlap a range.
    pub(super) fn overlapping(&self, address: u64, bytes: u64) -> Vec<(u64, Mapping)> {
        let before = self.mappings.range(..address + bytes).rev();
        before
            .map(|(start, mapping)| (*start, *mapping))
            .take_while(|(start, mapping)| start + mapping.bytes > address)
            .collect()
    }

    /// Whether every byte may be touched so.
    pub(super) fn allows(&self, address: u64, bytes: u64, writes: bool) -> bool {
        let good = |mapping: &Mapping| match mapping.access {
            Some(Access::ReadWrite) => true,
            Some(Access::ReadOnly) => !writes,
            None => false,
        };
        let found = self.overlapping(address, bytes);
        let covered: u64 = found
            .iter()
            .filter(|(_, mapping)| good(mapping))
            .map(|(start, mapping)| {
                (start + mapping.bytes).min(address + bytes) - address.max(*start)
            })
            .sum();
        covered == bytes
    }

    pub(super) fn is_touched(&self, address: u64, bytes: u64) -> bool {
        let overlaps =
            |(start, size): &(u64, u64)| start + size > address && *start < address + bytes;
        self.kernels
            .iter()
            .any(|kernel| kernel.ranges.iter().any(overlaps))
    }

    pub(super) fn end_kernels(&mut self, numbers: &[u64]) {
        self.kernels
            .retain(|kernel| !numbers.contains(&kernel.number));
    }
}
