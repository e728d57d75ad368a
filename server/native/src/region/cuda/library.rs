//! NVIDIA's driver library, loaded when first asked for: the module links against nothing of CUDA. Knows the C interface
//! (cuda.h, "Virtual Memory Management"); not what the calls are for.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io;
use std::ptr::null_mut;

use super::driver::{Answer, DeviceMemory, Driver, DriverError, Event, Handle, Stream};
use crate::region::Access;

const LIBRARY: &CStr = c"libcuda.so.1";
const LOCATION_DEVICE: c_int = 1;
const ALLOCATION_PINNED: c_int = 1;
const GRANULARITY_MINIMUM: c_int = 0;
const GRANULARITY_RECOMMENDED: c_int = 1;
const PROT_READ: c_int = 1;
const PROT_READWRITE: c_int = 3;
const EVENT_DISABLE_TIMING: c_uint = 2;
const VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED: c_int = 102;
const NOT_READY: c_int = 600;

/// `CUmemLocation`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Location {
    kind: c_int,
    id: c_int,
}

/// `CUmemAllocationProp`; the last field is its `allocFlags`.
#[repr(C)]
struct AllocationProperties {
    kind: c_int,
    requested_handle_types: c_int,
    location: Location,
    win32_metadata: *mut c_void,
    flags: [u8; 8],
}

/// `CUmemAccessDesc`.
#[repr(C)]
struct AccessDescription {
    location: Location,
    flags: c_int,
}

const _: () = assert!(size_of::<AllocationProperties>() == 32);
const _: () = assert!(size_of::<AccessDescription>() == 12);

/// Declares the functions used: field, exported symbol, parameters.
macro_rules! functions {
    ($($name:ident = $symbol:literal ($($kind:ty),*);)*) => {
        struct Functions { $($name: unsafe extern "C" fn($($kind),*) -> c_int),* }

        impl Functions {
            /// SAFETY: `library` is an open libcuda, whose exported functions have these types (cuda.h).
            unsafe fn load(library: *mut c_void) -> io::Result<Self> {
                Ok(Self {
                    // SAFETY: as above; a function pointer and a data pointer have the same size on every target of CUDA.
                    $($name: unsafe { std::mem::transmute(symbol(library, $symbol)?) }),*
                })
            }
        }
    };
}

functions! {
    init = c"cuInit" (c_uint);
    error_name = c"cuGetErrorName" (c_int, *mut *const c_char);
    device_count = c"cuDeviceGetCount" (*mut c_int);
    device = c"cuDeviceGet" (*mut c_int, c_int);
    attribute = c"cuDeviceGetAttribute" (*mut c_int, c_int, c_int);
    retain = c"cuDevicePrimaryCtxRetain" (*mut *mut c_void, c_int);
    release_context = c"cuDevicePrimaryCtxRelease_v2" (c_int);
    push = c"cuCtxPushCurrent_v2" (*mut c_void);
    pop = c"cuCtxPopCurrent_v2" (*mut *mut c_void);
    memory_info = c"cuMemGetInfo_v2" (*mut usize, *mut usize);
    granularity = c"cuMemGetAllocationGranularity" (*mut usize, *const AllocationProperties, c_int);
    reserve = c"cuMemAddressReserve" (*mut u64, usize, usize, u64, u64);
    free = c"cuMemAddressFree" (u64, usize);
    create = c"cuMemCreate" (*mut u64, usize, *const AllocationProperties, u64);
    release = c"cuMemRelease" (u64);
    map = c"cuMemMap" (u64, usize, usize, u64, u64);
    unmap = c"cuMemUnmap" (u64, usize);
    set_access = c"cuMemSetAccess" (u64, usize, *const AccessDescription, usize);
    fill = c"cuMemsetD8Async" (u64, u8, usize, *mut c_void);
    copy = c"cuMemcpyDtoDAsync_v2" (u64, u64, usize, *mut c_void);
    write = c"cuMemcpyHtoD_v2" (u64, *const c_void, usize);
    read = c"cuMemcpyDtoH_v2" (*mut c_void, u64, usize);
    create_event = c"cuEventCreate" (*mut *mut c_void, c_uint);
    destroy_event = c"cuEventDestroy_v2" (*mut c_void);
    record = c"cuEventRecord" (*mut c_void, *mut c_void);
    query = c"cuEventQuery" (*mut c_void);
    wait = c"cuEventSynchronize" (*mut c_void);
}

