//! What `kullback.functional` stands on: torch's losses and softmaxes, with torch's checks and messages, and their gradients.

use pyo3::exceptions::{PyIndexError, PyNotImplementedError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::array::{Array, Kind, Target, follow, scalar_of};
use super::detached;
use crate::elementwise::{
    Elements, Field, Normal, Pointwise, log_sum_exp, log_sum_exp_gradient, plain, softmax as normalise,
    softmax_gradient,
};
use crate::loss::{self, Terms, Upstream};
use crate::parallel::num_threads;
use crate::reduce::Total;
use crate::rows::Dtype;
use crate::score::{Axes, Given, Job, Labels, Numbers, Operand, nanoseconds_a_row};

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
    if dtypes.contains(&Dtype::F64) || dtypes.iter().any(|d| !is_floating(*d)) {
        Dtype::F64
    } else if all(Dtype::F16) || all(Dtype::Bf16) {
        dtypes[0]
    } else {
        Dtype::F32
    }
}

/// The same of two arrays: one without axes does not promote another.
fn promoted_of(a: &Array<'_>, b: &Array<'_>) -> Dtype {
    match (a.shape().len(), b.shape().len()) {
        (0, 1..) => b.dtype,
        (1.., 0) => a.dtype,
        _ => promoted(&[a.dtype, b.dtype]),
    }
}

fn is_floating(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16)
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

fn reduce(reduction: Obj<'_, '_>, batch: bool) -> PyResult<Reduce> {
    match reduction.cast::<PyString>().map(|s| s.to_string_lossy().into_owned()).as_deref() {
        Ok("none") => Ok(Reduce::None),
        Ok("sum") => Ok(Reduce::Sum),
        Ok("mean") => Ok(Reduce::Mean),
        Ok("batchmean") if batch => Ok(Reduce::Batch),
        _ => Err(PyValueError::new_err(format!("{} is not a valid value for reduction", reduction.str()?))),
    }
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

/// An array as rows along an axis; without axes it is one row of one class.
fn operand(name: &'static str, x: &Array<'_>, axis: usize) -> Operand {
    let mut lead = Axes::from(x.strides());
    let class_stride = if lead.is_empty() { 0 } else { lead.remove(axis) };
    let (data, dtype, swapped) = (x.data, x.dtype, x.swapped);
    Operand { name, data, dtype, swapped, class_stride, lead, given: Given::Logits, temperature: 1.0 }
}

/// An array with a number a row.
fn per_row(name: &'static str, x: &Array<'_>, lead: Axes<isize>) -> Operand {
    let (data, dtype, swapped) = (x.data, x.dtype, x.swapped);
    Operand { name, data, dtype, swapped, class_stride: 0, lead, given: Given::Logits, temperature: 1.0 }
}

/// The lengths of the axes but one, and that of the one.
fn split(shape: &[usize], axis: usize) -> (Vec<usize>, usize) {
    let mut lead = shape.to_vec();
    let classes = if lead.is_empty() { 1 } else { lead.remove(axis) };
    (lead, classes)
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
    let mut lead = target.strides();
    let class_stride = if lead.is_empty() { 0 } else { lead.remove(axis) };
    let field = Field { data: target.data(), dtype, class_stride, lead };
    Ok((target, field))
}

/// A new array with a number a row, as a field.
fn rows<'py>(py: Python<'py>, kind: &Kind<'py>, shape: &[usize], dtype: Dtype) -> PyResult<(Target<'py>, Field)> {
    let target = Target::new(py, kind, shape, dtype)?;
    let field = Field { data: target.data(), dtype, class_stride: 0, lead: target.strides() };
    Ok((target, field))
}

// ------------------------------------------------------------------------------------------------------- softmaxes

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
#[pyo3(signature = (name, input, dim), text_signature = "(name, input, dim)")]
pub fn softmax<'py>(py: Python<'py>, name: &str, input: Obj<'_, 'py>, dim: isize) -> PyResult<Bound<'py, PyAny>> {
    let normal = normal(name)?;
    let x = Array::new("input", input)?;
    let axis = axis_of(dim, x.shape().len())?;
    is_implemented(&x, || softmax_kernel(normal == Normal::LogSoftmax, axis, x.shape().len()))?;
    let (lead, classes) = split(x.shape(), axis);
    let (target, field) = whole(py, &x.kind, x.shape(), axis, x.dtype)?;
    let job = plain(vec![operand("input", &x, axis)], lead, classes, num_threads());
    let (single, work) = (x.dtype != Dtype::F64, 2.0 * nanoseconds_a_row(classes, 1) * job.len() as f64);
    let (job, field) = (&job, &field);
    detached(py, work, || normalise(job, single, field, normal))?;
    target.finish(py, None)
}

/// The gradient of `softmax` by its input, from that of its result and the result.
#[pyfunction]
#[pyo3(signature = (name, grad, result, dim), text_signature = "(name, grad, result, dim)")]
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
    let (lead, classes) = split(y.shape(), axis);
    let (target, field) = whole(py, &y.kind, y.shape(), axis, y.dtype)?;
    let job = plain(vec![operand("grad", &g, axis), operand("result", &y, axis)], lead, classes, num_threads());
    let (single, work) = (y.dtype != Dtype::F64, 2.0 * nanoseconds_a_row(classes, 2) * job.len() as f64);
    let (job, field) = (&job, &field);
    detached(py, work, || {
        softmax_gradient(job, single, field, normal);
        Ok(())
    })?;
    target.finish(py, None)
}

