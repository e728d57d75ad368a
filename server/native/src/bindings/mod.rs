//! The Python face of the module: reads arguments, releases the GIL, maps errors. Computes nothing.

mod arguments;
mod device;
mod grammar;
mod kernels;
mod region;
mod runs;
mod sampling;

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::error::NativeError;
use crate::region::RegionError;

pyo3::create_exception!(
    _native,
    OutOfPages,
    pyo3::exceptions::PyException,
    "The pool of physical pages is exhausted."
);

impl From<NativeError> for PyErr {
    fn from(error: NativeError) -> Self {
        let message = error.to_string();
        match &error {
            NativeError::Invalid(_) => PyValueError::new_err(message),
            NativeError::Io { source, .. } => os_error(source, message),
            NativeError::Region(region) => match region.cause() {
                RegionError::OutOfPages { .. } => OutOfPages::new_err(message),
                RegionError::Kernel { source, .. } => os_error(source, message),
                RegionError::Broken => PyOSError::new_err((libc::EIO, message)),
                _ => PyValueError::new_err(message),
            },
        }
    }
}

fn os_error(source: &std::io::Error, message: String) -> PyErr {
    PyOSError::new_err((source.raw_os_error().unwrap_or(libc::EIO), message))
}

/// The module `ribbon_server._native`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("OutOfPages", module.py().get_type::<OutOfPages>())?;
    module.add_class::<region::Region>()?;
    module.add_function(wrap_pyfunction!(region::max_maps, module)?)?;
    module.add_function(wrap_pyfunction!(device::cuda_memory, module)?)?;
    module.add_function(wrap_pyfunction!(device::bench_map, module)?)?;
    module.add_class::<grammar::Grammars>()?;
    module.add_class::<runs::Runs>()?;
    module.add_class::<kernels::PackedLinear>()?;
    module.add_function(wrap_pyfunction!(kernels::rms_norm, module)?)?;
    module.add_function(wrap_pyfunction!(kernels::silu_mul, module)?)?;
    module.add_function(wrap_pyfunction!(sampling::sample, module)?)?;
    module.add_function(wrap_pyfunction!(sampling::gumbel_noise, module)?)?;
    module.add_function(wrap_pyfunction!(sampling::mark_green, module)?)?;
    module.add_function(wrap_pyfunction!(kernels::set_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(kernels::num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(kernels::cpu_features, module)?)?;
    module.add_function(wrap_pyfunction!(kernels::set_cpu_features, module)?)
}