fn loader_error() -> io::Error {
    // SAFETY: dlerror returns null or a C string that stays valid until this thread's next call of the loader.
    let text = unsafe {
        let message = libc::dlerror();
        if message.is_null() {
            "unknown error".into()
        } else {
            CStr::from_ptr(message).to_string_lossy().into_owned()
        }
    };
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("a CUDA device needs NVIDIA's driver library libcuda.so.1: {text}"),
    )
}

fn symbol(library: *mut c_void, name: &CStr) -> io::Result<*mut c_void> {
    // SAFETY: the library is open and the name a C string.
    let address = unsafe { libc::dlsym(library, name.as_ptr()) };
    if address.is_null() {
        Err(loader_error())
    } else {
        Ok(address)
    }
}

/// One device behind libcuda.so.1, its primary context retained (the one torch uses).
pub struct Library {
    functions: Functions,
    device: c_int,
    context: *mut c_void,
}

// SAFETY: the driver's functions may be called from any thread, and a context pointer is only a name for them.
unsafe impl Send for Library {}
// SAFETY: as above; the fields never change.
unsafe impl Sync for Library {}

impl Library {
    /// Loads the driver and retains the device's primary context.
    ///
    /// # Errors
    /// Names libcuda.so.1 where it is missing, else the device or the call that failed.
    pub fn open(device: u32) -> io::Result<Self> {
        // SAFETY: the name is a C string. The library stays open for the life of the process, as torch keeps it too.
        let library = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            return Err(loader_error());
        }
        // SAFETY: the library is open.
        let functions = unsafe { Functions::load(library)? };
        let mut opened = Self {
            functions,
            device: -1,
            context: null_mut(),
        };
        // SAFETY: cuInit has no preconditions.
        opened.check("cuInit", unsafe { (opened.functions.init)(0) })?;
        opened.retain(device)?;
        Ok(opened)
    }

    fn retain(&mut self, ordinal: u32) -> io::Result<()> {
        let (mut count, mut device, mut supported) = (0, 0, 0);
        // SAFETY: the out pointers are valid for the calls.
        unsafe {
            self.check(
                "cuDeviceGetCount",
                (self.functions.device_count)(&raw mut count),
            )?;
            if i64::from(ordinal) >= i64::from(count) {
                let message = format!("device is {ordinal}; this machine has {count} CUDA devices");
                return Err(io::Error::new(io::ErrorKind::NotFound, message));
            }
            let found = (self.functions.device)(&raw mut device, ordinal as c_int);
            self.check("cuDeviceGet", found)?;
            let asked = (self.functions.attribute)(
                &raw mut supported,
                VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
                device,
            );
            self.check("cuDeviceGetAttribute", asked)?;
            if supported == 0 {
                let message = format!("device {ordinal} has no virtual memory management");
                return Err(io::Error::new(io::ErrorKind::Unsupported, message));
            }
            let retained = (self.functions.retain)(&raw mut self.context, device);
            self.check("cuDevicePrimaryCtxRetain", retained)?;
        }
        self.device = device;
        Ok(())
    }

    fn check(&self, call: &'static str, code: c_int) -> Answer<()> {
        if code == 0 {
            return Ok(());
        }
        let mut text = std::ptr::null();
        // SAFETY: the out pointer is valid; the text is static in the driver or null for an unknown code.
        let name = unsafe {
            (self.functions.error_name)(code, &raw mut text);
            if text.is_null() {
                "unknown code".into()
            } else {
                CStr::from_ptr(text).to_string_lossy().into_owned()
            }
        };
        Err(DriverError { call, code, name })
    }

    fn location(&self) -> Location {
        Location {
            kind: LOCATION_DEVICE,
            id: self.device,
        }
    }

    fn properties(&self) -> AllocationProperties {
        AllocationProperties {
            kind: ALLOCATION_PINNED,
            requested_handle_types: 0,
            location: self.location(),
            win32_metadata: null_mut(),
            flags: [0; 8],
        }
    }

    fn ask_granularity(&self, option: c_int) -> Answer<u64> {
        let mut bytes = 0;
        let wanted = self.properties();
        // SAFETY: both pointers are valid for the call.
        let code =
            unsafe { (self.functions.granularity)(&raw mut bytes, &raw const wanted, option) };
        self.check("cuMemGetAllocationGranularity", code)?;
        Ok(bytes as u64)
    }
}

fn pointer(number: u64) -> *mut c_void {
    number as usize as *mut c_void
}

// SAFETY of the calls below: out pointers are valid for the call; addresses, handles, events and streams are only names to
// the driver, which checks them; the host slices of `write` and `read` live through the synchronous copy.
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one note above covers every block of this implementation"
)]
impl Driver for Library {
    fn push(&self) -> Answer<()> {
        self.check("cuCtxPushCurrent", unsafe {
            (self.functions.push)(self.context)
        })
    }

