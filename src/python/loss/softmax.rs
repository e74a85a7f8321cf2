//! The softmaxes and the log-sum-exp along an axis, and their gradients.

use pyo3::exceptions::PyNotImplementedError;
use pyo3::prelude::*;

use super::{Obj, axis_of, is_implemented, operand, optional, rows, same_shape, softmax_kernel, split, whole};
use crate::elementwise::{Normal, log_sum_exp, log_sum_exp_gradient, softmax as normalise, softmax_gradient};
use crate::parallel::num_threads;
use crate::python::array::{Array, Kind, follow};
use crate::python::detached;
use crate::rows::Dtype;
use crate::score::{Axes, Job, nanoseconds_a_row};

fn normal(name: &str) -> PyResult<Normal> {
    match name {
        "softmax" => Ok(Normal::Softmax),
        "log_softmax" => Ok(Normal::LogSoftmax),
        "softmin" => Ok(Normal::Softmin),
        other => Err(crate::error::unknown("name", other, &["softmax", "log_softmax", "softmin"]).into()),
    }
}

/// One of softmax, log_softmax and softmin along an axis, in the dtype of the input.
#[pyfunction]
pub fn softmax<'py>(py: Python<'py>, name: &str, input: Obj<'_, 'py>, dim: isize) -> PyResult<Bound<'py, PyAny>> {
    let normal = normal(name)?;
    let x = Array::new("input", input)?;
    if normal == Normal::Softmin && x.dtype == Dtype::Bool {
        return Err(PyNotImplementedError::new_err(
            "Negation, the `-` operator, on a bool tensor is not supported. If you are trying to invert a mask, use the `~` \
             or `logical_not()` operator instead.",
        ));
    }
    let axis = axis_of(dim, x.shape().len())?;
    is_implemented(&x, || softmax_kernel(normal == Normal::LogSoftmax, axis, x.shape().len()))?;
    let (lead, classes) = split(x.shape(), axis, 1);
    let (target, field) = whole(py, &x.kind, x.shape(), axis, x.dtype)?;
    let job = Job::new([operand("input", &x, axis)], lead, classes, num_threads());
    let (job, single, field) = (&job, x.dtype != Dtype::F64, &field);
    detached(py, 2.0 * job.work(), || normalise(job, single, field, normal))?;
    target.finish(py, None)
}

/// The gradient of `softmax` by its input, from that of its result and the result.
#[pyfunction]
pub fn softmax_backward<'py>(
    py: Python<'py>,
    name: &str,
    grad: Obj<'_, 'py>,
    result: Obj<'_, 'py>,
    dim: isize,
) -> PyResult<Bound<'py, PyAny>> {
    let (normal, g, y) = (normal(name)?, Array::new("grad", grad)?, Array::new("result", result)?);
    same_shape("grad", &g, y.shape())?;
    let axis = axis_of(dim, y.shape().len())?;
    let (lead, classes) = split(y.shape(), axis, 1);
    let (target, field) = whole(py, &y.kind, y.shape(), axis, y.dtype)?;
    let job = Job::new([operand("grad", &g, axis), operand("result", &y, axis)], lead, classes, num_threads());
    let (job, single, field) = (&job, y.dtype != Dtype::F64, &field);
    detached(py, 2.0 * job.work(), || {
        softmax_gradient(job, single, field, normal);
        Ok(())
    })?;
    target.finish(py, None)
}

/// The log-sum-exp along an axis, in float64 where `wide`, else in the dtype of `like` or of the input (float32 of
/// tensors of integers, as in torch).
#[pyfunction]
#[pyo3(signature = (input, dim, keepdim, wide=false, like=None))]
pub fn logsumexp<'py>(
    py: Python<'py>,
    input: Obj<'_, 'py>,
    dim: isize,
    keepdim: bool,
    wide: bool,
    like: Option<Obj<'_, 'py>>,
) -> PyResult<Bound<'py, PyAny>> {
    let x = Array::new("input", input)?;
    let like = optional("input", like)?;
    let axis = axis_of(dim, x.shape().len())?;
    let (lead, classes) = split(x.shape(), axis, 1);
    let dtype = match like.as_ref().unwrap_or(&x).dtype {
        _ if wide => Dtype::F64,
        dtype if dtype.is_floating() => dtype,
        _ if matches!(x.kind, Kind::Numpy) => Dtype::F64,
        _ => Dtype::F32,
    };
    let (target, field) = if keepdim {
        let mut shape = Axes::from(x.shape());
        shape.get_mut(axis).into_iter().for_each(|n| *n = 1);
        whole(py, &x.kind, &shape, axis, dtype)?
    } else {
        rows(py, &x.kind, &lead, dtype)?
    };
    let job = Job::new([operand("input", &x, axis)], lead, classes, num_threads());
    let (job, single, field) = (&job, x.is_floating() && x.dtype != Dtype::F64, &field);
    detached(py, job.work(), || log_sum_exp(job, single, field))?;
    target.finish(py, None)
}

/// The gradient of `logsumexp` by its input: `grad` and `result` broadcast to it.
#[pyfunction]
pub fn logsumexp_backward<'py>(
    py: Python<'py>,
    grad: Obj<'_, 'py>,
    input: Obj<'_, 'py>,
    result: Obj<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let (g, x, lse) = (Array::new("grad", grad)?, Array::new("input", input)?, Array::new("result", result)?);
    // Rows along the last axis, each with its own numbers: what is reduced does not matter any more.
    let n = x.shape().len();
    let axis = n.saturating_sub(1);
    let (mut lead, mut classes) = split(x.shape(), axis, 1);
    let mut operands = vec![operand("input", &x, axis)];
    let (target, mut field) = whole(py, &x.kind, x.shape(), axis, x.dtype)?;
    let along = |y: &Array<'_>| follow(x.shape(), y.shape(), y.strides());
    let (of_g, of_lse) = (along(&g), along(&lse));
    if n > 0 && (of_g[axis] != 0 || of_lse[axis] != 0) {
        // Each element is a row of its own.
        lead.push(classes);
        classes = 1;
        let stride = operands[0].class_stride;
        operands[0].lead.push(stride);
        field.lead.push(field.class_stride);
    }
    let cut = |strides: &[isize]| Axes::from(&strides[..lead.len()]);
    operands.push(g.operand("grad", 0, cut(&of_g)));
    operands.push(lse.operand("result", 0, cut(&of_lse)));
    let job = Job::new(operands, lead, classes, num_threads());
    let (single, work) = (x.dtype != Dtype::F64, nanoseconds_a_row(classes, 1) * job.len() as f64);
    let (job, field) = (&job, &field);
    detached(py, work, || log_sum_exp_gradient(job, single, field))?;
    target.finish(py, None)
}