/// Shapes that the bindings' own callers have to get right.
fn same_shape(name: &str, x: &Array<'_>, shape: &[usize]) -> PyResult<()> {
    if x.shape() == shape {
        return Ok(());
    }
    Err(PyValueError::new_err(format!("{name} must have shape {}, got {}", list(shape), list(x.shape()))))
}

/// The log-sum-exp along an axis, in float64 where `wide`, else in the dtype of `like` or of the input (float32 of
/// tensors of integers, as in torch).
#[pyfunction]
#[pyo3(signature = (input, dim, keepdim, wide=false, like=None), text_signature = "(input, dim, keepdim, wide=False, like=None)")]
pub fn logsumexp<'py>(
    py: Python<'py>,
    input: Obj<'_, 'py>,
    dim: isize,
    keepdim: bool,
    wide: bool,
    like: Option<Obj<'_, 'py>>,
) -> PyResult<Bound<'py, PyAny>> {
    let x = Array::new("input", input)?;
    let like = like.map(|like| Array::new("input", like)).transpose()?;
    let axis = axis_of(dim, x.shape().len())?;
    let (lead, classes) = split(x.shape(), axis);
    let dtype = match like.as_ref().unwrap_or(&x).dtype {
        _ if wide => Dtype::F64,
        dtype if is_floating(dtype) => dtype,
        _ if matches!(x.kind, Kind::Numpy) => Dtype::F64,
        _ => Dtype::F32,
    };
    let mut shape = lead.clone();
    if keepdim && !x.shape().is_empty() {
        shape.insert(axis, 1);
    }
    let (target, mut field) = rows(py, &x.kind, &shape, dtype)?;
    if keepdim && !x.shape().is_empty() {
        field.lead.remove(axis);
    }
    let job = plain(vec![operand("input", &x, axis)], lead, classes, num_threads());
    let single = is_floating(x.dtype) && x.dtype != Dtype::F64;
    let work = nanoseconds_a_row(classes, 1) * job.len() as f64;
    let (job, field) = (&job, &field);
    detached(py, work, || log_sum_exp(job, single, field))?;
    target.finish(py, None)
}

/// The gradient of `logsumexp` by its input: `grad` and `result` broadcast to it.
#[pyfunction]
#[pyo3(signature = (grad, input, result), text_signature = "(grad, input, result)")]
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
    let (mut lead, mut classes) = split(x.shape(), axis);
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
    operands.push(per_row("grad", &g, cut(&of_g)));
    operands.push(per_row("result", &lse, cut(&of_lse)));
    let job = plain(operands, lead, classes, num_threads());
    let (single, work) = (x.dtype != Dtype::F64, nanoseconds_a_row(classes, 1) * job.len() as f64);
    let (job, field) = (&job, &field);
    detached(py, work, || log_sum_exp_gradient(job, single, field))?;
    target.finish(py, None)
}

// -------------------------------------------------------------------------------------------------- pointwise losses

/// An element of a pointwise loss: its memory, and its strides along the common shape.
type Element = (*const u8, Dtype, bool, Axes<isize>);

/// The number that an absent argument is.
static ONE: (f32, f64) = (1.0, 1.0);

/// A number as an element.
fn number(at: &(f32, f64), single: bool, axes: usize) -> Element {
    match single {
        true => ((&raw const at.0).cast(), Dtype::F32, false, Axes::from_elem(0, axes)),
        false => ((&raw const at.1).cast(), Dtype::F64, false, Axes::from_elem(0, axes)),
    }
}

/// An array that broadcasts to a shape as an element.
fn spread(x: &Array<'_>, shape: &[usize]) -> Element {
    (x.data, x.dtype, x.swapped, follow(shape, x.shape(), x.strides()))
}

/// The shape two shapes broadcast to, or torch's words for those that do not.
fn broadcast(a: &[usize], b: &[usize]) -> PyResult<Vec<usize>> {
    let n = a.len().max(b.len());
    let at = |x: &[usize], i: usize| if i + x.len() >= n { x[i + x.len() - n] } else { 1 };
    let mut shape = vec![0; n];
    // From the last axis on: of several that differ torch names that.
    for i in (0..n).rev() {
        shape[i] = match (at(a, i), at(b, i)) {
            (x, y) if x == y => x,
            (1, y) => y,
            (x, 1) => x,
            (x, y) => {
                return Err(PyRuntimeError::new_err(format!(
                    "The size of tensor a ({x}) must match the size of tensor b ({y}) at non-singleton dimension {i}"
                )));
            }
        };
    }
    Ok(shape)
}

/// torch's words, in `binary_cross_entropy`, for a weight that does not broadcast with the target.
fn expands(weight: &[usize], target: &[usize]) -> PyResult<()> {
    let mut pairs = weight.iter().rev().zip(target.iter().rev());
    let Some(i) = pairs.position(|(w, t)| w != t && *w != 1 && *t != 1) else { return Ok(()) };
    let mut shape = vec![1; weight.len().saturating_sub(target.len())];
    shape.extend(target);
    Err(PyRuntimeError::new_err(format!(
        "Attempting to broadcast a dimension of length {} at -{}! Mismatching argument at index 1 had torch.Size({}); but \
         expected shape should be broadcastable to {}",
        weight[weight.len() - 1 - i],
        i + 1,
        list(weight),
        list(&shape)
    )))
}

/// Pointers on their way through a detached call.
struct Detached<T>(T);

