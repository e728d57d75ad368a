//! A driver for machines without a device: host memory behind the same calls. It checks what the real one leaves to chance
//! (order, alignment, lifetime, no edit under a running kernel) and refuses, so that tests see it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::driver::{
    Answer, DeviceMemory, Driver, DriverError, Event, Handle, OUT_OF_MEMORY, Stream,
};
use crate::region::Access;

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

#[derive(Debug)]
struct Memory {
    bytes: u64,
    offset: u64,
    maps: u32,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    bytes: u64,
    handle: Handle,
    access: Option<Access>,
}

#[derive(Debug)]
struct Kernel {
    number: u64,
    stream: Stream,
    /// (address, bytes) it may touch.
    ranges: Vec<(u64, u64)>,
}

#[derive(Debug, Default)]
struct State {
    reservations: BTreeMap<u64, u64>,
    handles: BTreeMap<Handle, Memory>,
    mappings: BTreeMap<u64, Mapping>,
    /// Number of the last kernel that each event stands behind.
    events: BTreeMap<Event, Vec<u64>>,
    kernels: Vec<Kernel>,
    counter: u64,
    file_end: u64,
    fail_in: Option<u64>,
    violations: Vec<String>,
}

fn refused(call: &'static str, code: i32, name: &str) -> DriverError {
    let name = name.to_owned();
    DriverError { call, code, name }
}

impl State {
    /// A rule is broken: noted, and the call fails.
    fn forbid<T>(&mut self, call: &'static str, why: String) -> Answer<T> {
        self.violations.push(format!("{call}: {why}"));
        Err(refused(call, INVALID_VALUE, &why))
    }

