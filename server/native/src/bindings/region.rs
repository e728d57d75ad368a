//! `Region` as Python sees it.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use pyo3::prelude::*;

use crate::bindings::arguments::Column;
use crate::error::{NativeError, invalid};
use crate::region::memfd::{self, Memfd};
use crate::region::{self, Layout, Operation, RegionError, kind_name};

/// Slots of virtual memory over one sparse memfd.
#[pyclass(module = "ribbon_server._native", frozen)]
pub struct Region {
    shared: Arc<RwLock<region::Region>>,
}

impl Region {
    /// The region itself, for runs that outlive this handle.
    pub fn shared(&self) -> Arc<RwLock<region::Region>> {
        Arc::clone(&self.shared)
    }

    fn read(&self) -> RwLockReadGuard<'_, region::Region> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, region::Region> {
        self.shared.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn create(layout: Layout) -> Result<region::Region, NativeError> {
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
    Ok(region::Region::new(layout, Box::new(memory))?)
}

#[pymethods]
impl Region {
    #[new]
    #[pyo3(signature = (*, num_slots, num_storages, slot_tokens, stride_bytes, num_pages))]
    fn new(
        num_slots: u32,
        num_storages: u32,
        slot_tokens: u32,
        stride_bytes: u32,
        num_pages: u64,
    ) -> PyResult<Self> {
        let layout = Layout {
            num_slots,
            num_storages,
            slot_tokens,
            stride_bytes,
            page_bytes: memfd::page_bytes(),
            num_pages,
        };
        Ok(Self {
            shared: Arc::new(RwLock::new(create(layout)?)),
        })
    }

    #[getter]
    fn address(&self) -> usize {
        self.read().address()
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
        self.read().pages_available()
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

    fn apply(
        &self,
        py: Python<'_>,
        kind: Column<u8>,
        slot: Column<u32>,
        storage: Column<u32>,
        tokens: Column<u32>,
    ) -> PyResult<()> {
        let rows = kind.slice().len();
        let columns = (
            kind.slice(),
            slot.input("slot", &[rows])?,
            storage.input("storage", &[rows])?,
            tokens.input("tokens", &[rows])?,
        );
        Ok(py.detach(|| apply_all(&mut self.write(), columns))?)
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

fn apply_all(
    region: &mut region::Region,
    columns: (&[u8], &[u32], &[u32], &[u32]),
) -> Result<(), NativeError> {
    let (kinds, slots, storages, tokens) = columns;
    if kinds.len() != slots.len() {
        return invalid("columns differ in length");
    }
    for (index, kind) in kinds.iter().enumerate() {
        let parsed = Operation::parse(*kind, slots[index], storages[index], tokens[index]);
        if let Err(source) = parsed.and_then(|operation| region.apply(operation)) {
            return Err(RegionError::Operation {
                index,
                kind: kind_name(*kind),
                source: Box::new(source),
            }
            .into());
        }
    }
    Ok(())
}