// SAFETY: the memory that elements point to is kept alive, and only read, during the call.
unsafe impl<T> Sync for Detached<T> {}

/// A pointwise loss: all values, their sum, or their sum divided by a number. `doubt` is asked about a sum that is NaN.
fn pointwise<'py>(
    py: Python<'py>,
    value: Pointwise,
    kind: &Kind<'py>,
    shape: &[usize],
    elements: &[Element],
    (single, dtype): (bool, Dtype),
    (reduce, batch): (Reduce, usize),
    doubt: impl FnOnce() -> PyResult<()>,
) -> PyResult<Bound<'py, PyAny>> {
    if reduce == Reduce::None {
        let target = Target::new(py, kind, shape, dtype)?;
        let elements = Elements::new(shape, elements, Some((target.data(), dtype, target.strides())), num_threads());
        let elements = &Detached(elements);
        detached(py, elements.0.work(), move || {
            let elements = elements;
            elements.0.write(value, single);
            Ok(())
        })?;
        return target.finish(py, None);
    }
    let elements = &Detached(Elements::new(shape, elements, None, num_threads()));
    let sum = detached(py, elements.0.work(), move || {
        let elements = elements;
        Ok(elements.0.sum(value, single))
    })?;
    if sum.is_nan() {
        doubt()?;
    }
    let sum = match reduce {
        Reduce::Mean => sum / shape.iter().product::<usize>() as f64,
        Reduce::Batch => sum / batch as f64,
        _ => sum,
    };
    scalar_of(py, kind, sum, dtype)
}

/// What a gradient of the reduced result is multiplied by, or a gradient a value: an element and its cell.
fn upstream(g: &Array<'_>, shape: &[usize], reduce: Reduce, batch: usize) -> PyResult<Option<f64>> {
    if reduce == Reduce::None {
        same_shape("grad", g, shape)?;
        return Ok(None);
    }
    same_shape("grad", g, &[])?;
    // SAFETY: an array without axes has an element.
    let g = unsafe { g.dtype.number(g.data, g.swapped) };
    Ok(Some(match reduce {
        Reduce::Mean => g / shape.iter().product::<usize>() as f64,
        Reduce::Batch => g / batch as f64,
        _ => g,
    }))
}

/// torch's KLDivLoss.
#[pyfunction]
#[pyo3(signature = (input, target, reduction, log_target), text_signature = "(input, target, reduction, log_target)")]
pub fn kl_div<'py>(
    py: Python<'py>,
    input: Obj<'_, 'py>,
    target: Obj<'_, 'py>,
    reduction: Obj<'_, 'py>,
    log_target: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let reduce = reduce(reduction, true)?;
    let (x, t) = (Array::new("input", input)?, Array::new("target", target)?);
    if !x.is_floating() || !t.is_floating() {
        return Err(PyRuntimeError::new_err("kl_div: Integral inputs not supported."));
    }
    let kind = Kind::of(&[("input", &x), ("target", &t)])?;
    // torch's message has the target first.
    let shape = broadcast(t.shape(), x.shape())?;
    let dtype = promoted_of(&x, &t);
    let value = if log_target { Pointwise::KlOfLog } else { Pointwise::Kl };
    let batch = x.shape().first().copied().unwrap_or(1);
    let elements = [spread(&x, &shape), spread(&t, &shape)];
    pointwise(py, value, &kind, &shape, &elements, (dtype != Dtype::F64, dtype), (reduce, batch), || Ok(()))
}

/// The gradient of `kl_div` by its input or its target, in their common shape.
#[pyfunction]
#[pyo3(
    signature = (grad, input, target, reduction, log_target, by_target),
    text_signature = "(grad, input, target, reduction, log_target, by_target)"
)]
pub fn kl_div_backward<'py>(
    py: Python<'py>,
    grad: Obj<'_, 'py>,
    input: Obj<'_, 'py>,
    target: Obj<'_, 'py>,
    reduction: Obj<'_, 'py>,
    log_target: bool,
    by_target: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let reduce = reduce(reduction, true)?;
    let (g, x, t) = (Array::new("grad", grad)?, Array::new("input", input)?, Array::new("target", target)?);
    let shape = broadcast(x.shape(), t.shape())?;
    let single = promoted_of(&x, &t) != Dtype::F64;
    let factor = upstream(&g, &shape, reduce, x.shape().first().copied().unwrap_or(1))?;
    let cell = factor.map(|g| (g as f32, g));
    let last = cell.as_ref().map_or_else(|| spread(&g, &shape), |cell| number(cell, single, shape.len()));
    let (value, elements, dtype) = match (by_target, log_target) {
        (false, false) => (Pointwise::KlInput, vec![spread(&t, &shape), last], x.dtype),
        (false, true) => (Pointwise::KlOfLogInput, vec![spread(&t, &shape), last], x.dtype),
        (true, false) => (Pointwise::KlTarget, vec![spread(&x, &shape), spread(&t, &shape), last], t.dtype),
        (true, true) => (Pointwise::KlOfLogTarget, vec![spread(&x, &shape), spread(&t, &shape), last], t.dtype),
    };
    pointwise(py, value, &x.kind, &shape, &elements, (single, dtype), (Reduce::None, 1), || Ok(()))
}

/// The arguments of a binary cross entropy.
struct Pairs<'py> {
    x: Array<'py>,
    t: Array<'py>,
    weight: Option<Array<'py>>,
    positive: Option<Array<'py>>,
    kind: Kind<'py>,
    single: bool,
    logits: bool,
}

