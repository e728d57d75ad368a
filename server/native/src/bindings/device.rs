//! A region's memory on a device, as Python asks for it: its arguments, what wraps it, what its page tables cost.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::{NativeError, invalid};
use crate::region::cuda::driver::{Driver, Entered};
use crate::region::cuda::fake_driver::{Device, FakeDriver};
use crate::region::cuda::library::Library;
use crate::region::cuda::{Geometry, Memory, bench};
use crate::region::{self, Layout, PagePool};

/// The constructor's optional keyword arguments: most are about a device.
#[derive(Debug)]
pub struct Options {
    /// Spans of other storages a slot may show at once.
    pub max_spans: Option<u32>,
    device: Option<u32>,
    num_bands: u64,
    page_bytes: Option<u64>,
    tail_tokens: u32,
    copy_below_pages: u64,
    ahead_pages: u64,
    simulated: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_spans: None,
            device: None,
            num_bands: 1,
            page_bytes: None,
            tail_tokens: 0,
            copy_below_pages: 0,
            ahead_pages: 1,
            simulated: false,
        }
    }
}

impl Options {
    /// Reads them, all optional.
    ///
    /// # Errors
    /// TypeError for a name or type that is none; ValueError for one that needs `device`.
    pub fn read(given: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let mut options = Self::default();
        let mut without_device = None;
        for (key, value) in given.into_iter().flatten() {
            let key: String = key.extract()?;
            match key.as_str() {
                "max_spans" => options.max_spans = value.extract()?,
                "device" => options.device = value.extract()?,
                "num_bands" => options.num_bands = value.extract()?,
                "page_bytes" => options.page_bytes = value.extract()?,
                "tail_tokens" => options.tail_tokens = value.extract()?,
                "copy_below_pages" => options.copy_below_pages = value.extract()?,
                "ahead_pages" => options.ahead_pages = value.extract()?,
                "simulated" => options.simulated = value.extract()?,
                _ => {
                    let message = format!("Region() got an unexpected keyword argument '{key}'");
                    return Err(PyTypeError::new_err(message));
                }
            }
            if !matches!(key.as_str(), "device" | "max_spans") {
                without_device = Some(key);
            }
        }
        match without_device {
            Some(key) if options.device.is_none() => Ok(invalid(format!("{key} needs `device`"))?),
            _ => Ok(options),
        }
    }
}

impl Options {
    /// Whether they name a device.
    pub fn is_on_device(&self) -> bool {
        self.device.is_some()
    }
}

/// The device behind a region.
pub struct Attached {
    /// Its number.
    pub number: u32,
    /// Its memory, of which the region holds the other end.
    pub memory: Arc<Memory>,
    num_bands: u64,
    num_pages: u64,
    simulated: bool,
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> NativeError {
    move |source| match source.kind() {
        io::ErrorKind::InvalidInput => NativeError::Invalid(source.to_string()),
        _ => NativeError::Io { what, source },
    }
}

fn open_driver(device: u32, simulated: bool) -> Result<Arc<dyn Driver>, NativeError> {
    let opened: io::Result<Arc<dyn Driver>> = if simulated {
        FakeDriver::new(Device::SIMULATED).map(|driver| Arc::new(driver) as Arc<dyn Driver>)
    } else {
        Library::open(device).map(|driver| Arc::new(driver) as Arc<dyn Driver>)
    };
    opened.map_err(failed("opening the device"))
}

fn granularity(driver: &dyn Driver) -> Result<u64, NativeError> {
    let asked = Entered::new(driver).and_then(|_context| driver.memory());
    let memory = asked.map_err(|error| failed("asking the device's granularity")(error.into()))?;
    Ok(memory.granularity)
}

impl Attached {
    /// A region on the device the options name, and the device; `None` if they name none. Of `layout` all but the size of a
    /// page is given.
    ///
    /// # Errors
    /// A size that cannot be, or the driver's call that failed.
    pub fn create(
        layout: Layout,
        pool: &Arc<PagePool>,
        options: &Options,
    ) -> Result<Option<(region::Region, Self)>, NativeError> {
        let Some(number) = options.device else {
            return Ok(None);
        };
        let driver = open_driver(number, options.simulated)?;
        let page_bytes = match options.page_bytes {
            Some(0) => return invalid("page_bytes must be at least 1"),
            Some(bytes) => bytes,
            None => granularity(&*driver)?,
        };
        let layout = Layout {
            page_bytes,
            ..layout
        }
        .checked()?;
        let geometry = Geometry {
            num_slots: u64::from(layout.num_slots),
            slot_pages: layout.slot_bytes() / page_bytes,
            num_pages: pool.total(),
            page_bytes,
            num_bands: options.num_bands,
            tail_pages: layout.page_ceil(options.tail_tokens),
            copy_below_pages: options.copy_below_pages,
            ahead_pages: options.ahead_pages,
        };
        let created = Memory::new(driver, geometry).map_err(failed("creating the KV region"))?;
        let memory = Arc::new(created);
        let region = region::Region::new(layout, Box::new(Arc::clone(&memory)), Arc::clone(pool))?;
        let attached = Self {
            number,
            memory,
            num_bands: options.num_bands,
            num_pages: geometry.num_pages,
            simulated: options.simulated,
        };
        Ok(Some((region, attached)))
    }

