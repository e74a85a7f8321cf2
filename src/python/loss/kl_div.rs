//! torch's KLDivLoss and its gradients.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::pointwise::{Number, broadcast, every, loss, spread, upstream};
use super::{Obj, Reduce, promoted};
use crate::elementwise::Pointwise;
use crate::python::array::{Array, Kind};
use crate::rows::Dtype;

/// torch's promotion of two arrays: one without axes does not promote another.
fn promoted_of(a: &Array<'_>, b: &Array<'_>) -> Dtype {
    match (a.shape().len(), b.shape().len()) {
        (0, 1..) => b.dtype,
        (1.., 0) => a.dtype,
        _ => promoted(&[a.dtype, b.dtype]),
    }
}

/// What a mean is over: the values, or of a `batchmean` the rows of the input.
fn count(reduce: Reduce, input: &[usize], shape: &[usize]) -> usize {
    match reduce {
        Reduce::Batch => input.first().copied().unwrap_or(1),
        _ => shape.iter().product(),
    }
}

/// torch's KLDivLoss.
#[pyfunction]
pub fn kl_div<'py>(
    py: Python<'py>,
    input: Obj<'_, 'py>,
    target: Obj<'_, 'py>,
    reduction: Obj<'_, 'py>,
    log_target: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let reduce = Reduce::new(reduction, true)?;
    let (x, t) = (Array::new("input", input)?, Array::new("target", target)?);
    if !x.is_floating() || !t.is_floating() {
        return Err(PyRuntimeError::new_err("kl_div: Integral inputs not supported."));
    }
    let kind = Kind::of(&[("input", &x), ("target", &t)])?;
    // torch's message has the target first.
    let shape = broadcast(t.shape(), x.shape())?;
    let dtype = promoted_of(&x, &t);
    let value = if log_target { Pointwise::KlOfLog } else { Pointwise::Kl };
    let reduction = (reduce, count(reduce, x.shape(), &shape));
    let elements = [spread(&x, &shape), spread(&t, &shape)];
    loss(py, value, &kind, &shape, &elements, (dtype != Dtype::F64, dtype), reduction, || Ok(()))
}

/// The gradient of `kl_div` by its input or its target, in their common shape.
#[pyfunction]
pub fn kl_div_backward<'py>(
    py: Python<'py>,
    grad: Obj<'_, 'py>,
    input: Obj<'_, 'py>,
    target: Obj<'_, 'py>,
    reduction: Obj<'_, 'py>,
    log_target: bool,
    by_target: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let reduce = Reduce::new(reduction, true)?;
    let (g, x, t) = (Array::new("grad", grad)?, Array::new("input", input)?, Array::new("target", target)?);
    let shape = broadcast(x.shape(), t.shape())?;
    let single = promoted_of(&x, &t) != Dtype::F64;
    let mut cell = Number::default();
    let last = upstream(&g, &shape, single, (reduce, count(reduce, x.shape(), &shape)), &mut cell)?;
    let (of_x, of_t) = (spread(&x, &shape), spread(&t, &shape));
    let (value, elements, dtype) = match (by_target, log_target) {
        (false, false) => (Pointwise::KlInput, vec![of_t, last], x.dtype),
        (false, true) => (Pointwise::KlOfLogInput, vec![of_t, last], x.dtype),
        (true, false) => (Pointwise::KlTarget, vec![of_x, of_t, last], t.dtype),
        (true, true) => (Pointwise::KlOfLogTarget, vec![of_x, of_t, last], t.dtype),
    };
    every(py, value, &x.kind, &shape, &elements, (single, dtype))
}
