//! The numbers that a forward pass saves for the gradients.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::array::{Array, Kind, Target};
use crate::rows::Dtype;
use crate::score::Numbers;

/// Room for `n` of them. Rows that do not count write none: theirs are 0 rather than what the memory held before.
pub fn new_numbers<'py>(py: Python<'py>, kind: &Kind<'py>, n: usize) -> PyResult<(Target<'py>, Numbers)> {
    let saved = Target::zeros(py, kind, &[n], Dtype::F64)?;
    let numbers = Numbers(saved.data().cast());
    Ok((saved, numbers))
}

/// What a forward pass saved, if it is that.
pub fn saved_numbers(saved: &Array<'_>, n: usize) -> PyResult<Numbers> {
    if saved.dtype != Dtype::F64 || saved.shape() != [n] || (n > 1 && saved.strides() != [8]) {
        return Err(PyTypeError::new_err(format!("saved must be {n} contiguous float64 numbers of the forward pass")));
    }
    Ok(Numbers(saved.data.cast_mut().cast()))
}