impl<'py> Pairs<'py> {
    fn new(
        input: Obj<'_, 'py>,
        target: Obj<'_, 'py>,
        weight: Option<Obj<'_, 'py>>,
        positive: Option<Obj<'_, 'py>>,
        logits: bool,
    ) -> PyResult<Self> {
        let (x, t) = (Array::new("input", input)?, Array::new("target", target)?);
        let weight = weight.map(|w| Array::new("weight", w)).transpose()?;
        let positive = positive.map(|p| Array::new("pos_weight", p)).transpose()?;
        let mut all = vec![("input", &x), ("target", &t)];
        all.extend(weight.iter().map(|w| ("weight", w)));
        all.extend(positive.iter().map(|p| ("pos_weight", p)));
        let kind = Kind::of(&all)?;
        let size = |shape: &[usize]| format!("torch.Size({})", list(shape));
        if x.shape() != t.shape() {
            let (of_t, of_x) = (size(t.shape()), size(x.shape()));
            return Err(PyValueError::new_err(if logits {
                format!("Target size ({of_t}) must be the same as input size ({of_x})")
            } else {
                format!(
                    "Using a target size ({of_t}) that is different to the input size ({of_x}) is deprecated. Please \
                     ensure they have the same size."
                )
            }));
        }
        if !x.is_floating() {
            let name = torch_name(x.dtype);
            return Err(if logits {
                PyNotImplementedError::new_err(format!("\"log_sigmoid_cpu\" not implemented for '{name}'"))
            } else if x.dtype == t.dtype {
                PyNotImplementedError::new_err(format!("\"binary_cross_entropy\" not implemented for '{name}'"))
            } else {
                PyRuntimeError::new_err(format!("Found dtype {} but expected {name}", torch_name(t.dtype)))
            });
        }
        // Arrays may hold their targets in any dtype; tensors follow torch.
        let tensors = !matches!(kind, Kind::Numpy);
        if tensors && !logits && t.dtype != x.dtype {
            let (of_t, of_x) = (torch_name(t.dtype), torch_name(x.dtype));
            return Err(PyRuntimeError::new_err(format!("Found dtype {of_t} but expected {of_x}")));
        }
        if tensors && logits && !t.is_floating() {
            return Err(match t.dtype {
                Dtype::Bool => PyNotImplementedError::new_err(
                    "Subtraction, the `-` operator, with two bool tensors is not supported. Use the `^` or \
                     `logical_xor()` operator instead.",
                ),
                dtype => PyRuntimeError::new_err(format!(
                    "result type {} can't be cast to the desired output type {}",
                    torch_name(x.dtype),
                    torch_name(dtype)
                )),
            });
        }
        for (k, y) in [&weight, &positive].into_iter().enumerate() {
            let Some(y) = y else { continue };
            if k == 0 && !logits {
                expands(y.shape(), t.shape())?;
            }
            let (a, b) = if k == 1 { (y.shape(), x.shape()) } else { (x.shape(), y.shape()) };
            let shape = broadcast(a, b)?;
            if shape != x.shape() {
                return Err(PyRuntimeError::new_err(format!(
                    "output with shape {} doesn't match the broadcast shape {}",
                    list(x.shape()),
                    list(&shape)
                )));
            }
        }
        let double = |y: &Array<'_>| y.dtype == Dtype::F64;
        let single = !(double(&x) || (t.is_floating() && double(&t)));
        Ok(Pairs { x, t, weight, positive, kind, single, logits })
    }

    /// Input, target, weight and, of logits, the weight of the positives.
    fn elements(&self) -> Vec<Element> {
        let shape = self.x.shape();
        let or_one = |y: &Option<Array<'_>>| {
            y.as_ref().map_or_else(|| number(&ONE, self.single, shape.len()), |y| spread(y, shape))
        };
        let mut all = vec![spread(&self.x, shape), spread(&self.t, shape), or_one(&self.weight)];
        if self.logits {
            all.push(or_one(&self.positive));
        }
        all
    }

    /// torch's dtype of the result.
    fn dtype(&self) -> Dtype {
        if matches!(self.kind, Kind::Numpy) {
            let floats: Vec<Dtype> = [self.x.dtype, self.t.dtype].into_iter().filter(|d| is_floating(*d)).collect();
            promoted(&floats)
        } else if self.logits {
            self.t.dtype
        } else {
            self.x.dtype
        }
    }

    /// Refuses what is not between 0 and 1.
    fn check(&self, py: Python<'py>) -> PyResult<()> {
        let shape = self.x.shape();
        let outside = |a: &Array<'py>, b: &Array<'py>| -> PyResult<f64> {
            let elements = [spread(a, shape), spread(b, shape)];
            let elements = &Detached(Elements::new(shape, &elements, None, num_threads()));
            let single = self.single;
            detached(py, elements.0.work(), move || {
                let elements = elements;
                Ok(elements.0.outside(single))
            })
        };
        if outside(&self.x, &self.t)? == 0.0 {
            return Ok(());
        }
        let which = if outside(&self.x, &self.x)? > 0.0 { "input" } else { "target" };
        Err(PyRuntimeError::new_err(format!("all elements of {which} should be between 0 and 1")))
    }
}

