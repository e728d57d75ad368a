//! `Runs` as Python sees it.

use std::sync::{Arc, PoisonError, RwLock};

use half::bf16;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::attention::{self, Problem};
use crate::bindings::arguments::{Column, keyword_record};
use crate::bindings::region::Region;
use crate::element::{DType, Element};
use crate::error::NativeError;
use crate::region;
use crate::rope::{self, RopeStore};
use crate::runs::{Batch, LayerShape};
use crate::tensor::{Address, Pieces};

/// The ragged batch of one step, prepared once and used by every layer.
#[pyclass(module = "ribbon_server._native", frozen)]
pub struct Runs {
    region: Arc<RwLock<region::Region>>,
    batch: Batch,
    epoch: u64,
}

keyword_record!(
    "rope_store",
    RopeArguments {
        qkv: usize,
        query_out: usize,
        cos: usize,
        sin: usize,
        kv_offset: usize,
        num_heads: usize,
        num_kv_heads: usize,
        head_dim: usize,
        dtype: DType,
    }
);

keyword_record!(
    "attention",
    AttentionArguments {
        query: usize,
        output: usize,
        kv_offset: usize,
        num_heads: usize,
        num_kv_heads: usize,
        head_dim: usize,
        scale: f32,
        dtype: DType,
    }
);

impl Runs {
    /// Holds the region still while `work` uses its addresses.
    fn with_region(
        &self,
        shape: &LayerShape,
        work: impl FnOnce() -> Result<(), NativeError>,
    ) -> Result<(), NativeError> {
        let region = self.region.read().unwrap_or_else(PoisonError::into_inner);
        shape.check(self.batch.stride_bytes)?;
        if region.epoch() != self.epoch {
            self.batch.check(&region)?;
        }
        work()
    }

    fn rope_typed<T: Element>(
        &self,
        shape: LayerShape,
        given: &RopeArguments,
    ) -> Result<(), NativeError> {
        let (tokens, dim) = (self.batch.num_queries, shape.head_dim);
        let width = (shape.num_heads + 2 * shape.num_kv_heads) * dim;
        // SAFETY: the caller passes tensors of the documented shapes and keeps them alive and unchanged for the call.
        let (qkv, cos, sin) = unsafe {
            let angles = tokens * dim / 2;
            let qkv = Address(given.qkv).slice::<T>(tokens * width, "qkv")?;
            (
                qkv,
                Address(given.cos).slice(angles, "cos")?,
                Address(given.sin).slice(angles, "sin")?,
            )
        };
        // SAFETY: as above; the output is no input.
        let query_out = unsafe {
            Address(given.query_out).slice_mut::<T>(tokens * shape.num_heads * dim, "query_out")?
        };
        rope::rope_store(&RopeStore {
            batch: &self.batch,
            shape,
            qkv,
            query_out: Pieces::new(query_out),
            cos,
            sin,
        });
        Ok(())
    }

    fn attention_typed<T: Element>(
        &self,
        shape: LayerShape,
        given: &AttentionArguments,
    ) -> Result<(), NativeError> {
        let elements = self.batch.num_queries * shape.num_heads * shape.head_dim;
        // SAFETY: the caller passes tensors of the documented shapes and keeps them alive and unchanged for the call.
        let query = unsafe { Address(given.query).slice::<T>(elements, "query")? };
        // SAFETY: as above; the output is no input.
        let output = unsafe { Address(given.output).slice_mut::<T>(elements, "output")? };
        let output = Pieces::new(output);
        attention::attention(&Problem {
            batch: &self.batch,
            shape,
            query,
            output,
            scale: given.scale,
        });
        Ok(())
    }
}

#[pymethods]
impl Runs {
    #[new]
    #[pyo3(signature = (region, slots, starts, lengths, window=None))]
    fn new(
        region: &Region,
        slots: Column<u32>,
        starts: Column<u32>,
        lengths: Column<u32>,
        window: Option<usize>,
    ) -> PyResult<Self> {
        let shared = region.shared_with_cpu()?;
        let (batch, epoch) = {
            let held = shared.read().unwrap_or_else(PoisonError::into_inner);
            (
                Batch::new(
                    &held,
                    slots.slice(),
                    starts.slice(),
                    lengths.slice(),
                    window,
                )?,
                held.epoch(),
            )
        };
        Ok(Self {
            region: shared,
            batch,
            epoch,
        })
    }

    #[pyo3(signature = (**arguments))]
    fn rope_store(&self, py: Python<'_>, arguments: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let given = RopeArguments::read(arguments)?;
        let RopeArguments {
            kv_offset,
            num_heads,
            num_kv_heads,
            head_dim,
            dtype,
            ..
        } = given;
        let shape = LayerShape {
            kv_offset,
            num_heads,
            num_kv_heads,
            head_dim,
            dtype,
        };
        let work = || match dtype {
            DType::Float32 => self.rope_typed::<f32>(shape, &given),
            DType::Bfloat16 => self.rope_typed::<bf16>(shape, &given),
        };
        Ok(py.detach(|| self.with_region(&shape, work))?)
    }

    #[pyo3(signature = (**arguments))]
    fn attention(&self, py: Python<'_>, arguments: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let given = AttentionArguments::read(arguments)?;
        let AttentionArguments {
            kv_offset,
            num_heads,
            num_kv_heads,
            head_dim,
            dtype,
            ..
        } = given;
        let shape = LayerShape {
            kv_offset,
            num_heads,
            num_kv_heads,
            head_dim,
            dtype,
        };
        let work = || match dtype {
            DType::Float32 => self.attention_typed::<f32>(shape, &given),
            DType::Bfloat16 => self.attention_typed::<bf16>(shape, &given),
        };
        Ok(py.detach(|| self.with_region(&shape, work))?)
    }
}
