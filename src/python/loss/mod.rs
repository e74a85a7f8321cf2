//! What `kullback.functional` stands on: torch's losses and softmaxes, with torch's checks and messages, and their gradients.

mod binary;
mod classes;
mod cross_entropy;
mod kl_div;
mod pointwise;
mod softmax;

use pyo3::exceptions::{PyIndexError, PyNotImplementedError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::array::{Array, Kind, Target};
use crate::elementwise::Field;
use crate::rows::Dtype;
use crate::score::{Axes, Operand};

/// Adds them to the module.
pub fn add(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(softmax::softmax, m)?)?;
    m.add_function(wrap_pyfunction!(softmax::softmax_backward, m)?)?;
    m.add_function(wrap_pyfunction!(softmax::logsumexp, m)?)?;
    m.add_function(wrap_pyfunction!(softmax::logsumexp_backward, m)?)?;
    m.add_function(wrap_pyfunction!(kl_div::kl_div, m)?)?;
    m.add_function(wrap_pyfunction!(kl_div::kl_div_backward, m)?)?;
    m.add_function(wrap_pyfunction!(binary::binary_cross_entropy, m)?)?;
    m.add_function(wrap_pyfunction!(binary::binary_cross_entropy_backward, m)?)?;
    m.add_function(wrap_pyfunction!(cross_entropy::cross_entropy_loss, m)?)?;
    m.add_function(wrap_pyfunction!(cross_entropy::cross_entropy_backward, m)?)?;
    m.add_function(wrap_pyfunction!(cross_entropy::nll_loss, m)?)?;
    m.add_function(wrap_pyfunction!(cross_entropy::nll_loss_backward, m)?)
}

type Obj<'a, 'py> = &'a Bound<'py, PyAny>;

/// torch's name of a dtype.
fn torch_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F64 => "Double",
        Dtype::F32 => "Float",
        Dtype::F16 => "Half",
        Dtype::Bf16 => "BFloat16",
        Dtype::I8 => "Char",
        Dtype::I16 => "Short",
        Dtype::I32 => "Int",
        Dtype::I64 => "Long",
        Dtype::U8 => "Byte",
        Dtype::U16 => "UInt16",
        Dtype::U32 => "UInt32",
        Dtype::U64 => "UInt64",
        Dtype::Bool => "Bool",
    }
}

/// torch's promotion of floating dtypes.
fn promoted(dtypes: &[Dtype]) -> Dtype {
    let all = |dtype: Dtype| dtypes.iter().all(|d| *d == dtype);
    if dtypes.contains(&Dtype::F64) || dtypes.iter().any(|d| !d.is_floating()) {
        Dtype::F64
    } else if all(Dtype::F16) || all(Dtype::Bf16) {
        dtypes[0]
    } else {
        Dtype::F32
    }
}

/// A shape as torch writes it.
fn list(shape: &[usize]) -> String {
    format!("{shape:?}")
}

/// What becomes of the values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reduce {
    None,
    Sum,
    Mean,
    Batch,
}

impl Reduce {
    /// torch's `reduction`, of a loss that has a `batchmean` or none.
    fn new(reduction: Obj<'_, '_>, batch: bool) -> PyResult<Self> {
        match reduction.cast::<PyString>().map(|s| s.to_string_lossy().into_owned()).as_deref() {
            Ok("none") => Ok(Reduce::None),
            Ok("sum") => Ok(Reduce::Sum),
            Ok("mean") => Ok(Reduce::Mean),
            Ok("batchmean") if batch => Ok(Reduce::Batch),
            _ => Err(PyValueError::new_err(format!("{} is not a valid value for reduction", reduction.str()?))),
        }
    }

    /// The result of a sum, or its gradient that of the result's: a mean is over `count`.
    fn of_sum(self, sum: f64, count: f64) -> f64 {
        match self {
            Reduce::None | Reduce::Sum => sum,
            Reduce::Mean | Reduce::Batch => sum / count,
        }
    }

    /// The gradient of the sum, from that of the result.
    fn gradient_of_sum(self, g: &Array<'_>, count: f64) -> PyResult<f64> {
        same_shape("grad", g, &[])?;
        // SAFETY: an array without axes has an element.
        Ok(self.of_sum(unsafe { g.dtype.number(g.data, g.swapped) }, count))
    }
}

/// An argument that may be left out.
fn optional<'py>(name: &str, obj: Option<Obj<'_, 'py>>) -> PyResult<Option<Array<'py>>> {
    obj.map(|obj| Array::new(name, obj)).transpose()
}

/// Refuses what is not floating, in the words of the kernel of torch that would not take it.
fn is_implemented(x: &Array<'_>, kernel: impl FnOnce() -> String) -> PyResult<()> {
    if x.is_floating() {
        return Ok(());
    }
    Err(PyNotImplementedError::new_err(format!("\"{}\" not implemented for '{}'", kernel(), torch_name(x.dtype))))
}

/// torch's name of the kernel of a softmax: the last axis has one of its own.
fn softmax_kernel(log: bool, axis: usize, axes: usize) -> String {
    let (log, last) = (if log { "log_" } else { "" }, if axis + 1 < axes { "" } else { "lastdim_" });
    format!("{log}softmax_{last}kernel_impl")
}

/// torch's reading of `dim`.
fn axis_of(dim: isize, axes: usize) -> PyResult<usize> {
    let n = axes.max(1) as isize;
    if dim < -n || dim >= n {
        return Err(PyIndexError::new_err(format!(
            "Dimension out of range (expected to be in range of [{}, {}], but got {dim})",
            -n,
            n - 1
        )));
    }
    Ok(dim.rem_euclid(n) as usize)
}

/// The numbers of all axes but one, and that of the one; without axes an array is one row of one class, whose is `alone`.
fn split<T: Copy>(all: &[T], axis: usize, alone: T) -> (Axes<T>, T) {
    let mut lead = Axes::from(all);
    let class = if lead.is_empty() { alone } else { lead.remove(axis) };
    (lead, class)
}

/// An array as rows along an axis.
fn operand(name: &'static str, x: &Array<'_>, axis: usize) -> Operand {
    let (lead, class_stride) = split(x.strides(), axis, 0);
    x.operand(name, class_stride, lead)
}

/// A new array as rows along an axis.
fn field(target: &Target<'_>, axis: usize, dtype: Dtype) -> Field {
    let (lead, class_stride) = split(&target.strides(), axis, 0);
    Field { data: target.data(), dtype, class_stride, lead }
}

/// A new array of the shape of rows and classes, as a field.
fn whole<'py>(
    py: Python<'py>,
    kind: &Kind<'py>,
    shape: &[usize],
    axis: usize,
    dtype: Dtype,
) -> PyResult<(Target<'py>, Field)> {
    let target = Target::new(py, kind, shape, dtype)?;
    let field = field(&target, axis, dtype);
    Ok((target, field))
}

/// A new array with a number a row, as a field.
fn rows<'py>(py: Python<'py>, kind: &Kind<'py>, shape: &[usize], dtype: Dtype) -> PyResult<(Target<'py>, Field)> {
    let target = Target::new(py, kind, shape, dtype)?;
    let field = Field { data: target.data(), dtype, class_stride: 0, lead: target.strides() };
    Ok((target, field))
}

/// Shapes that the bindings' own callers have to get right.
fn same_shape(name: &str, x: &Array<'_>, shape: &[usize]) -> PyResult<()> {
    if x.shape() == shape {
        return Ok(());
    }
    Err(PyValueError::new_err(format!("{name} must have shape {}, got {}", list(shape), list(x.shape()))))
}