/// torch's binary cross entropy, of probabilities or of logits.
#[pyfunction]
#[pyo3(
    signature = (input, target, weight, pos_weight, reduction, logits),
    text_signature = "(input, target, weight, pos_weight, reduction, logits)"
)]
pub fn binary_cross_entropy<'py>(
    py: Python<'py>,
    input: Obj<'_, 'py>,
    target: Obj<'_, 'py>,
    weight: Option<Obj<'_, 'py>>,
    pos_weight: Option<Obj<'_, 'py>>,
    reduction: Obj<'_, 'py>,
    logits: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let reduce = reduce(reduction, false)?;
    let pairs = Pairs::new(input, target, weight, pos_weight, logits)?;
    let shape = pairs.x.shape();
    if !logits && reduce == Reduce::None {
        pairs.check(py)?;
    }
    let value = if logits { Pointwise::Logistic } else { Pointwise::Binary };
    let precision = (pairs.single, pairs.dtype());
    pointwise(py, value, &pairs.kind, shape, &pairs.elements(), precision, (reduce, 1), || {
        if logits { Ok(()) } else { pairs.check(py) }
    })
}

/// The gradient of `binary_cross_entropy` by its input or its target.
#[pyfunction]
#[pyo3(
    signature = (grad, input, target, weight, pos_weight, reduction, logits, by_target),
    text_signature = "(grad, input, target, weight, pos_weight, reduction, logits, by_target)"
)]
pub fn binary_cross_entropy_backward<'py>(
    py: Python<'py>,
    grad: Obj<'_, 'py>,
    input: Obj<'_, 'py>,
    target: Obj<'_, 'py>,
    weight: Option<Obj<'_, 'py>>,
    pos_weight: Option<Obj<'_, 'py>>,
    reduction: Obj<'_, 'py>,
    logits: bool,
    by_target: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let reduce = reduce(reduction, false)?;
    let pairs = Pairs::new(input, target, weight, pos_weight, logits)?;
    let (g, shape) = (Array::new("grad", grad)?, pairs.x.shape());
    let cell = upstream(&g, shape, reduce, 1)?.map(|g| (g as f32, g));
    let mut elements = pairs.elements();
    elements.push(cell.as_ref().map_or_else(|| spread(&g, shape), |cell| number(cell, pairs.single, shape.len())));
    let (value, dtype) = match (logits, by_target) {
        (false, false) => (Pointwise::BinaryInput, pairs.x.dtype),
        (false, true) => (Pointwise::BinaryTarget, pairs.t.dtype),
        (true, false) => (Pointwise::LogisticInput, pairs.x.dtype),
        (true, true) => (Pointwise::LogisticTarget, pairs.t.dtype),
    };
    pointwise(py, value, &pairs.kind, shape, &elements, (pairs.single, dtype), (Reduce::None, 1), || Ok(()))
}

// ------------------------------------------------------------------------------------------------- cross entropies

/// Which of the cross entropies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Of log-probabilities and class indices.
    LogProbs,
    /// Of logits and class indices.
    Labels,
    /// Of logits and probabilities.
    Probabilities,
}

/// The arguments of a cross entropy.
struct Classes<'py> {
    x: Array<'py>,
    t: Array<'py>,
    weight: Option<Array<'py>>,
    kind: Kind<'py>,
    /// The class axis.
    axis: usize,
    which: Which,
    job: Job,
    terms: Terms,
}

