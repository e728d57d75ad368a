//! The calls of a device's driver that the region needs, as a trait: NVIDIA's library and a fake one stand behind it. Knows
//! addresses and handles; not slots or pages in use.

use std::io;

use crate::region::Access;

/// A call the driver refused.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{call}: {name} ({code})")]
pub struct DriverError {
    /// The call.
    pub call: &'static str,
    /// Its result code.
    pub code: i32,
    /// The code's name, as the driver spells it.
    pub name: String,
}

/// `CUDA_ERROR_OUT_OF_MEMORY`.
pub const OUT_OF_MEMORY: i32 = 2;

impl From<DriverError> for io::Error {
    fn from(error: DriverError) -> Self {
        match error.code {
            OUT_OF_MEMORY => Self::new(io::ErrorKind::OutOfMemory, error),
            _ => Self::other(error),
        }
    }
}

/// What a call gives back.
pub type Answer<T> = Result<T, DriverError>;

/// Physical memory created by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handle(pub u64);

/// A mark on a stream, reached once the work before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event(pub u64);

/// A queue of work: `CUstream`, where 0 is the default one.
pub type Stream = u64;

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct DeviceMemory {
    /// Sizes and addresses of mappings are multiples of it.
    pub granularity: u64,
    /// The granularity the driver recommends.
    pub recommended_granularity: u64,
    /// Not in use by anybody.
    pub free: u64,
    /// In all.
    pub total: u64,
}

/// One device's driver. Addresses are the device's; sizes are bytes. Every call but `push` needs the context pushed on
/// the calling thread: see [`Entered`].
pub trait Driver: Send + Sync {
    /// Makes the device's context the thread's current one.
    fn push(&self) -> Answer<()>;
    /// Restores the context that was current before.
    fn pop(&self);
    /// Sizes of the device's memory and of its pages.
    fn memory(&self) -> Answer<DeviceMemory>;
    /// Reserves addresses without memory.
    fn reserve(&self, bytes: u64, alignment: u64) -> Answer<u64>;
    /// Gives reserved addresses back; nothing may be mapped there.
    fn free(&self, address: u64, bytes: u64) -> Answer<()>;
    /// Creates physical memory.
    fn create(&self, bytes: u64) -> Answer<Handle>;
    /// Gives physical memory back once its last mapping is gone.
    fn release(&self, handle: Handle) -> Answer<()>;
    /// Shows the whole of a handle at unmapped addresses; nobody may touch it before `set_access`.
    fn map(&self, address: u64, bytes: u64, handle: Handle) -> Answer<()>;
    /// Undoes one whole `map`.
    fn unmap(&self, address: u64, bytes: u64) -> Answer<()>;
    /// Lets the device touch mapped addresses.
    fn set_access(&self, address: u64, bytes: u64, access: Access) -> Answer<()>;
    /// Fills with zero bytes, in the stream's order.
    fn zero(&self, address: u64, bytes: u64, stream: Stream) -> Answer<()>;
    /// Copies within the device, in the stream's order.
    fn copy(&self, to: u64, from: u64, bytes: u64, stream: Stream) -> Answer<()>;
    /// Copies from the host and waits.
    fn write(&self, address: u64, bytes: &[u8]) -> Answer<()>;
    /// Copies to the host and waits.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Answer<()>;
    /// A new event, reached at once.
    fn create_event(&self) -> Answer<Event>;
    /// Ends an event.
    fn destroy_event(&self, event: Event) -> Answer<()>;
    /// Puts the event behind all work on the stream.
    fn record(&self, event: Event, stream: Stream) -> Answer<()>;
    /// Whether the event is reached.
    fn is_done(&self, event: Event) -> Answer<bool>;
    /// Blocks until the event is reached.
    fn wait(&self, event: Event) -> Answer<()>;
}

/// The device's context is current on this thread while it lives.
pub struct Entered<'a>(&'a dyn Driver);

impl<'a> Entered<'a> {
    /// Makes it current.
    pub fn new(driver: &'a dyn Driver) -> Answer<Self> {
        driver.push()?;
        Ok(Self(driver))
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.pop();
    }
}
