//! What torch's pointwise losses share: elements that broadcast to one shape, and what becomes of their values.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::{Reduce, same_shape};
use crate::elementwise::{Elements, Pointwise};
use crate::parallel::num_threads;
use crate::python::array::{self, Array, Kind, Target, follow, scalar_of};
use crate::python::detached;
use crate::rows::Dtype;
use crate::score::Axes;

/// An element of a pointwise loss: its memory, and its strides along the common shape.
pub type Element = (*const u8, Dtype, bool, Axes<isize>);

/// A number in both precisions.
pub type Number = (f32, f64);

/// A number as an element.
pub fn number(at: &Number, single: bool, axes: usize) -> Element {
    match single {
        true => ((&raw const at.0).cast(), Dtype::F32, false, Axes::from_elem(0, axes)),
        false => ((&raw const at.1).cast(), Dtype::F64, false, Axes::from_elem(0, axes)),
    }
}

/// An array that broadcasts to a shape as an element.
pub fn spread(x: &Array<'_>, shape: &[usize]) -> Element {
    (x.data, x.dtype, x.swapped, follow(shape, x.shape(), x.strides()))
}

/// The shape two shapes broadcast to, or torch's words for those that do not: of several axes it names the last.
pub fn broadcast(a: &[usize], b: &[usize]) -> PyResult<Axes<usize>> {
    array::broadcast(a, b).map_err(|(axis, [a, b])| {
        PyRuntimeError::new_err(format!(
            "The size of tensor a ({a}) must match the size of tensor b ({b}) at non-singleton dimension {axis}"
        ))
    })
}

/// The value of every element: a loss that is not reduced, or a gradient.
pub fn every<'py>(
    py: Python<'py>,
    value: Pointwise,
    kind: &Kind<'py>,
    shape: &[usize],
    elements: &[Element],
    (single, dtype): (bool, Dtype),
) -> PyResult<Bound<'py, PyAny>> {
    let target = Target::new(py, kind, shape, dtype)?;
    let elements = &Elements::new(shape, elements, Some((target.data(), dtype, target.strides())), num_threads());
    detached(py, elements.work(), || {
        elements.write(value, single);
        Ok(())
    })?;
    target.finish(py, None)
}

/// A loss, of which a mean is over `count`; `doubt` is asked about a sum that is NaN.
pub fn loss<'py>(
    py: Python<'py>,
    value: Pointwise,
    kind: &Kind<'py>,
    shape: &[usize],
    elements: &[Element],
    (single, dtype): (bool, Dtype),
    (reduce, count): (Reduce, usize),
    doubt: impl FnOnce() -> PyResult<()>,
) -> PyResult<Bound<'py, PyAny>> {
    if reduce == Reduce::None {
        return every(py, value, kind, shape, elements, (single, dtype));
    }
    let elements = &Elements::new(shape, elements, None, num_threads());
    let sum = detached(py, elements.work(), || Ok(elements.sum(value, single)))?;
    if sum.is_nan() {
        doubt()?;
    }
    scalar_of(py, kind, reduce.of_sum(sum, count as f64), dtype)
}

/// What a gradient by an element is multiplied by: a gradient a value, or one number for all, whose place is `cell`.
pub fn upstream(
    g: &Array<'_>,
    shape: &[usize],
    single: bool,
    (reduce, count): (Reduce, usize),
    cell: &mut Number,
) -> PyResult<Element> {
    if reduce == Reduce::None {
        same_shape("grad", g, shape)?;
        return Ok(spread(g, shape));
    }
    let g = reduce.gradient_of_sum(g, count as f64)?;
    *cell = (g as f32, g);
    Ok(number(cell, single, shape.len()))
}