impl<'py> Classes<'py> {
    fn new(
        input: Obj<'_, 'py>,
        target: Obj<'_, 'py>,
        weight: Option<Obj<'_, 'py>>,
        ignore_index: i64,
        label_smoothing: f64,
        log_probs: bool,
    ) -> PyResult<Self> {
        let (x, t) = (Array::new("input", input)?, Array::new("target", target)?);
        let weight = weight.map(|w| Array::new("weight", w)).transpose()?;
        let mut all = vec![("input", &x), ("target", &t)];
        all.extend(weight.iter().map(|w| ("weight", w)));
        let kind = Kind::of(&all)?;
        let soft = !log_probs && x.shape() == t.shape();
        let runtime = |message: String| Err(PyRuntimeError::new_err(message));
        let axes = x.shape().len();
        if soft && !t.is_floating() {
            return runtime(format!(
                "Expected floating point type for target with class probabilities, got {}",
                torch_name(t.dtype)
            ));
        }
        if soft && ignore_index >= 0 {
            return runtime("ignore_index is not supported for floating point target".into());
        }
        if label_smoothing > 1.0 {
            return runtime(format!("label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}"));
        }
        let axis = usize::from(axes != 1);
        if axes == 0 {
            return Err(match (log_probs, soft) {
                (true, _) => PyValueError::new_err("Expected 1 or more dimensions (got 0)"),
                (_, true) => PyIndexError::new_err("Dimension specified as 1 but tensor has no dimensions"),
                _ => axis_of(1, 0).expect_err("no axes have no second"),
            });
        }
        let (mut lead, classes) = split(x.shape(), axis);
        if !log_probs {
            is_implemented(&x, || softmax_kernel(true, axis, axes))?;
        }
        let tensors = !matches!(kind, Kind::Numpy);
        let labels = !t.is_floating() && t.dtype != Dtype::Bool;
        let no_labels = !soft && (!labels || (tensors && !matches!(t.dtype, Dtype::I64 | Dtype::U8)));
        let refuse_labels =
            || runtime(format!("expected target dtype to be Long or Byte, but got {}", torch_name(t.dtype)));
        if no_labels && axes == 1 && t.shape().len() == 1 {
            // Of one row torch looks at the kind of its label before it counts them.
            return refuse_labels();
        }
        if !soft {
            check_shapes(x.shape(), t.shape(), &lead)?;
        }
        is_implemented(&x, || format!("nll_loss{}_out_frame", if axes > 2 { "2d_forward" } else { "" }))?;
        if no_labels {
            return refuse_labels();
        }
        if let Some(w) = &weight {
            if w.shape() != [classes] {
                if !soft && axes > 2 {
                    return runtime("weight tensor should be defined either for all or no classes".into());
                }
                return runtime(format!(
                    "{}weight tensor should be defined either for all {classes} classes or no classes but got weight \
                     tensor of shape: {}",
                    if soft { "cross_entropy: " } else { "" },
                    list(w.shape())
                ));
            }
            if tensors && !soft && w.dtype != x.dtype {
                let (of_x, of_w) = (torch_name(x.dtype), torch_name(w.dtype));
                return runtime(format!("expected scalar type {of_x} but found {of_w}"));
            }
        }
        let mut operands = vec![operand("input", &x, axis)];
        let mut kept = None;
        if soft {
            operands.push(operand("target", &t, axis));
        } else {
            // One row may have its label in an array of one.
            let strides = if axes == 1 { Axes::new() } else { t.strides().into() };
            let (data, dtype, swapped) = (t.data, t.dtype, t.swapped);
            kept = Some(Labels { data, dtype, swapped, lead: strides, ignore: Some(ignore_index) });
        }
        if axes == 1 {
            lead.clear();
        }
        let mut job = plain(operands, lead, classes, num_threads());
        job.labels = kept;
        let numbers = weight.as_ref().map(|w| {
            let at = |i: usize| w.data.wrapping_offset(i as isize * w.strides()[0]);
            // SAFETY: the array has a number for every class.
            (0..classes).map(|i| unsafe { w.dtype.number(at(i), w.swapped) }).collect()
        });
        let double = |y: &Array<'_>| y.dtype == Dtype::F64;
        let single = !(double(&x) || (soft && (double(&t) || weight.as_ref().is_some_and(double))));
        let smoothing = if label_smoothing > 0.0 { label_smoothing } else { 0.0 };
        let which = match (log_probs, soft) {
            (true, _) => Which::LogProbs,
            (false, true) => Which::Probabilities,
            (false, false) => Which::Labels,
        };
        Ok(Classes { x, t, weight, kind, axis, which, job, terms: Terms { weight: numbers, smoothing, single } })
    }

    fn dtype(&self) -> Dtype {
        let weight = self.weight.as_ref().map(|w| w.dtype).filter(|d| is_floating(*d));
        match (self.which, weight) {
            (Which::Probabilities, Some(weight)) => promoted(&[self.x.dtype, self.t.dtype, weight]),
            (Which::Probabilities, None) => promoted(&[self.x.dtype, self.t.dtype]),
            _ => self.x.dtype,
        }
    }

    fn work(&self) -> f64 {
        nanoseconds_a_row(self.job.classes, self.job.operands.len()) * self.job.len() as f64
    }

    /// Whether one reading of the logits gives the gradient too.
    fn is_one_reading(&self) -> bool {
        self.which == Which::Labels && self.terms.smoothing == 0.0
    }

    /// How many numbers the gradient needs: the log-sum-exp of every row and the weight of every row (probabilities) or
    /// of all of them (labels); of log-probabilities the latter alone.
    fn saved(&self) -> usize {
        match self.which {
            Which::LogProbs => 1,
            Which::Labels => self.job.len() + 1,
            Which::Probabilities => 2 * self.job.len(),
        }
    }
}

/// torch's words about shapes of inputs and labels.
fn check_shapes(x: &[usize], t: &[usize], lead: &[usize]) -> PyResult<()> {
    if x.len() == 1 {
        let n: usize = t.iter().product();
        return match t.len() {
            0 => Ok(()),
            1 if n == 1 => Ok(()),
            1 => Err(PyValueError::new_err(format!(
                "For 1D input, 1D target must have size 1, but got target size: {n}"
            ))),
            _ => Err(PyRuntimeError::new_err("0D or 1D target tensor expected, multi-target not supported")),
        };
    }
    let batch = t.first().copied().unwrap_or(0);
    if x[0] != batch {
        return Err(PyValueError::new_err(format!(
            "Expected input batch_size ({}) to match target batch_size ({batch}).",
            x[0]
        )));
    }
    if t == lead {
        return Ok(());
    }
    Err(PyRuntimeError::new_err(match (x.len(), t.len()) {
        (2, _) => "0D or 1D target tensor expected, multi-target not supported".into(),
        (4, 3) => format!("size mismatch (got input: {} , target: {}", list(x), list(t)),
        (4, n) => format!("only batches of spatial targets supported (3D tensors) but got targets of dimension: {n}"),
        _ => format!("Expected target size {}, got {}", list(lead), list(t)),
    }))
}

/// A result of a cross entropy and, where wanted, what its gradient needs.
type Loss<'py> = (Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);
/// The same and, where it is at hand, the gradient by the input.
type LossAhead<'py> = (Bound<'py, PyAny>, Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>);