    /// Bands of the region.
    pub fn num_bands(&self) -> u64 {
        self.num_bands
    }

    /// Refuses a pool larger than the pages that were created.
    ///
    /// # Errors
    /// Names both numbers.
    pub fn check_pool(&self, num_pages: u64) -> Result<(), NativeError> {
        if num_pages > self.num_pages {
            return invalid(format!(
                "num_pages is {num_pages}; {} pages were created on the device",
                self.num_pages
            ));
        }
        Ok(())
    }

    /// Whether kernels of the CPU can work on the region.
    pub fn serves_the_cpu(&self) -> bool {
        self.simulated && self.num_bands == 1
    }

    /// `__cuda_array_interface__` (version 3) of bytes [bands, slots, slot bytes]; `None` for simulated memory.
    pub fn array_interface<'py>(
        &self,
        py: Python<'py>,
        region: &region::Region,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        if self.simulated {
            return Ok(None);
        }
        let layout = region.layout();
        let shape = (self.num_bands, layout.num_slots, layout.slot_bytes());
        let interface = PyDict::new(py);
        interface.set_item("shape", shape)?;
        interface.set_item("typestr", "|u1")?;
        interface.set_item("data", (region.address(), false))?;
        interface.set_item("strides", py.None())?;
        interface.set_item("version", 3)?;
        Ok(Some(interface))
    }

    /// Has the mapping thread prepare what the slot lacks up to token `end`.
    ///
    /// # Errors
    /// Names a slot or token that does not exist.
    pub fn prefetch(
        &self,
        region: &region::Region,
        slot: u32,
        end: u32,
    ) -> Result<(), NativeError> {
        let (book, layout) = (region.book(), region.layout());
        book.check_slot_number(slot)?;
        book.check_tokens(end)?;
        let first = book.slot(slot).map_or(Ok(0), |open| {
            let own = book.storage(open.own)?;
            let begin = layout.page_floor(own.start.max(open.shared_end()));
            Ok::<u64, region::RegionError>(
                begin.max(layout.page_floor(own.start) + book.owned_pages(own)),
            )
        })?;
        let pages = layout.page_ceil(end).saturating_sub(first);
        if pages > 0 {
            let at = layout.range_start(slot) + first * layout.page_bytes;
            self.memory.prefetch(at, pages * layout.page_bytes);
        }
        Ok(())
    }

    /// Waits until the mapping thread is idle. Returns whether it was in time.
    pub fn settle(&self, seconds: f64) -> Result<bool, NativeError> {
        match Duration::try_from_secs_f64(seconds) {
            Ok(limit) => Ok(self.memory.settle(limit)),
            Err(error) => invalid(format!("seconds is {seconds}: {error}")),
        }
    }
}

/// Names of all statistics, for a region that has none.
pub fn no_statistics() -> Vec<(&'static str, u64)> {
    region::cuda::no_statistics()
}

/// Sizes of a device's memory.
#[pyfunction]
#[pyo3(signature = (device, *, simulated=false))]
pub fn cuda_memory(py: Python<'_>, device: u32, simulated: bool) -> PyResult<Bound<'_, PyDict>> {
    let driver = open_driver(device, simulated)?;
    let asked = Entered::new(&*driver).and_then(|_context| driver.memory());
    let memory = asked.map_err(|error| failed("asking the device's memory")(error.into()))?;
    let sizes = PyDict::new(py);
    sizes.set_item("granularity", memory.granularity)?;
    sizes.set_item("recommended_granularity", memory.recommended_granularity)?;
    sizes.set_item("free_bytes", memory.free)?;
    sizes.set_item("total_bytes", memory.total)?;
    Ok(sizes)
}

/// What the driver's calls cost.
#[pyfunction]
#[pyo3(signature = (device, *, page_bytes, num_pages, simulated=false))]
pub fn bench_map(
    py: Python<'_>,
    device: u32,
    page_bytes: u64,
    num_pages: u64,
    simulated: bool,
) -> PyResult<Bound<'_, PyDict>> {
    let driver = open_driver(device, simulated)?;
    let measured = py.detach(|| bench::bench_map(&driver, page_bytes, num_pages));
    let rows = measured.map_err(failed("measuring page-table calls"))?;
    let costs = PyDict::new(py);
    for (name, ns) in rows {
        costs.set_item(name, ns)?;
    }
    Ok(costs)
}
