//! A driver for machines without a device: host memory behind the same calls. It checks what the real one leaves to chance
//! (order, alignment, lifetime, no edit under a running kernel) and refuses, so that tests see it.

mod calls;
mod state;

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::state::{Kernel, State, refused};
use super::driver::{Answer, Handle, OUT_OF_MEMORY, Stream};

const INVALID_VALUE: i32 = 1;
const INVALID_CONTEXT: i32 = 201;
const ILLEGAL_ADDRESS: i32 = 700;
const NOT_SUPPORTED: i32 = 801;

thread_local! {
    static CONTEXTS: Cell<u32> = const { Cell::new(0) };
}

/// What the pretended device is like.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// A multiple of the host's page.
    pub granularity: u64,
    /// Bytes of physical memory.
    pub total_bytes: u64,
    /// Whether a second mapping of a handle shows the same memory. If not, it reports success and shows other memory, as a
    /// driver in the field does.
    pub aliasing: bool,
    /// Whether mappings may be read-only.
    pub read_only: bool,
}

impl Device {
    /// The device behind `simulated=True`.
    pub const SIMULATED: Self = Self {
        granularity: 1 << 16,
        total_bytes: 1 << 30,
        aliasing: true,
        read_only: true,
    };
}

/// The device's state.
pub struct FakeDriver {
    device: Device,
    file: File,
    state: Mutex<State>,
}

impl FakeDriver {
    /// A device with nothing on it.
    ///
    /// # Errors
    /// When the host refuses a memfd.
    pub fn new(device: Device) -> io::Result<Self> {
        // SAFETY: the name is a valid C string; the result is checked.
        let fd = unsafe { libc::memfd_create(c"ribbon-fake-device".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            device,
            // SAFETY: fd is a fresh descriptor that nothing else owns.
            file: unsafe { File::from_raw_fd(fd) },
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call that needs the context and may be told to fail.
    fn begin(&self, call: &'static str) -> Answer<MutexGuard<'_, State>> {
        let mut state = self.lock();
        if CONTEXTS.get() == 0 {
            state.violations.push(format!("{call}: no current context"));
            return Err(refused(call, INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"));
        }
        Ok(state)
    }

    fn check_units(&self, state: &mut State, call: &'static str, numbers: &[u64]) -> Answer<()> {
        let unit = self.device.granularity;
        match numbers.iter().find(|number| !number.is_multiple_of(unit)) {
            Some(number) => state.forbid(call, format!("{number} is no multiple of {unit}")),
            None => Ok(()),
        }
    }

    /// Says that a kernel on the stream may touch these (address, bytes) until an event behind it is waited for.
    pub fn launch(&self, stream: Stream, ranges: Vec<(u64, u64)>) {
        let mut state = self.lock();
        for (address, bytes) in &ranges {
            if !state.allows(*address, *bytes, false) {
                let what = format!("launch: {bytes} bytes at {address:#x} are not all accessible");
                state.violations.push(what);
            }
        }
        let number = state.number();
        state.kernels.push(Kernel {
            number,
            stream,
            ranges,
        });
    }

    /// The oldest running kernel ends.
    pub fn end_one_kernel(&self) {
        let mut state = self.lock();
        if !state.kernels.is_empty() {
            state.kernels.remove(0);
        }
    }

    /// Kernels that run.
    pub fn num_kernels(&self) -> usize {
        self.lock().kernels.len()
    }

    /// The call so many calls from now that edits a page table fails, once.
    pub fn fail_in(&self, calls: Option<u64>) {
        self.lock().fail_in = calls;
    }

    /// Rules broken so far.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// Handles, mappings, reservations and events that exist.
    pub fn alive(&self) -> [usize; 4] {
        let state = self.lock();
        [
            state.handles.len(),
            state.mappings.len(),
            state.reservations.len(),
            state.events.len(),
        ]
    }

    fn host_map(&self, address: u64, bytes: u64, source: Option<(u64, libc::c_int)>) -> Answer<()> {
        let (flags, fd, offset, protection) = match source {
            Some((offset, protection)) => {
                (libc::MAP_SHARED, self.file.as_raw_fd(), offset, protection)
            }
            None => (
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
                libc::PROT_NONE,
            ),
        };
        // SAFETY: the range lies inside a reservation of ours (checked by the callers), so MAP_FIXED replaces only our maps.
        let mapped = unsafe {
            libc::mmap(
                address as usize as *mut libc::c_void,
                bytes as usize,
                protection,
                flags | libc::MAP_FIXED,
                fd,
                offset as libc::off_t,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(refused(
                "mmap",
                OUT_OF_MEMORY,
                &io::Error::last_os_error().to_string(),
            ));
        }
        Ok(())
    }

    /// File range behind a mapping: the handle's own, or fresh memory where the device aliases wrongly.
    fn backing(&self, state: &mut State, handle: Handle) -> u64 {
        let found = state.handles.get(&handle).map_or((0, 0, 0), |memory| {
            (memory.offset, memory.bytes, memory.maps)
        });
        let (offset, bytes, maps) = found;
        if self.device.aliasing || maps == 0 {
            return offset;
        }
        let other = state.file_end;
        state.file_end += bytes;
        other
    }

    fn grow_file(&self, end: u64) -> Answer<()> {
        self.file
            .set_len(end)
            .map_err(|error| refused("ftruncate", OUT_OF_MEMORY, &error.to_string()))
    }
}

/// Pointer to fake device memory.
fn host(address: u64) -> *mut u8 {
    address as usize as *mut u8
}

impl Drop for FakeDriver {
    fn drop(&mut self) {
        for (address, bytes) in &self.lock().reservations {
            // SAFETY: our own reservations, which a test or a failure has left behind; the driver is gone with them.
            unsafe { libc::munmap(host(*address).cast(), *bytes as usize) };
        }
    }
}
