//! Quantities of tensors as nodes of torch's graph: a call with its options, to be evaluated and differentiated.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use numpy::PyUntypedArray;

use super::array::{Array, Kind, Target};
use super::detached;
use super::exchange::wants_graph;
use super::information::{Keywords, prepare, score};
use super::options::{Axis, Base, OnInvalid, Reduction, Spaces, Stored, Temperature, Threads};
use crate::elementwise::Field;
use crate::loss::Upstream;
use crate::measure::SlopeOf;
use crate::registry::Quantity;
use crate::score::{Axes, Given, Operand, ln, nanoseconds_a_row};
use crate::slope::gradient;

/// A call of a quantity, without the rows that it is about.
#[pyclass(module = "kullback._core", frozen)]
pub struct Measured {
    quantity: Quantity,
    names: Vec<&'static str>,
    labels: Option<(Py<PyAny>, Option<i64>)>,
    given: Spaces,
    dtype: Stored,
    axis: Axis,
    keepdims: bool,
    base: Base,
    temperature: Temperature,
    reduction: Reduction,
    r#where: Option<Py<PyAny>>,
    rows: Option<Py<PyAny>>,
    on_invalid: OnInvalid,
    threads: Threads,
}

/// Whether the result of a call must be part of torch's graph.
pub fn is_graph(operands: &[(&'static str, &Bound<'_, PyAny>)]) -> PyResult<bool> {
    for (_, obj) in operands {
        if obj.cast_exact::<PyUntypedArray>().is_err() && wants_graph(obj)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The result of a call as a node of torch's graph.
pub fn node<'py>(
    py: Python<'py>,
    quantity: Quantity,
    operands: &[(&'static str, &Bound<'py, PyAny>)],
    labels: Option<(&Bound<'py, PyAny>, Option<i64>)>,
    root: bool,
    k: Keywords<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    if root {
        return Err(PyTypeError::new_err(
            "js_distance has no gradient: pass detached tensors, or take the root of js_divergence",
        ));
    }
    if k.out.is_some() {
        return Err(PyTypeError::new_err("out cannot be part of a graph: pass detached tensors, or leave it out"));
    }
    let call = Measured {
        quantity,
        names: operands.iter().map(|(name, _)| *name).collect(),
        labels: labels.map(|(labels, ignore)| (labels.clone().unbind(), ignore)),
        given: k.given,
        dtype: k.dtype,
        axis: k.axis,
        keepdims: k.keepdims,
        base: k.base,
        temperature: k.temperature,
        reduction: k.reduction,
        r#where: k.r#where.map(|x| x.clone().unbind()),
        rows: k.rows.map(|x| x.clone().unbind()),
        on_invalid: k.on_invalid,
        threads: k.threads,
    };
    let tensors = PyTuple::new(py, operands.iter().map(|(_, obj)| (*obj).clone()))?;
    py.import("kullback._torch")?.getattr("measure")?.call1((Bound::new(py, call)?, tensors))
}

#[pymethods]
impl Measured {
    /// The value of the call on these rows.
    fn value<'py>(&self, py: Python<'py>, rows: Vec<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        let operands: Vec<_> = self.names.iter().copied().zip(&rows).collect();
        let labels = self.labels.as_ref().map(|(labels, ignore)| (labels.bind(py), *ignore));
        let k = Keywords {
            given: self.given,
            dtype: self.dtype,
            axis: self.axis,
            keepdims: self.keepdims,
            base: self.base,
            temperature: self.temperature,
            reduction: self.reduction,
            r#where: self.r#where.as_ref().map(|x| x.bind(py)),
            rows: self.rows.as_ref().map(|x| x.bind(py)),
            on_invalid: self.on_invalid,
            out: None,
            threads: self.threads,
        };
        score(py, self.quantity, &operands, labels, false, k)
    }

    /// The class axis, counted from the last.
    fn axis<'py>(&self, rows: Vec<Bound<'py, PyAny>>) -> PyResult<isize> {
        let mut most = 0;
        for obj in &rows {
            most = most.max(obj.getattr("ndim")?.extract::<isize>()?);
        }
        Ok(if self.axis.0 < 0 { self.axis.0 } else { self.axis.0 - most })
    }

    /// The gradient by one of the rows, in the shape that all rows broadcast to with the classes last.
    fn gradient<'py>(
        &self,
        py: Python<'py>,
        grad: &Bound<'py, PyAny>,
        rows: Vec<Bound<'py, PyAny>>,
        by: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut arrays: Vec<(&'static str, Array<'py>)> = self
            .names
            .iter()
            .zip(&rows)
            .map(|(name, obj)| Ok((*name, Array::new(name, obj)?)))
            .collect::<PyResult<_>>()?;
        self.dtype.apply(&mut arrays)?;
        let borrowed: Vec<(&'static str, &Array<'py>)> = arrays.iter().map(|(name, x)| (*name, x)).collect();
        let kind = Kind::of(&borrowed)?;
        let mut call = prepare(
            &borrowed,
            self.labels.as_ref().map(|(labels, ignore)| (labels.bind(py), *ignore)),
            &self.given,
            &self.temperature,
            self.axis.0,
            self.r#where.as_ref().map(|x| x.bind(py)),
            self.rows.as_ref().map(|x| x.bind(py)),
            true,
            self.threads.get(),
        )?;
        let job = &mut call.job;
        let of = match (self.quantity, by) {
            (Quantity::Entropy, _) => SlopeOf::Entropy,
            (Quantity::Nll, _) => SlopeOf::Nll,
            (Quantity::Js, _) => SlopeOf::Js,
            (Quantity::CrossEntropy, 0) => SlopeOf::CrossEntropy,
            (Quantity::Kl, 0) => SlopeOf::Kl,
            _ => SlopeOf::Other,
        };
        if job.operands.len() == 1 {
            job.operands.push(job.operands[0].clone());
        } else if by == 1 {
            job.operands.swap(0, 1);
        }
        let unit = self.base.0.map_or(1.0, ln);
        let g = Array::new("grad", grad)?;
        let upstream = if self.reduction == Reduction::None {
            let mut lead = Axes::from(g.strides());
            if self.keepdims {
                lead.remove(call.place);
            }
            let (data, dtype, swapped) = (g.data, g.dtype, g.swapped);
            let given = Given::Logits;
            Upstream::Rows(Operand {
                name: "grad",
                data,
                dtype,
                swapped,
                class_stride: 0,
                lead,
                given,
                temperature: 1.0,
            })
        } else {
            // SAFETY: the gradient of a sum or a mean has one element.
            let value = unsafe { g.dtype.number(g.data, g.swapped) };
            let count = if self.reduction == Reduction::Mean { job.count() as f64 } else { 1.0 };
            Upstream::One(value / count)
        };
        let mut shape = job.lead.clone();
        shape.push(job.classes);
        let dtype = arrays[by].1.dtype;
        let target = Target::new(py, &kind, &shape, dtype)?;
        let mut lead = target.strides();
        let class_stride = lead.pop().unwrap_or(0);
        let field = &Field { data: target.data(), dtype, class_stride, lead };
        let work = 4.0 * nanoseconds_a_row(job.classes, 2) * job.len() as f64;
        let (job, upstream) = (&call.job, &upstream);
        detached(py, work, || gradient(job, of, upstream, unit, field.clone()))?;
        target.finish(py, None)
    }
}