    /// The call that a test wants to fail.
    fn strike(&mut self, call: &'static str) -> Answer<()> {
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

    fn number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn is_reserved(&self, address: u64, bytes: u64) -> bool {
        let before = self.reservations.range(..=address).next_back();
        before.is_some_and(|(start, size)| address + bytes <= start + size)
    }

    /// Mappings that overlap a range.
    fn overlapping(&self, address: u64, bytes: u64) -> Vec<(u64, Mapping)> {
        let before = self.mappings.range(..address + bytes).rev();
        before
            .map(|(start, mapping)| (*start, *mapping))
            .take_while(|(start, mapping)| start + mapping.bytes > address)
            .collect()
    }

    /// Whether every byte may be touched so.
    fn allows(&self, address: u64, bytes: u64, writes: bool) -> bool {
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

    fn is_touched(&self, address: u64, bytes: u64) -> bool {
        let overlaps =
            |(start, size): &(u64, u64)| start + size > address && *start < address + bytes;
        self.kernels
            .iter()
            .any(|kernel| kernel.ranges.iter().any(overlaps))
    }

    fn end_kernels(&mut self, numbers: &[u64]) {
        self.kernels
            .retain(|kernel| !numbers.contains(&kernel.number));
    }
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

impl Driver for FakeDriver {
    fn push(&self) -> Answer<()> {
        CONTEXTS.set(CONTEXTS.get() + 1);
        Ok(())
    }

    fn pop(&self) {
        CONTEXTS.set(CONTEXTS.get().saturating_sub(1));
    }

    fn memory(&self) -> Answer<DeviceMemory> {
        let state = self.begin("cuMemGetInfo")?;
        let used: u64 = state.handles.values().map(|memory| memory.bytes).sum();
        Ok(DeviceMemory {
            granularity: self.device.granularity,
            recommended_granularity: self.device.granularity,
            free: self.device.total_bytes.saturating_sub(used),
            total: self.device.total_bytes,
        })
    }

    fn reserve(&self, bytes: u64, alignment: u64) -> Answer<u64> {
        let mut state = self.begin("cuMemAddressReserve")?;
        self.check_units(&mut state, "cuMemAddressReserve", &[bytes])?;
        if !alignment.is_power_of_two() || bytes == 0 {
            return state.forbid(
                "cuMemAddressReserve",
                format!("{bytes} bytes, alignment {alignment}"),
            );
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let (null, asked) = (std::ptr::null_mut(), (bytes + alignment) as usize);
        // SAFETY: a new range at an address of the kernel's choice disturbs nobody.
        let found = unsafe { libc::mmap(null, asked, libc::PROT_NONE, flags, -1, 0) };
        if found == libc::MAP_FAILED {
            return Err(refused(
                "cuMemAddressReserve",
                OUT_OF_MEMORY,
                "CUDA_ERROR_OUT_OF_MEMORY",
            ));
        }
        let start = found as usize as u64;
        let address = start.next_multiple_of(alignment);
        for (at, size) in [
            (start, address - start),
            (address + bytes, start + alignment - address),
        ] {
            if size > 0 {
                // SAFETY: the parts of our new range before and behind the aligned one, which nobody uses.
                unsafe { libc::munmap(host(at).cast(), size as usize) };
            }
        }
        state.reservations.insert(address, bytes);
        Ok(address)
    }

    fn free(&self, address: u64, bytes: u64) -> Answer<()> {
        let mut state = self.begin("cuMemAddressFree")?;
        if state.reservations.get(&address) != Some(&bytes) {
            return state.forbid(
                "cuMemAddressFree",
                format!("{address:#x} was not reserved so"),
            );
        }
        if !state.overlapping(address, bytes).is_empty() {
            return state.forbid("cuMemAddressFree", format!("{address:#x} is still mapped"));
        }
        state.reservations.remove(&address);
        // SAFETY: the range is our own reservation, with nothing mapped in it.
        unsafe { libc::munmap(host(address).cast(), bytes as usize) };
        Ok(())
    }

    fn create(&self, bytes: u64) -> Answer<Handle> {
        let mut state = self.begin("cuMemCreate")?;
        self.check_units(&mut state, "cuMemCreate", &[bytes])?;
        let used: u64 = state.handles.values().map(|memory| memory.bytes).sum();
        if used + bytes > self.device.total_bytes {
            return Err(refused(
                "cuMemCreate",
                OUT_OF_MEMORY,
                "CUDA_ERROR_OUT_OF_MEMORY",
            ));
        }
        let (handle, offset) = (Handle(state.number()), state.file_end);
        state.file_end += bytes;
        self.grow_file(state.file_end)?;
        let maps = 0;
        state.handles.insert(
            handle,
            Memory {
                bytes,
                offset,
                maps,
            },
        );
        Ok(handle)
    }

    fn release(&self, handle: Handle) -> Answer<()> {
        let mut state = self.begin("cuMemRelease")?;
        match state.handles.get(&handle).map(|memory| memory.maps) {
            Some(0) => {
                state.handles.remove(&handle);
                Ok(())
            }
            Some(maps) => {
                state.forbid("cuMemRelease", format!("{handle:?} is mapped {maps} times"))
            }
            None => state.forbid("cuMemRelease", format!("{handle:?} does not exist")),
        }
    }

    fn map(&self, address: u64, bytes: u64, handle: Handle) -> Answer<()> {
        const CALL: &str = "cuMemMap";
        let mut state = self.begin(CALL)?;
        state.strike(CALL)?;
        self.check_units(&mut state, CALL, &[address, bytes])?;
        if state.handles.get(&handle).map(|memory| memory.bytes) != Some(bytes) {
            return state.forbid(CALL, format!("{handle:?} has not {bytes} bytes"));
        }
        if !state.is_reserved(address, bytes) || !state.overlapping(address, bytes).is_empty() {
            return state.forbid(
                CALL,
                format!("{address:#x} is not reserved or mapped already"),
            );
        }
        if state.is_touched(address, bytes) {
            return state.forbid(CALL, format!("a kernel may touch {address:#x}"));
        }
        let offset = self.backing(&mut state, handle);
        self.grow_file(state.file_end)?;
        self.host_map(address, bytes, Some((offset, libc::PROT_NONE)))?;
        if let Some(memory) = state.handles.get_mut(&handle) {
            memory.maps += 1;
        }
        let access = None;
        state.mappings.insert(
            address,
            Mapping {
                bytes,
                handle,
                access,
            },
        );
        Ok(())
    }

    fn unmap(&self, address: u64, bytes: u64) -> Answer<()> {
        const CALL: &str = "cuMemUnmap";
        let mut state = self.begin(CALL)?;
        match state.mappings.get(&address) {
            Some(mapping) if mapping.bytes == bytes => {}
            _ => {
                return state.forbid(
                    CALL,
                    format!("{address:#x}, {bytes} bytes is no whole mapping"),
                );
            }
        }
        if state.is_touched(address, bytes) {
            return state.forbid(CALL, format!("a kernel may touch {address:#x}"));
        }
        self.host_map(address, bytes, None)?;
        let gone = state.mappings.remove(&address);
        if let Some(memory) = gone.and_then(|mapping| state.handles.get_mut(&mapping.handle)) {
            memory.maps -= 1;
        }
        Ok(())
    }

    fn set_access(&self, address: u64, bytes: u64, access: Access) -> Answer<()> {
        const CALL: &str = "cuMemSetAccess";
        let mut state = self.begin(CALL)?;
        state.strike(CALL)?;
        if access == Access::ReadOnly && !self.device.read_only {
            return Err(refused(CALL, NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"));
        }
        let found = state.overlapping(address, bytes);
        let whole = found
            .iter()
            .all(|(start, mapping)| *start >= address && start + mapping.bytes <= address + bytes);
        let covered: u64 = found.iter().map(|(_, mapping)| mapping.bytes).sum();
        if !whole || covered != bytes {
            return state.forbid(
                CALL,
                format!("{address:#x}, {bytes} bytes are not whole mappings"),
            );
        }
        if state.is_touched(address, bytes) {
            return state.forbid(CALL, format!("a kernel may touch {address:#x}"));
        }
        let protection = match access {
            Access::ReadOnly => libc::PROT_READ,
            Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        };
        // SAFETY: the range holds mappings of ours alone (checked).
        if unsafe { libc::mprotect(host(address).cast(), bytes as usize, protection) } != 0 {
            return Err(refused(
                CALL,
                OUT_OF_MEMORY,
                &io::Error::last_os_error().to_string(),
            ));
        }
        for (start, _) in found {
            if let Some(mapping) = state.mappings.get_mut(&start) {
                mapping.access = Some(access);
            }
        }
        Ok(())
    }

    fn zero(&self, address: u64, bytes: u64, _stream: Stream) -> Answer<()> {
        let mut state = self.begin("cuMemsetD8Async")?;
        if !state.allows(address, bytes, true) {
            return state.forbid("cuMemsetD8Async", format!("{address:#x} is not writable"));
        }
        // SAFETY: every byte is mapped for writing (checked), and the lock keeps it so.
        unsafe { host(address).write_bytes(0, bytes as usize) };
        Ok(())
    }

    fn copy(&self, to: u64, from: u64, bytes: u64, _stream: Stream) -> Answer<()> {
        let mut state = self.begin("cuMemcpyDtoDAsync")?;
        if !state.allows(to, bytes, true) || !state.allows(from, bytes, false) {
            return state.forbid(
                "cuMemcpyDtoDAsync",
                format!("{from:#x} to {to:#x} is not accessible"),
            );
        }
        // SAFETY: both ranges are mapped (checked), and the lock keeps them so; they may overlap.
        unsafe { std::ptr::copy(host(from), host(to), bytes as usize) };
        Ok(())
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Answer<()> {
        let state = self.begin("cuMemcpyHtoD")?;
        if !state.allows(address, bytes.len() as u64, true) {
            return Err(refused(
                "cuMemcpyHtoD",
                ILLEGAL_ADDRESS,
                "CUDA_ERROR_ILLEGAL_ADDRESS",
            ));
        }
        // SAFETY: the target is mapped for writing (checked), and the lock keeps it so.
        unsafe { std::ptr::copy(bytes.as_ptr(), host(address), bytes.len()) };
        Ok(())
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Answer<()> {
        let state = self.begin("cuMemcpyDtoH")?;
        if !state.allows(address, bytes.len() as u64, false) {
            return Err(refused(
                "cuMemcpyDtoH",
                ILLEGAL_ADDRESS,
                "CUDA_ERROR_ILLEGAL_ADDRESS",
            ));
        }
        // SAFETY: the source is mapped (checked), and the lock keeps it so.
        unsafe { std::ptr::copy(host(address), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn create_event(&self) -> Answer<Event> {
        let mut state = self.begin("cuEventCreate")?;
        let event = Event(state.number());
        state.events.insert(event, Vec::new());
        Ok(event)
    }

    fn destroy_event(&self, event: Event) -> Answer<()> {
        let mut state = self.begin("cuEventDestroy")?;
        match state.events.remove(&event) {
            Some(_) => Ok(()),
            None => state.forbid("cuEventDestroy", format!("{event:?} does not exist")),
        }
    }

    fn record(&self, event: Event, stream: Stream) -> Answer<()> {
        let mut state = self.begin("cuEventRecord")?;
        let before = state
            .kernels
            .iter()
            .filter(|kernel| kernel.stream == stream);
        let before = before.map(|kernel| kernel.number).collect();
        match state.events.insert(event, before) {
            Some(_) => Ok(()),
            None => state.forbid("cuEventRecord", format!("{event:?} does not exist")),
        }
    }

    fn is_done(&self, event: Event) -> Answer<bool> {
        let mut state = self.begin("cuEventQuery")?;
        match state.events.get(&event) {
            Some(numbers) => Ok(!state
                .kernels
                .iter()
                .any(|kernel| numbers.contains(&kernel.number))),
            None => state.forbid("cuEventQuery", format!("{event:?} does not exist")),
        }
    }

    fn wait(&self, event: Event) -> Answer<()> {
        let mut state = self.begin("cuEventSynchronize")?;
        match state.events.get(&event).cloned() {
            Some(numbers) => {
                state.end_kernels(&numbers);
                Ok(())
            }
            None => state.forbid("cuEventSynchronize", format!("{event:?} does not exist")),
        }
    }
}

impl Drop for FakeDriver {
    fn drop(&mut self) {
        for (address, bytes) in &self.lock().reservations {
            // SAFETY: our own reservations, which a test or a failure has left behind; the driver is gone with them.
            unsafe { libc::munmap(host(*address).cast(), *bytes as usize) };
        }
    }
}
