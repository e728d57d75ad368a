//! What a region needs from a kind of memory. The seam behind which the memfd and CUDA's driver stand.

use std::io;

/// How a slot may use the pages mapped under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Pages of another storage.
    ReadOnly,
    /// The slot's own pages.
    ReadWrite,
}

/// Virtual ranges over physical pages. Offsets and lengths are bytes and whole pages unless said otherwise;
/// `virtual_offset` counts from slot 0, `physical_offset` from storage 0. The latter is a place in the memfd; on a device it
/// only names a page of a storage, which has memory from its `populate` or first `copy` to its `release`.
pub trait Backend: Send + Sync {
    /// Address of slot 0.
    fn address(&self) -> usize;
    /// Shows physical bytes at a virtual place, replacing what was there. A whole slot mapped for writing is the seat of that
    /// storage: pages it gets later appear there.
    fn map(
        &self,
        virtual_offset: u64,
        physical_offset: u64,
        bytes: u64,
        access: Access,
    ) -> io::Result<()>;
    /// Ends the use of a virtual range: it faults when touched or, on a device, shows stale pages.
    fn unmap(&self, virtual_offset: u64, bytes: u64) -> io::Result<()>;
    /// Puts physical pages under a mapped range, so that later writes neither fault nor fail.
    fn populate(&self, virtual_offset: u64, bytes: u64) -> io::Result<()>;
    /// Copies physical bytes; not whole pages.
    fn copy(&self, from: u64, to: u64, bytes: u64) -> io::Result<()>;
    /// Gives physical pages back to whoever needs them next.
    fn release(&self, physical_offset: u64, bytes: u64) -> io::Result<()>;
    /// Bytes of physical memory held now, asked of the owner of the memory, not counted.
    fn resident_bytes(&self) -> io::Result<u64>;
    /// Maps that may exist at once.
    fn max_maps(&self) -> usize;
    /// Whether a page may be shown at two addresses; nothing is shared where not.
    fn can_alias(&self) -> bool {
        true
    }
}
