//! The driver's calls on the pretended device, each with the rules it must keep.

use std::io;

use super::state::{Mapping, Memory, refused};
use super::{CONTEXTS, FakeDriver, ILLEGAL_ADDRESS, NOT_SUPPORTED, host};
use crate::region::Access;
use crate::region::cuda::driver::{
    Answer, DeviceMemory, Driver, Event, Handle, OUT_OF_MEMORY, Stream,
};

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