/// A sum or a mean over labels with its gradient, which one reading of the logits gives.
fn cross_entropy_ahead<'py>(py: Python<'py>, call: &Classes<'py>, reduce: Reduce) -> PyResult<LossAhead<'py>> {
    let (saved, numbers) = new_numbers(py, &call.kind, call.saved())?;
    let (target, field) = whole(py, &call.kind, call.x.shape(), call.axis, call.x.dtype)?;
    let (job, terms, field) = (&call.job, &call.terms, &field);
    let mean = reduce == Reduce::Mean;
    let (sum, count) = detached(py, 2.0 * call.work(), || {
        let g = if mean { 1.0 / loss::weights(job, terms) } else { 1.0 };
        loss::cross_entropy_and_gradient(job, terms, numbers, g, field.clone())
    })?;
    numbers.set(call.saved() - 1, count);
    let result = scalar_of(py, &call.kind, if mean { sum / count } else { sum }, call.dtype())?;
    Ok((result, Some(saved.finish(py, None)?), Some(target.finish(py, None)?)))
}

fn cross_entropy_of<'py>(py: Python<'py>, call: &Classes<'py>, reduce: Reduce, save: bool) -> PyResult<Loss<'py>> {
    let dtype = call.dtype();
    let out = match reduce {
        Reduce::None => Some(rows(py, &call.kind, &call.job.lead, dtype)?),
        _ => None,
    };
    let saved = save.then(|| new_numbers(py, &call.kind, call.saved())).transpose()?;
    let numbers = saved.as_ref().map(|(_, numbers)| *numbers);
    let (job, terms, field) = (&call.job, &call.terms, &out.as_ref().map(|(_, field)| field.clone()));
    let which = call.which;
    let (sum, count) = detached(py, call.work(), || {
        let field = field.clone();
        match which {
            Which::LogProbs => loss::nll(job, terms, field),
            Which::Labels => loss::cross_entropy(job, terms, field, numbers),
            Which::Probabilities => {
                let both = numbers.map(|n| [n, n.skip(job.len())]);
                // torch counts positions as elements by classes.
                let count = if job.classes == 0 { 0 } else { job.len() };
                Ok((loss::expected(job, terms, field, both)?, count as f64))
            }
        }
    })?;
    if let (Some(numbers), Which::Labels | Which::LogProbs) = (numbers, which) {
        numbers.set(call.saved() - 1, count);
    }
    let result = match out {
        Some((target, _)) => target.finish(py, None)?,
        None => scalar_of(py, &call.kind, if reduce == Reduce::Mean { sum / count } else { sum }, dtype)?,
    };
    Ok((result, saved.map(|(saved, _)| saved.finish(py, None)).transpose()?))
}

/// torch's cross entropy of logits, what `cross_entropy_backward` needs if `save`, and if `ahead` the gradient by the
/// input for a gradient of 1, where that takes no second reading of the logits.
#[pyfunction]
#[pyo3(
    signature = (input, target, weight, ignore_index, reduction, label_smoothing, save, ahead),
    text_signature = "(input, target, weight, ignore_index, reduction, label_smoothing, save, ahead)"
)]
pub fn cross_entropy_loss<'py>(
    py: Python<'py>,
    input: Obj<'_, 'py>,
    target: Obj<'_, 'py>,
    weight: Option<Obj<'_, 'py>>,
    ignore_index: i64,
    reduction: Obj<'_, 'py>,
    label_smoothing: f64,
    save: bool,
    ahead: bool,
) -> PyResult<LossAhead<'py>> {
    let reduce = reduce(reduction, false)?;
    let call = Classes::new(input, target, weight, ignore_index, label_smoothing, false)?;
    if ahead && reduce != Reduce::None && call.is_one_reading() {
        return cross_entropy_ahead(py, &call, reduce);
    }
    let (result, saved) = cross_entropy_of(py, &call, reduce, save)?;
    Ok((result, saved, None))
}

/// torch's negative log-likelihood of log-probabilities, and the sum of the weights if `save`.
#[pyfunction]
#[pyo3(
    signature = (input, target, weight, ignore_index, reduction, save),
    text_signature = "(input, target, weight, ignore_index, reduction, save)"
)]
pub fn nll_loss<'py>(
    py: Python<'py>,
    input: Obj<'_, 'py>,
    target: Obj<'_, 'py>,
    weight: Option<Obj<'_, 'py>>,
    ignore_index: i64,
    reduction: Obj<'_, 'py>,
    save: bool,
) -> PyResult<Loss<'py>> {
    let reduce = reduce(reduction, false)?;
    let call = Classes::new(input, target, weight, ignore_index, 0.0, true)?;
    cross_entropy_of(py, &call, reduce, save)
}

/// The gradient of what each row adds to the result.
fn upstream_of_rows(g: &Array<'_>, lead: &[usize], reduce: Reduce, count: f64) -> PyResult<Upstream> {
    if reduce == Reduce::None {
        same_shape("grad", g, lead)?;
        return Ok(Upstream::Rows(per_row("grad", g, g.strides().into())));
    }
    same_shape("grad", g, &[])?;
    // SAFETY: an array without axes has an element.
    let value = unsafe { g.dtype.number(g.data, g.swapped) };
    Ok(Upstream::One(if reduce == Reduce::Mean { value / count } else { value }))
}

/// Room for what a forward pass saves.
pub(super) fn new_numbers<'py>(py: Python<'py>, kind: &Kind<'py>, n: usize) -> PyResult<(Target<'py>, Numbers)> {
    let saved = Target::new(py, kind, &[n], Dtype::F64)?;
    // Rows that do not count write no numbers: theirs are 0 rather than what the memory held before.
    // SAFETY: the new array is as long, in C order, and a floating 0 is all zero bits.
    unsafe { saved.data().write_bytes(0, n * size_of::<f64>()) };
    let numbers = Numbers(saved.data().cast());
    Ok((saved, numbers))
}

