//! `Runs` as Python sees it.

use std::sync::{Arc, PoisonError, RwLock};

use half::bf16;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::attention::{self, Problem, ScoreRule};
use crate::bindings::arguments::{Column, keyword_record};
use crate::bindings::region::Region;
use crate::element::{DType, Element};
use crate::error::{NativeError, invalid};
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
        turned: usize,
        kv_offset: usize,
        num_heads: usize,
        num_kv_heads: usize,
        head_dim: usize,
        vectors: usize,
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
        vectors: usize,
        scale: f32,
        softcap: Option<f32>,
        slopes: usize,
        sinks: usize,
        chunk: Option<usize>,
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
        if given.turned > dim || !given.turned.is_multiple_of(2) {
            return invalid(format!(
                "turned is {}; it must be even and at most head_dim, which is {dim}",
                given.turned
            ));
        }
        let width = (shape.num_heads + shape.vectors * shape.num_kv_heads) * dim;
        // SAFETY: the caller passes tensors of the documented shapes and keeps them alive and unchanged for the call.
        let (qkv, cos, sin) = unsafe {
            let angles = tokens * given.turned / 2;
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
            turned: given.turned,
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
            rule: given.rule()?,
            chunk: given.chunk,
        });
        Ok(())
    }
}

impl AttentionArguments {
    fn rule(&self) -> Result<ScoreRule<'_>, NativeError> {
        let column = |address: usize, name: &'static str| match address {
            0 => Ok(None),
            // SAFETY: the caller passes float32 [heads] and keeps it alive and unchanged for the call.
            _ => unsafe { Address(address).slice(self.num_heads, name) }.map(Some),
        };
        if self.chunk == Some(0) {
            return invalid("chunk is 0; a query sees at least its own position");
        }
        if self.softcap.is_some_and(|softcap| softcap <= 0.0) {
            return invalid("softcap must be above 0");
        }
        Ok(ScoreRule {
            softcap: self.softcap,
            slopes: column(self.slopes, "slopes")?,
            sinks: column(self.sinks, "sinks")?,
        })
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
            vectors,
            dtype,
            ..
        } = given;
        let shape = LayerShape {
            kv_offset,
            num_heads,
            num_kv_heads,
            head_dim,
            vectors,
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
            vectors,
            dtype,
            ..
        } = given;
        let shape = LayerShape {
            kv_offset,
            num_heads,
            num_kv_heads,
            head_dim,
            vectors,
            dtype,
        };
        let work = || match dtype {
            DType::Float32 => self.attention_typed::<f32>(shape, &given),
            DType::Bfloat16 => self.attention_typed::<bf16>(shape, &given),
        };
        Ok(py.detach(|| self.with_region(&shape, work))?)
    }
}
