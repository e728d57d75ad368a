//! The row-wise kernels, the packed linear layer and the settings as Python sees them.

use half::bf16;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::bindings::arguments::keyword_record;
use crate::element::{DType, Element};
use crate::elementwise::{self, RmsNorm};
use crate::error::{NativeError, invalid};
use crate::tensor::{Address, Pieces};
use crate::{features, linear, threads};

keyword_record!(
    "rms_norm",
    RmsNormArguments {
        x: usize,
        residual: usize,
        weight: usize,
        output: usize,
        rows: usize,
        dim: usize,
        eps: f32,
        dtype: DType,
    }
);

keyword_record!(
    "silu_mul",
    SiluMulArguments {
        gate_up: usize,
        output: usize,
        rows: usize,
        dim: usize,
        dtype: DType
    }
);

fn positive_dim(dim: usize) -> Result<(), NativeError> {
    if dim == 0 {
        invalid("dim is 0; it must be at least 1")
    } else {
        Ok(())
    }
}

fn rms_norm_typed<T: Element>(given: &RmsNormArguments) -> Result<(), NativeError> {
    positive_dim(given.dim)?;
    let elements = given.rows * given.dim;
    // SAFETY: the caller passes tensors of the documented shapes and keeps them alive and unchanged for the call.
    let (x, weight) = unsafe {
        (
            Address(given.x).slice::<T>(elements, "x")?,
            Address(given.weight).slice::<T>(given.dim, "weight")?,
        )
    };
    // SAFETY: as above; the output is no input.
    let output = Pieces::new(unsafe { Address(given.output).slice_mut::<T>(elements, "output")? });
    let residual = match given.residual {
        0 => None,
        // SAFETY: as above; the residual is neither `x` nor the output.
        address => Some(Pieces::new(unsafe {
            Address(address).slice_mut::<T>(elements, "residual")?
        })),
    };
    RmsNorm {
        x,
        residual,
        weight,
        output,
        eps: given.eps,
    }
    .run();
    Ok(())
}

fn silu_mul_typed<T: Element>(given: &SiluMulArguments) -> Result<(), NativeError> {
    positive_dim(given.dim)?;
    let elements = given.rows * given.dim;
    // SAFETY: the caller passes tensors of the documented shapes and keeps them alive and unchanged for the call.
    let gate_up = unsafe { Address(given.gate_up).slice::<T>(2 * elements, "gate_up")? };
    // SAFETY: as above; the output is no input.
    let output = unsafe { Address(given.output).slice_mut::<T>(elements, "output")? };
    elementwise::silu_mul(gate_up, Pieces::new(output), given.rows, given.dim);
    Ok(())
}

#[pyfunction]
#[pyo3(signature = (**arguments))]
pub fn rms_norm(py: Python<'_>, arguments: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
    let given = RmsNormArguments::read(arguments)?;
    Ok(py.detach(|| match given.dtype {
        DType::Float32 => rms_norm_typed::<f32>(&given),
        DType::Bfloat16 => rms_norm_typed::<bf16>(&given),
    })?)
}

#[pyfunction]
#[pyo3(signature = (**arguments))]
pub fn silu_mul(py: Python<'_>, arguments: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
    let given = SiluMulArguments::read(arguments)?;
    Ok(py.detach(|| match given.dtype {
        DType::Float32 => silu_mul_typed::<f32>(&given),
        DType::Bfloat16 => silu_mul_typed::<bf16>(&given),
    })?)
}

/// A linear layer of bfloat16.
#[pyclass(module = "ribbon_server._native", frozen)]
pub struct PackedLinear {
    packed: linear::PackedLinear,
}

#[pymethods]
impl PackedLinear {
    #[new]
    #[pyo3(signature = (weight, out_features, in_features, bias = 0))]
    fn new(
        py: Python<'_>,
        weight: usize,
        out_features: usize,
        in_features: usize,
        bias: usize,
    ) -> PyResult<Self> {
        let elements = out_features
            .checked_mul(in_features)
            .filter(|elements| *elements > 0);
        let Some(elements) = elements else {
            return Err(PyValueError::new_err(format!(
                "a weight of {out_features} x {in_features} cannot be packed"
            )));
        };
        // SAFETY: the caller passes a tensor of the documented shape and keeps it alive and unchanged for the call.
        let weight = unsafe { Address(weight).slice::<bf16>(elements, "weight")? };
        let bias = match bias {
            0 => None,
            // SAFETY: as for the weight.
            bias => Some(unsafe { Address(bias).slice::<bf16>(out_features, "bias")? }),
        };
        Ok(Self {
            packed: py
                .detach(|| linear::PackedLinear::new(weight, bias, out_features, in_features)),
        })
    }

    fn forward(&self, py: Python<'_>, x: usize, output: usize, rows: usize) -> PyResult<()> {
        if let Some(limit) = self.packed.max_rows().filter(|limit| rows > *limit) {
            return Err(PyValueError::new_err(format!(
                "rows is {rows}; at most {limit} are built"
            )));
        }
        if rows == 0 {
            return Ok(());
        }
        let (out_features, in_features) = self.packed.shape();
        // SAFETY: the caller passes tensors of the documented shapes and keeps them alive and unchanged for the call.
        let x = unsafe { Address(x).slice::<bf16>(rows * in_features, "x")? };
        // SAFETY: as above; the output is no input.
        let output = unsafe { Address(output).slice_mut::<bf16>(rows * out_features, "output")? };
        let output = Pieces::new(output);
        py.detach(|| self.packed.forward(x, output));
        Ok(())
    }

    #[getter]
    fn max_rows(&self) -> Option<usize> {
        self.packed.max_rows()
    }
}

#[pyfunction]
pub fn set_num_threads(num_threads: usize) -> PyResult<()> {
    Ok(threads::set_num_threads(num_threads)?)
}

#[pyfunction]
pub fn num_threads() -> usize {
    threads::num_threads()
}

#[pyfunction]
pub fn cpu_features() -> Vec<&'static str> {
    features::names()
}

#[pyfunction]
pub fn set_cpu_features(limit: &str) -> PyResult<()> {
    if features::set_limit(limit) {
        return Ok(());
    }
    Err(PyValueError::new_err(format!(
        "limit is {limit:?}; portable, avx2, avx512, avx512bf16 and best exist"
    )))
}
