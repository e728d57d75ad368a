//! Memory behind the real region's bookkeeping, as arrays: every page and every mapping is there, so a wrong share, a page that
//! is given back too early, or a stale one shows as a wrong value.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use _native::region::{Access, Backend, Layout};

const WORD: u64 = 8;

#[derive(Debug)]
struct Pages {
    page_bytes: u64,
    /// By physical page number.
    physical: Vec<Option<Box<[u64]>>>,
    /// By virtual page number: which physical page, and whether it may be written.
    mapped: Vec<Option<(u64, Access)>>,
}

/// Shared by the region, which moves pages, and the shard, which reads and writes tokens.
#[derive(Clone, Debug)]
pub(crate) struct Memory(Arc<Mutex<Pages>>);

impl Memory {
    pub(crate) fn new(layout: &Layout) -> Self {
        let pages =
            |ranges: u32| (u64::from(ranges) * layout.slot_bytes() / layout.page_bytes) as usize;
        Self(Arc::new(Mutex::new(Pages {
            page_bytes: layout.page_bytes,
            physical: vec![None; pages(layout.num_storages.max(layout.num_slots))],
            mapped: vec![None; pages(layout.num_slots)],
        })))
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0
            .lock()
            .expect("no test thread panics while it holds the memory")
    }

    /// Physical pages there are.
    pub(crate) fn resident(&self) -> u64 {
        self.pages().physical.iter().flatten().count() as u64
    }

    /// Writes the first and the last word of a token's bytes.
    pub(crate) fn write(&self, at: u64, bytes: u64, value: u64) {
        let mut pages = self.pages();
        for byte in [at, at + bytes - WORD] {
            let (page, access) = pages.mapped[(byte / pages.page_bytes) as usize]
                .expect("writes where nothing is mapped");
            assert_eq!(access, Access::ReadWrite, "writes to another's page");
            let word = (byte % pages.page_bytes / WORD) as usize;
            pages.physical[page as usize]
                .as_mut()
                .expect("writes to a page that was not grown")[word] = value;
        }
    }

    /// Reads a token's first word; its last must say the same.
    pub(crate) fn read(&self, at: u64, bytes: u64) -> u64 {
        let pages = self.pages();
        let word = |byte: u64| {
            let (page, _) = pages.mapped[(byte / pages.page_bytes) as usize]
                .expect("reads where nothing is mapped");
            let page = pages.physical[page as usize]
                .as_ref()
                .expect("reads a page that is gone");
            page[(byte % pages.page_bytes / WORD) as usize]
        };
        let (first, last) = (word(at), word(at + bytes - WORD));
        assert_eq!(first, last, "half a token");
        first
    }
}

impl Backend for Memory {
    fn address(&self) -> usize {
        0
    }

    fn map(
        &self,
        virtual_offset: u64,
        physical_offset: u64,
        bytes: u64,
        access: Access,
    ) -> io::Result<()> {
        let mut pages = self.pages();
        let (at, from) = (
            virtual_offset / pages.page_bytes,
            physical_offset / pages.page_bytes,
        );
        for page in 0..bytes / pages.page_bytes {
            pages.mapped[(at + page) as usize] = Some((from + page, access));
        }
        Ok(())
    }

    fn unmap(&self, virtual_offset: u64, bytes: u64) -> io::Result<()> {
        let mut pages = self.pages();
        let at = virtual_offset / pages.page_bytes;
        for page in 0..bytes / pages.page_bytes {
            pages.mapped[(at + page) as usize] = None;
        }
        Ok(())
    }

    fn populate(&self, virtual_offset: u64, bytes: u64) -> io::Result<()> {
        let mut pages = self.pages();
        let words = (pages.page_bytes / WORD) as usize;
        let at = virtual_offset / pages.page_bytes;
        for page in 0..bytes / pages.page_bytes {
            let (physical, _) =
                pages.mapped[(at + page) as usize].expect("populates what is not mapped");
            pages.physical[physical as usize].get_or_insert_with(|| vec![0; words].into());
        }
        Ok(())
    }

    fn copy(&self, from: u64, to: u64, bytes: u64) -> io::Result<()> {
        let mut pages = self.pages();
        let words = pages.page_bytes / WORD;
        for word in 0..bytes / WORD {
            let (source, target) = (from / WORD + word, to / WORD + word);
            let page = pages.physical[(source / words) as usize]
                .as_ref()
                .expect("copies from a page that is gone");
            let value = page[(source % words) as usize];
            let page = &mut pages.physical[(target / words) as usize];
            page.get_or_insert_with(|| vec![0; words as usize].into())[(target % words) as usize] =
                value;
        }
        Ok(())
    }

    fn release(&self, physical_offset: u64, bytes: u64) -> io::Result<()> {
        let mut pages = self.pages();
        let at = physical_offset / pages.page_bytes;
        for page in 0..bytes / pages.page_bytes {
            pages.physical[(at + page) as usize] = None;
        }
        Ok(())
    }

    fn resident_bytes(&self) -> io::Result<u64> {
        Ok(self.resident() * self.pages().page_bytes)
    }

    fn max_maps(&self) -> usize {
        1 << 20
    }
}