/// What a forward pass saved, if it is that.
pub(super) fn saved_numbers(saved: &Array<'_>, n: usize) -> PyResult<Numbers> {
    if saved.dtype != Dtype::F64 || saved.shape() != [n] || (n > 1 && saved.strides() != [8]) {
        return Err(PyTypeError::new_err(format!("saved must be {n} contiguous float64 numbers of the forward pass")));
    }
    Ok(Numbers(saved.data.cast_mut().cast()))
}

/// Gradients by input, target and weight, each where it is wanted.
type Gradients<'py> = (Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>);

/// The gradients of `cross_entropy_loss` by input, target and weight, each if `wanted`.
#[pyfunction]
#[pyo3(
    signature = (grad, input, target, weight, ignore_index, reduction, label_smoothing, saved, wanted),
    text_signature = "(grad, input, target, weight, ignore_index, reduction, label_smoothing, saved, wanted)"
)]
pub fn cross_entropy_backward<'py>(
    py: Python<'py>,
    grad: Obj<'_, 'py>,
    input: Obj<'_, 'py>,
    target: Obj<'_, 'py>,
    weight: Option<Obj<'_, 'py>>,
    ignore_index: i64,
    reduction: Obj<'_, 'py>,
    label_smoothing: f64,
    saved: Obj<'_, 'py>,
    wanted: (bool, bool, bool),
) -> PyResult<Gradients<'py>> {
    let reduce = reduce(reduction, false)?;
    let call = Classes::new(input, target, weight, ignore_index, label_smoothing, false)?;
    let (g, saved) = (Array::new("grad", grad)?, Array::new("saved", saved)?);
    let numbers = saved_numbers(&saved, call.saved())?;
    let (job, terms) = (&call.job, &call.terms);
    let soft = call.which == Which::Probabilities;
    let count = if soft { job.len() as f64 } else { numbers.get(job.len()) };
    let upstream = &upstream_of_rows(&g, &job.lead, reduce, count)?;
    let new = |wanted: bool, x: &Array<'py>| -> PyResult<Option<(Target<'py>, Field)>> {
        wanted.then(|| whole(py, &call.kind, x.shape(), call.axis, x.dtype)).transpose()
    };
    let of_input = new(wanted.0, &call.x)?;
    let of_target = new(wanted.1 && soft, &call.t)?;
    let fields = &[&of_input, &of_target].map(|x| x.as_ref().map(|(_, field)| field.clone()));
    detached(py, 2.0 * call.work(), || {
        let [of_input, of_target] = fields.clone();
        match of_input {
            _ if soft => {
                loss::expected_gradient(job, terms, [numbers, numbers.skip(job.len())], upstream, of_input, of_target)
            }
            Some(of_input) => loss::cross_entropy_gradient(job, terms, numbers, upstream, of_input),
            None => Ok(()),
        }
    })?;
    let of_weight = match &call.weight {
        Some(weight) if wanted.2 && soft => {
            let mut sums = vec![Total::default(); job.classes];
            let smoothing = terms.smoothing;
            loss::expected_gradient_of_weight(job, smoothing, numbers, upstream, &mut sums);
            let target = Target::new(py, &call.kind, &[job.classes], weight.dtype)?;
            let at = |i: usize| target.data().wrapping_add(i * weight.dtype.size());
            // SAFETY: the new array has a number for every class.
            sums.iter().enumerate().for_each(|(i, sum)| unsafe { weight.dtype.store(sum.sum(), at(i)) });
            Some(target.finish(py, None)?)
        }
        _ => None,
    };
    let finish = |x: Option<(Target<'py>, Field)>| x.map(|(target, _)| target.finish(py, None)).transpose();
    Ok((finish(of_input)?, finish(of_target)?, of_weight))
}

/// The gradient of `nll_loss` by its input.
#[pyfunction]
#[pyo3(
    signature = (grad, input, target, weight, ignore_index, reduction, saved),
    text_signature = "(grad, input, target, weight, ignore_index, reduction, saved)"
)]
pub fn nll_loss_backward<'py>(
    py: Python<'py>,
    grad: Obj<'_, 'py>,
    input: Obj<'_, 'py>,
    target: Obj<'_, 'py>,
    weight: Option<Obj<'_, 'py>>,
    ignore_index: i64,
    reduction: Obj<'_, 'py>,
    saved: Obj<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let reduce = reduce(reduction, false)?;
    let call = Classes::new(input, target, weight, ignore_index, 0.0, true)?;
    let (g, saved) = (Array::new("grad", grad)?, Array::new("saved", saved)?);
    let count = saved_numbers(&saved, call.saved())?.get(0);
    let upstream = &upstream_of_rows(&g, &call.job.lead, reduce, count)?;
    let (target, field) = whole(py, &call.kind, call.x.shape(), call.axis, call.x.dtype)?;
    let bytes = call.x.shape().iter().product::<usize>() * call.x.dtype.size();
    // SAFETY: the new array is as long, in C order, and a floating 0 is all zero bits.
    unsafe { target.data().write_bytes(0, bytes) };
    let (job, terms, field) = (&call.job, &call.terms, &field);
    detached(py, 10.0 * job.len() as f64, || loss::nll_gradient(job, terms, upstream, field))?;
    target.finish(py, None)
}
