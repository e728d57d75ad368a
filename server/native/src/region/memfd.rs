//! Memory of a region on the CPU: one sparse memfd, mapped piecewise into one reserved range. Knows bytes; not tokens.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use super::backend::{Access, Backend};

/// The kernel's default when /proc cannot be read.
const DEFAULT_MAX_MAP_COUNT: usize = 65_530;

/// A reserved range of addresses over a sparse file in memory.
#[derive(Debug)]
pub struct Memfd {
    file: File,
    address: usize,
    virtual_bytes: u64,
    max_maps: usize,
}

/// Bytes of a physical page.
pub fn page_bytes() -> u64 {
    // SAFETY: sysconf has no preconditions.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

impl Memfd {
    /// Reserves addresses and creates the file; no memory is used yet.
    pub fn new(virtual_bytes: u64, physical_bytes: u64) -> io::Result<Self> {
        // SAFETY: the name is a valid C string; the result is checked.
        let fd = unsafe { libc::memfd_create(c"ribbon-kv".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: fd is a fresh descriptor that nothing else owns.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(physical_bytes)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new range at an address of the kernel's choice disturbs nobody.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                virtual_bytes as usize,
                libc::PROT_NONE,
                flags,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let max_maps = max_maps();
        Ok(Self {
            file,
            address: address as usize,
            virtual_bytes,
            max_maps,
        })
    }

    fn remap(
        &self,
        virtual_offset: u64,
        bytes: u64,
        protection: i32,
        flags: i32,
        source: (i32, u64),
    ) -> io::Result<()> {
        self.check(virtual_offset, bytes)?;
        let at = (self.address + virtual_offset as usize) as *mut libc::c_void;
        // SAFETY: the range lies inside our own reservation (checked), so MAP_FIXED replaces only our maps.
        let mapped = unsafe {
            libc::mmap(
                at,
                bytes as usize,
                protection,
                flags | libc::MAP_FIXED,
                source.0,
                source.1 as libc::off_t,
            )
        };
        if mapped == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    fn advise(&self, virtual_offset: u64, bytes: u64, advice: i32) -> io::Result<()> {
        self.check(virtual_offset, bytes)?;
        let at = (self.address + virtual_offset as usize) as *mut libc::c_void;
        // SAFETY: the range lies inside our own reservation (checked) and no advice used here changes its content.
        match unsafe { libc::madvise(at, bytes as usize, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn check(&self, virtual_offset: u64, bytes: u64) -> io::Result<()> {
        match virtual_offset.checked_add(bytes) {
            Some(end) if end <= self.virtual_bytes => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "range outside the region",
            )),
        }
    }
}

impl Backend for Memfd {
    fn address(&self) -> usize {
        self.address
    }

    fn map(
        &self,
        virtual_offset: u64,
        physical_offset: u64,
        bytes: u64,
        access: Access,
    ) -> io::Result<()> {
        let protection = match access {
            Access::ReadOnly => libc::PROT_READ,
            Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        };
        self.remap(
            virtual_offset,
            bytes,
            protection,
            libc::MAP_SHARED,
            (self.file.as_raw_fd(), physical_offset),
        )?;
        // A forked child must neither see nor pin the cache, and a core dump must not hold it.
        self.advise(virtual_offset, bytes, libc::MADV_DONTFORK)?;
        self.advise(virtual_offset, bytes, libc::MADV_DONTDUMP)
    }

    fn unmap(&self, virtual_offset: u64, bytes: u64) -> io::Result<()> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        self.remap(virtual_offset, bytes, libc::PROT_NONE, flags, (-1, 0))
    }

    fn populate(&self, virtual_offset: u64, bytes: u64) -> io::Result<()> {
        match self.advise(virtual_offset, bytes, libc::MADV_POPULATE_WRITE) {
            // Kernels before 5.14 do not know the advice; pages then come with the first write.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            outcome => outcome,
        }
    }

    fn copy(&self, from: u64, to: u64, bytes: u64) -> io::Result<()> {
        let mut buffer = vec![0; bytes as usize];
        self.file.read_exact_at(&mut buffer, from)?;
        self.file.write_all_at(&buffer, to)
    }

    fn release(&self, physical_offset: u64, bytes: u64) -> io::Result<()> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: the descriptor is ours; a hole changes bytes of the file, not of any Rust object.
        match unsafe {
            libc::fallocate(
                self.file.as_raw_fd(),
                mode,
                physical_offset as libc::off_t,
                bytes as libc::off_t,
            )
        } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn resident_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    fn max_maps(&self) -> usize {
        self.max_maps
    }
}

impl Drop for Memfd {
    fn drop(&mut self) {
        // SAFETY: the range is our own reservation and nothing uses it after the owner is gone.
        unsafe {
            libc::munmap(
                self.address as *mut libc::c_void,
                self.virtual_bytes as usize,
            )
        };
    }
}

/// Maps that all regions of the process may have: 80 % of what the kernel allows, the rest is for libraries and threads.
pub fn max_maps() -> usize {
    let text = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    let allowed = text.trim().parse().unwrap_or(DEFAULT_MAX_MAP_COUNT);
    allowed / 5 * 4
}
