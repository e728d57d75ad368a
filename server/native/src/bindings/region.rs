//! `Region` as Python sees it.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::bindings::arguments::{Column, keyword_record};
use crate::bindings::device::{self, Attached};
use crate::error::{NativeError, invalid};
use crate::region::memfd::{self, Memfd};
use crate::region::{self, Layout, PagePool, RegionError, Row};

/// Slots of virtual memory over one sparse memfd, or over pages of a device.
#[pyclass(module = "ribbon_server._native", frozen)]
pub struct Region {
    shared: Arc<RwLock<region::Region>>,
    device: Option<Attached>,
}

impl Region {
    /// The region itself, for runs on the CPU that outlive this handle.
    ///
    /// # Errors
    /// ValueError for a region on a device, which those kernels cannot reach.
    pub fn shared_with_cpu(&self) -> PyResult<Arc<RwLock<region::Region>>> {
        if self
            .device
            .as_ref()
            .is_some_and(|device| !device.serves_the_cpu())
        {
            return Ok(invalid(
                "the kernels of the CPU cannot reach a region on a device",
            )?);
        }
        Ok(Arc::clone(&self.shared))
    }

    fn read(&self) -> RwLockReadGuard<'_, region::Region> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, region::Region> {
        self.shared.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn create(layout: Layout, pool: Arc<PagePool>) -> Result<region::Region, NativeError> {
    let layout = layout.checked()?;
    let (virtual_bytes, physical_bytes) = (
        layout.range_start(layout.num_slots),
        layout.range_start(layout.num_storages),
    );
    let reserved = Memfd::new(virtual_bytes, physical_bytes);
    let memory = reserved.map_err(|source| NativeError::Io {
        what: "reserving the KV region",
        source,
    })?;
    Ok(region::Region::new(layout, Box::new(memory), pool)?)
}

/// Maps that all regions of the process may have together.
#[pyfunction]
pub fn max_maps() -> usize {
    memfd::max_maps()
}

/// Spans a slot may show where one region has all the maps.
fn all_spans(num_slots: u32) -> u32 {
    (memfd::max_maps() as u32 / num_slots.max(1)).saturating_sub(1)
}

keyword_record!(
    "apply",
    PlanArguments {
        kind: Column<u8>,
        group: Column<u8>,
        slot: Column<u32>,
        storage: Column<u32>,
        tokens: Column<u32>,
        number: u8,
        shown: Column<i64>,
        begins: Column<i64>,
    }
);

/// What Python's columns of a region's slots say of one slot.
const VOID: i64 = -1;

#[pymethods]
impl Region {
    #[new]
    #[pyo3(signature = (*, num_slots, num_storages, slot_tokens, stride_bytes, num_pages, pool_of=None, **options))]
    fn new(
        num_slots: u32,
        num_storages: u32,
        slot_tokens: u32,
        stride_bytes: u32,
        num_pages: u64,
        pool_of: Option<&Region>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let options = device::Options::read(options)?;
        if options.is_on_device() && pool_of.is_some() {
            return Ok(invalid(
                "pool_of: a region on a device has a pool of its own",
            )?);
        }
        let layout = Layout {
            num_slots,
            num_storages,
            slot_tokens,
            stride_bytes,
            page_bytes: memfd::page_bytes(),
            max_spans: options.max_spans.unwrap_or_else(|| {
                if options.is_on_device() {
                    num_storages // a device has no limit of its own
                } else {
                    all_spans(num_slots)
                }
            }),
        };
        let pool = pool_of.map_or_else(
            || Arc::new(PagePool::new(num_pages)),
            |other| Arc::clone(other.read().pool()),
        );
        if pool.total() != num_pages {
            return Ok(invalid(format!(
                "num_pages is {num_pages}; the pool of the other region has {}",
                pool.total()
            ))?);
        }
        let (region, device) = match Attached::create(layout, &pool, &options)? {
            Some((region, device)) => (region, Some(device)),
            None => (create(layout, pool)?, None),
        };
        Ok(Self {
            shared: Arc::new(RwLock::new(region)),
            device,
        })
    }

    #[getter]
    fn address(&self) -> usize {
        self.read().address()
    }

    #[getter]
    fn num_slots(&self) -> u32 {
        self.read().layout().num_slots
    }

    #[getter]
    fn max_spans(&self) -> u32 {
        self.read().layout().max_spans
    }

    #[getter]
    fn slot_bytes(&self) -> u64 {
        self.read().layout().slot_bytes()
    }

    #[getter]
    fn page_bytes(&self) -> u64 {
        self.read().layout().page_bytes
    }

    #[getter]
    fn pages_available(&self) -> u64 {
        self.read().pool().available()
    }

    #[getter]
    fn pages_used(&self) -> u64 {
        self.read().pages_used()
    }

    #[getter]
    fn resident_bytes(&self) -> PyResult<u64> {
        Ok(self.read().resident_bytes().map_err(NativeError::from)?)
    }

    #[getter]
    fn map_count(&self) -> usize {
        self.read().book().extra_maps()
    }

