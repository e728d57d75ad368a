//! Reads Python arguments: numpy columns, dtypes, keyword records.

use pyo3::buffer::{Element as BufferElement, PyBuffer};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::element::DType;

/// A C-contiguous numpy array of a known element type, alive as long as this is.
pub struct Column<T: BufferElement>(PyBuffer<T>);

impl<'py, T: BufferElement> FromPyObject<'_, 'py> for Column<T> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let buffer = PyBuffer::<T>::get(&object)?;
        if !buffer.is_c_contiguous() {
            return Err(PyValueError::new_err("array must be C-contiguous"));
        }
        Ok(Self(buffer))
    }
}

impl<T: BufferElement> Column<T> {
    /// Sizes of the dimensions.
    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    /// The elements. The caller of the Python function leaves the array alone until it returns.
    pub fn slice(&self) -> &[T] {
        if self.0.item_count() == 0 {
            return &[];
        }
        // SAFETY: contiguous (checked), typed (checked by PyBuffer), kept alive by the buffer; not written meanwhile by contract.
        unsafe { std::slice::from_raw_parts(self.0.buf_ptr().cast(), self.0.item_count()) }
    }

    /// The elements of an output of exactly this shape.
    pub fn output(&mut self, name: &str, shape: &[usize]) -> PyResult<&mut [T]> {
        self.expect_shape(name, shape)?;
        if self.0.readonly() {
            return Err(PyValueError::new_err(format!("{name} is read-only")));
        }
        if self.0.item_count() == 0 {
            return Ok(&mut []);
        }
        // SAFETY: as for `slice`, writable (checked); no other argument may be the same array, by contract.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.0.buf_ptr().cast(), self.0.item_count()) })
    }

    /// The elements of an input of exactly this shape.
    pub fn input(&self, name: &str, shape: &[usize]) -> PyResult<&[T]> {
        self.expect_shape(name, shape)?;
        Ok(self.slice())
    }

    fn expect_shape(&self, name: &str, shape: &[usize]) -> PyResult<()> {
        if self.shape() != shape {
            return Err(PyValueError::new_err(format!(
                "{name} has shape {:?}, expected {shape:?}",
                self.shape()
            )));
        }
        Ok(())
    }
}

impl<'py> FromPyObject<'_, 'py> for DType {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match object.extract::<String>()?.as_str() {
            "float32" => Ok(Self::Float32),
            "bfloat16" => Ok(Self::Bfloat16),
            other => Err(PyValueError::new_err(format!(
                "dtype is {other:?}; float32 and bfloat16 are built"
            ))),
        }
    }
}

/// Reads a record from keyword arguments; `names` are all that exist, in the record's order.
pub fn record<'py, T>(
    function: &str,
    names: &[&str],
    given: Option<&Bound<'py, PyDict>>,
) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    let Some(given) = given else {
        return Err(PyTypeError::new_err(format!(
            "{function}() needs keyword arguments {}",
            names.join(", ")
        )));
    };
    for (key, _) in given.iter() {
        let key: String = key.extract()?;
        if !names.contains(&key.as_str()) {
            return Err(PyTypeError::new_err(format!(
                "{function}() got an unexpected keyword argument '{key}'"
            )));
        }
    }
    for name in names {
        if !given.contains(name)? {
            return Err(PyTypeError::new_err(format!(
                "{function}() is missing the keyword argument '{name}'"
            )));
        }
    }
    // The derived reader wraps what is wrong with a field; the caller is told both.
    given
        .as_any()
        .extract()
        .map_err(|error: PyErr| match error.cause(given.py()) {
            Some(cause) => PyValueError::new_err(format!(
                "{function}(): {}: {}",
                error.value(given.py()),
                cause.value(given.py())
            )),
            None => error,
        })
}

/// Declares a record of keyword arguments and how to read it.
macro_rules! keyword_record {
    ($function:literal, $(#[$meta:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(pyo3::FromPyObject)]
        #[pyo3(from_item_all)]
        pub struct $name { $(pub $field: $kind),* }

        impl $name {
            fn read(given: Option<&pyo3::Bound<'_, pyo3::types::PyDict>>) -> pyo3::PyResult<Self> {
                $crate::bindings::arguments::record($function, &[$(stringify!($field)),*], given)
            }
        }
    };
}
pub(crate) use keyword_record;