    fn pop(&self) {
        let mut popped = null_mut();
        unsafe { (self.functions.pop)(&raw mut popped) };
    }

    fn memory(&self) -> Answer<DeviceMemory> {
        let (mut free, mut total) = (0, 0);
        self.check("cuMemGetInfo", unsafe {
            (self.functions.memory_info)(&raw mut free, &raw mut total)
        })?;
        Ok(DeviceMemory {
            granularity: self.ask_granularity(GRANULARITY_MINIMUM)?,
            recommended_granularity: self.ask_granularity(GRANULARITY_RECOMMENDED)?,
            free: free as u64,
            total: total as u64,
        })
    }

    fn reserve(&self, bytes: u64, alignment: u64) -> Answer<u64> {
        let mut address = 0;
        self.check("cuMemAddressReserve", unsafe {
            (self.functions.reserve)(&raw mut address, bytes as usize, alignment as usize, 0, 0)
        })?;
        Ok(address)
    }

    fn free(&self, address: u64, bytes: u64) -> Answer<()> {
        self.check("cuMemAddressFree", unsafe {
            (self.functions.free)(address, bytes as usize)
        })
    }

    fn create(&self, bytes: u64) -> Answer<Handle> {
        let (mut handle, wanted) = (0, self.properties());
        self.check("cuMemCreate", unsafe {
            (self.functions.create)(&raw mut handle, bytes as usize, &raw const wanted, 0)
        })?;
        Ok(Handle(handle))
    }

    fn release(&self, handle: Handle) -> Answer<()> {
        self.check("cuMemRelease", unsafe {
            (self.functions.release)(handle.0)
        })
    }

    fn map(&self, address: u64, bytes: u64, handle: Handle) -> Answer<()> {
        self.check("cuMemMap", unsafe {
            (self.functions.map)(address, bytes as usize, 0, handle.0, 0)
        })
    }

    fn unmap(&self, address: u64, bytes: u64) -> Answer<()> {
        self.check("cuMemUnmap", unsafe {
            (self.functions.unmap)(address, bytes as usize)
        })
    }

    fn set_access(&self, address: u64, bytes: u64, access: Access) -> Answer<()> {
        let wanted = AccessDescription {
            location: self.location(),
            flags: match access {
                Access::ReadOnly => PROT_READ,
                Access::ReadWrite => PROT_READWRITE,
            },
        };
        self.check("cuMemSetAccess", unsafe {
            (self.functions.set_access)(address, bytes as usize, &raw const wanted, 1)
        })
    }

    fn zero(&self, address: u64, bytes: u64, stream: Stream) -> Answer<()> {
        self.check("cuMemsetD8Async", unsafe {
            (self.functions.fill)(address, 0, bytes as usize, pointer(stream))
        })
    }

    fn copy(&self, to: u64, from: u64, bytes: u64, stream: Stream) -> Answer<()> {
        self.check("cuMemcpyDtoDAsync", unsafe {
            (self.functions.copy)(to, from, bytes as usize, pointer(stream))
        })
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Answer<()> {
        self.check("cuMemcpyHtoD", unsafe {
            (self.functions.write)(address, bytes.as_ptr().cast(), bytes.len())
        })
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Answer<()> {
        self.check("cuMemcpyDtoH", unsafe {
            (self.functions.read)(bytes.as_mut_ptr().cast(), address, bytes.len())
        })
    }

    fn create_event(&self) -> Answer<Event> {
        let mut event = null_mut();
        self.check("cuEventCreate", unsafe {
            (self.functions.create_event)(&raw mut event, EVENT_DISABLE_TIMING)
        })?;
        Ok(Event(event as usize as u64))
    }

    fn destroy_event(&self, event: Event) -> Answer<()> {
        self.check("cuEventDestroy", unsafe {
            (self.functions.destroy_event)(pointer(event.0))
        })
    }

    fn record(&self, event: Event, stream: Stream) -> Answer<()> {
        self.check("cuEventRecord", unsafe {
            (self.functions.record)(pointer(event.0), pointer(stream))
        })
    }

    fn is_done(&self, event: Event) -> Answer<bool> {
        match unsafe { (self.functions.query)(pointer(event.0)) } {
            NOT_READY => Ok(false),
            code => self.check("cuEventQuery", code).map(|()| true),
        }
    }

    fn wait(&self, event: Event) -> Answer<()> {
        self.check("cuEventSynchronize", unsafe {
            (self.functions.wait)(pointer(event.0))
        })
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if !self.context.is_null() {
            // SAFETY: retained once by `retain`.
            unsafe { (self.functions.release_context)(self.device) };
        }
    }
}
