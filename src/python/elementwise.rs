//! Building blocks of `kullback.functional`: rows as they are, no checks of what they hold.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::array::{Array, Kind, Target, precision, scalar_of};
use super::detached;
use super::information::{Call, prepare};
use super::options::{Axis, Reduction, Spaces, Temperature, Threads};
use crate::elementwise::{Field, kl_terms, kl_total, soft_cross_entropy as soft, softmax as normalise};
use crate::score::{Given, nanoseconds_a_row};

fn job<'py>(operands: &[(&'static str, &Array<'py>)], axis: isize, threads: &Threads) -> PyResult<Call<'py>> {
    let (spaces, one) = (Spaces([Given::Logits; 2], false), Temperature([1.0; 2], false));
    prepare(operands, None, &spaces, &one, axis, None, None, true, threads.get())
}

/// A floating array.
fn floating<'py>(name: &str, obj: &Bound<'py, PyAny>) -> PyResult<Array<'py>> {
    let array = Array::new(name, obj)?;
    if array.is_floating() {
        return Ok(array);
    }
    Err(PyTypeError::new_err(format!("{name} must hold floating numbers")))
}

/// A new array of the rows' shape with the class axis in its place.
fn field<'py>(py: Python<'py>, kind: &Kind<'py>, call: &Call<'py>) -> PyResult<(Target<'py>, Field)> {
    let mut shape = call.job.lead.clone();
    shape.insert(call.place, call.job.classes);
    let target = Target::new(py, kind, &shape, precision(call.single))?;
    let mut lead = target.strides();
    let class_stride = lead.remove(call.place);
    let field = Field { data: target.data(), class_stride, lead };
    Ok((target, field))
}

fn softmax_of<'py>(
    x: &Bound<'py, PyAny>,
    axis: isize,
    threads: &Threads,
    logarithm: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let py = x.py();
    let array = floating("input", x)?;
    let call = job(&[("input", &array)], axis, threads)?;
    let (target, field) = field(py, &array.kind, &call)?;
    let (job, field) = (&call.job, &field);
    let work = 2.0 * nanoseconds_a_row(job.classes, 1) * job.len() as f64;
    detached(py, work, || normalise(job, field, logarithm))?;
    target.finish(py, None)
}

/// Softmax along an axis.
#[pyfunction]
#[pyo3(signature = (x, *, axis, threads=Threads(None)), text_signature = "(x, *, axis, threads=None)")]
pub fn softmax<'py>(x: &Bound<'py, PyAny>, axis: Axis, threads: Threads) -> PyResult<Bound<'py, PyAny>> {
    softmax_of(x, axis.0, &threads, false)
}

/// Logarithm of the softmax along an axis.
#[pyfunction]
#[pyo3(signature = (x, *, axis, threads=Threads(None)), text_signature = "(x, *, axis, threads=None)")]
pub fn log_softmax<'py>(x: &Bound<'py, PyAny>, axis: Axis, threads: Threads) -> PyResult<Bound<'py, PyAny>> {
    softmax_of(x, axis.0, &threads, true)
}

/// torch's KL terms of arrays of one shape: all of them, or their sum.
#[pyfunction]
#[pyo3(
    signature = (input, target, *, log_target, reduction, threads=Threads(None)),
    text_signature = "(input, target, *, log_target, reduction, threads=None)"
)]
pub fn kl_div<'py>(
    py: Python<'py>,
    input: &Bound<'py, PyAny>,
    target: &Bound<'py, PyAny>,
    log_target: bool,
    reduction: Reduction,
    threads: Threads,
) -> PyResult<Bound<'py, PyAny>> {
    let (x, t) = (floating("input", input)?, floating("target", target)?);
    let kind = Kind::of(&[("input", &x), ("target", &t)])?;
    let call = job(&[("input", &x), ("target", &t)], -1, &threads)?;
    let work = nanoseconds_a_row(call.job.classes, 2) * call.job.len() as f64;
    if reduction == Reduction::None {
        let (target, field) = field(py, &kind, &call)?;
        let (job, field) = (&call.job, &field);
        detached(py, work, || kl_terms(job, field, log_target))?;
        return target.finish(py, None);
    }
    let job = &call.job;
    let total = detached(py, work, || Ok(kl_total(job, log_target)))?;
    scalar_of(py, &kind, if reduction == Reduction::Sum { total.sum() } else { total.mean() }, precision(call.single))
}

/// ``sum(weights * (logsumexp(logits) - logits))`` of every row.
#[pyfunction]
#[pyo3(
    signature = (weights, logits, *, axis, threads=Threads(None)),
    text_signature = "(weights, logits, *, axis, threads=None)"
)]
pub fn soft_cross_entropy<'py>(
    py: Python<'py>,
    weights: &Bound<'py, PyAny>,
    logits: &Bound<'py, PyAny>,
    axis: Axis,
    threads: Threads,
) -> PyResult<Bound<'py, PyAny>> {
    let (w, y) = (floating("weights", weights)?, floating("logits", logits)?);
    let kind = Kind::of(&[("weights", &w), ("logits", &y)])?;
    let call = job(&[("weights", &w), ("logits", &y)], axis.0, &threads)?;
    let target = Target::new(py, &kind, &call.job.lead, precision(call.single))?;
    let field = Field { data: target.data(), class_stride: 0, lead: target.strides() };
    let (job, field) = (&call.job, &field);
    let work = nanoseconds_a_row(job.classes, 2) * job.len() as f64;
    detached(py, work, || soft(job, field))?;
    target.finish(py, None)
}