    #[pyo3(signature = (**arguments))]
    fn apply(&self, py: Python<'_>, arguments: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let mut given = PlanArguments::read(arguments)?;
        let rows = own_rows(&given)?;
        let slots = [self.read().layout().num_slots as usize];
        let shown = given.shown.output("shown", &slots)?;
        let begins = given.begins.output("begins", &slots)?;
        let apply = || apply_rows(&mut self.write(), rows, shown, begins);
        Ok(py.detach(apply).map_err(NativeError::from)?)
    }

    fn resize_pool(&self, num_pages: u64) -> PyResult<()> {
        if let Some(device) = &self.device {
            device.check_pool(num_pages)?;
        }
        self.read().pool().resize(num_pages);
        Ok(())
    }

    #[getter]
    fn device(&self) -> Option<u32> {
        self.device.as_ref().map(|device| device.number)
    }

    #[getter]
    fn num_bands(&self) -> u64 {
        self.device.as_ref().map_or(1, Attached::num_bands)
    }

    #[getter]
    fn band_bytes(&self) -> u64 {
        let region = self.read();
        region.layout().range_start(region.layout().num_slots)
    }

    #[getter]
    fn aliasing(&self) -> bool {
        self.device
            .as_ref()
            .is_none_or(|device| device.memory.aliasing())
    }

    #[getter(__cuda_array_interface__)]
    fn cuda_array_interface<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let found = match &self.device {
            Some(device) => device.array_interface(py, &self.read())?,
            None => None,
        };
        found.ok_or_else(|| PyAttributeError::new_err("the region is not on a CUDA device"))
    }

    #[pyo3(signature = (stream=0))]
    fn fence(&self, py: Python<'_>, stream: u64) -> PyResult<()> {
        let Some(device) = &self.device else {
            return Ok(());
        };
        let fenced = py.detach(|| device.memory.fence(stream));
        Ok(fenced.map_err(|source| NativeError::Io {
            what: "marking the end of a step",
            source,
        })?)
    }

    fn prefetch(&self, slot: Column<u32>, end: Column<u32>) -> PyResult<()> {
        let slots = slot.slice();
        let ends = end.input("end", &[slots.len()])?;
        let region = self.read();
        for (slot, end) in slots.iter().zip(ends) {
            if let Some(device) = &self.device {
                device.prefetch(&region, *slot, *end)?;
            }
        }
        Ok(())
    }

    fn settle(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        let waited = py.detach(|| self.device.as_ref().map(|device| device.settle(seconds)));
        Ok(waited.unwrap_or(Ok(true))?)
    }

    fn map_statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let rows = match &self.device {
            Some(device) => device.memory.statistics(),
            None => device::no_statistics(),
        };
        let statistics = PyDict::new(py);
        for (name, number) in rows {
            statistics.set_item(name, number)?;
        }
        Ok(statistics)
    }

    fn owned_pages(&self, storage: u32) -> PyResult<u64> {
        let region = self.read();
        let book = region.book();
        Ok(book
            .storage(storage)
            .map(|found| book.owned_pages(found))
            .map_err(NativeError::from)?)
    }

    fn shown_tokens(&self, slot: u32) -> PyResult<u32> {
        Ok(self
            .read()
            .book()
            .shown_tokens(slot)
            .map_err(NativeError::from)?)
    }

    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        Ok(py
            .detach(|| self.write().reset())
            .map_err(NativeError::from)?)
    }
}

/// The rows of a plan that name the region's group.
fn own_rows(given: &PlanArguments) -> PyResult<Vec<Row>> {
    let kinds = given.kind.slice();
    let shape = [kinds.len()];
    let groups = given.group.input("group", &shape)?;
    let slots = given.slot.input("slot", &shape)?;
    let storages = given.storage.input("storage", &shape)?;
    let tokens = given.tokens.input("tokens", &shape)?;
    let own = (0..kinds.len()).filter(|index| groups[*index] == given.number);
    let row = |index| Row {
        index,
        kind: kinds[index],
        slot: slots[index],
        storage: storages[index],
        tokens: tokens[index],
    };
    Ok(own.map(row).collect())
}

/// Applies rows and writes down what their slots show then.
fn apply_rows(
    region: &mut region::Region,
    rows: Vec<Row>,
    shown: &mut [i64],
    begins: &mut [i64],
) -> Result<(), RegionError> {
    region.apply_plan(rows.into_iter(), |region, row| {
        let Some(slot) = region.book().slot_of(row) else {
            return;
        };
        let tokens = tokens_shown(region, slot);
        shown[slot as usize] = tokens;
        if !region.book().slot(slot).is_ok_and(|open| open.grown) {
            begins[slot as usize] = tokens;
        }
    })
}

fn tokens_shown(region: &region::Region, slot: u32) -> i64 {
    match region.book().shown_tokens(slot) {
        _ if region.book().is_void(slot) => VOID,
        Ok(tokens) => i64::from(tokens),
        Err(_) => 0,
    }
}
