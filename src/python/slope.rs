//! Quantities of tensors as part of torch's graph: which calls those are, and their gradients.

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use numpy::PyUntypedArray;

use super::array::{Array, Kind, Target};
use super::detached;
use super::exchange::{is_torch, wants_graph};
use super::information::{Keywords, name, named, prepare};
use super::options::{Axis, Base, Ignore, Reduction, Spaces, Temperature, Threads};
use super::saved::saved_numbers;
use crate::elementwise::Field;
use crate::loss::Upstream;
use crate::measure::SlopeOf;
use crate::registry::{Quantity, run};
use crate::rows::{Dtype, Lead};
use crate::score::{Axes, Job, KNOWN, Operand, Out, ln};
use crate::slope::gradient;

/// Whether torch has to see a call: its result is part of a graph, a transform of `torch.func` or forward-mode
/// differentiation is under way, or an operand is of a class that has torch's operators done in its own way.
pub fn is_graph(operands: &[(&'static str, &Bound<'_, PyAny>)]) -> PyResult<bool> {
    for (_, obj) in operands {
        if obj.cast_exact::<PyUntypedArray>().is_ok() {
            continue;
        }
        if wants_graph(obj)? || (is_torch(obj)? && !is_plain(obj)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether this is a tensor of torch's own classes, outside of all transforms.
fn is_plain(obj: &Bound<'_, PyAny>) -> PyResult<bool> {
    static TENSOR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static PARAMETER: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static TRANSFORMED: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    static FORWARD: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = obj.py();
    let class = obj.get_type();
    if !class.is(TENSOR.import(py, "torch", "Tensor")?)
        && !class.is(PARAMETER.import(py, "torch.nn.parameter", "Parameter")?)
    {
        return Ok(false);
    }
    let asked = TRANSFORMED.get_or_try_init(py, || {
        PyResult::Ok(py.import("torch._C")?.getattr("_are_functorch_transforms_active")?.unbind())
    })?;
    let forward =
        FORWARD.get_or_try_init(py, || PyResult::Ok(py.import("torch.autograd.forward_ad")?.into_any().unbind()))?;
    // The level of dual tensors: below 0 there are none.
    let level: i64 = forward.bind(py).getattr(intern!(py, "_current_level"))?.extract()?;
    Ok(level < 0 && !asked.bind(py).call0()?.is_truthy()?)
}

/// The result of a call that torch has to see.
pub fn node<'py>(
    py: Python<'py>,
    (quantity, root): (Quantity, bool),
    operands: &[(&'static str, &Bound<'py, PyAny>)],
    labels: Option<(&Bound<'py, PyAny>, Option<i64>)>,
    k: Keywords<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    static MEASURE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if k.dtype.0 {
        return Err(PyTypeError::new_err(
            "dtype is for arrays of uint16: a tensor that is part of a graph has its own",
        ));
    }
    if k.out.is_some() {
        return Err(PyTypeError::new_err("out cannot be part of a graph: pass detached tensors, or leave it out"));
    }
    let measure = MEASURE.get_or_try_init(py, || {
        PyResult::Ok(py.import("kullback._torch")?.getattr("Quantity")?.getattr("of")?.unbind())
    })?;
    let (p, q) = (operands[0].1, operands.get(1).map(|(_, q)| *q));
    let (labels, ignore_index) = labels.map_or((None, None), |(labels, ignore)| (Some(labels), ignore));
    measure.bind(py).call1((
        (p, q, labels, k.r#where, k.rows),
        (
            name((quantity, root)),
            ignore_index,
            k.given.names(),
            k.axis.0,
            k.keepdims,
            k.base.0,
            k.temperature.numbers(),
            k.reduction.name(),
            k.on_invalid.name(),
            k.threads.0,
        ),
    ))
}

/// The gradients of a quantity by its rows, each if `wanted`, in the shape that all rows broadcast to; `saved` is what
/// `quantity` gave for them.
#[pyfunction]
#[pyo3(
    signature = (wanted, grad, saved, p, q, labels, r#where, rows, name, ignore_index, given, axis, keepdims, base,
        temperature, reduction, threads),
    text_signature = "(wanted, grad, saved, p, q, labels, where, rows, name, ignore_index, given, axis, keepdims, base, temperature, reduction, threads)"
)]
pub fn quantity_backward<'py>(
    py: Python<'py>,
    wanted: (bool, bool),
    grad: &Bound<'py, PyAny>,
    saved: &Bound<'py, PyAny>,
    p: &Bound<'py, PyAny>,
    q: Option<&Bound<'py, PyAny>>,
    labels: Option<&Bound<'py, PyAny>>,
    r#where: Option<&Bound<'py, PyAny>>,
    rows: Option<&Bound<'py, PyAny>>,
    name: &str,
    ignore_index: Ignore,
    given: Spaces,
    axis: Axis,
    keepdims: bool,
    base: Base,
    temperature: Temperature,
    reduction: Reduction,
    threads: Threads,
) -> PyResult<[Option<Bound<'py, PyAny>>; 2]> {
    let (quantity, root) = named(name)?;
    let arrays: Vec<(&'static str, Array<'py>)> = [("p", Some(p)), ("q", q)]
        .into_iter()
        .filter_map(|(name, obj)| obj.map(|obj| Ok((name, Array::new(name, obj)?))))
        .collect::<PyResult<_>>()?;
    let borrowed: Vec<(&'static str, &Array<'py>)> = arrays.iter().map(|(name, x)| (*name, x)).collect();
    let wanted = [wanted.0, wanted.1 && borrowed.len() > 1];
    let kind = Kind::of(&borrowed)?;
    let mut call = prepare(
        &borrowed,
        labels.map(|labels| (labels, ignore_index.0)),
        &given,
        &temperature,
        axis.0,
        r#where,
        rows,
        true,
        threads.get(),
    )?;
    let place = call.place;
    let job = &mut call.job;
    let of = match quantity {
        Quantity::Entropy => [SlopeOf::Entropy; 2],
        Quantity::Nll => [SlopeOf::Nll; 2],
        Quantity::Symmetric(divergence) => {
            [divergence
                .slope()
                .ok_or_else(|| PyTypeError::new_err(format!("{name} has no gradient: pass detached tensors")))?;
                2]
        }
        Quantity::CrossEntropy => [SlopeOf::CrossEntropy, SlopeOf::Other],
        Quantity::Kl => [SlopeOf::Kl, SlopeOf::Other],
    };
    if job.operands.len() == 1 {
        job.operands.push(job.operands[0].clone());
    }
    let unit = base.0.map_or(1.0, ln);
    let g = Array::new("grad", grad)?;
    let mut upstream = if reduction == Reduction::None {
        let mut lead = Axes::from(g.strides());
        if keepdims {
            lead.remove(place);
        }
        Upstream::Rows(g.operand("grad", 0, lead))
    } else {
        // SAFETY: the gradient of a sum or a mean has one element.
        let value = unsafe { g.dtype.number(g.data, g.swapped) };
        let count = if reduction == Reduction::Mean { job.count() as f64 } else { 1.0 };
        Upstream::One(value / count)
    };
    let work = 4.0 * job.work();
    let mut numbers = Vec::new();
    if root {
        let job = &*job;
        numbers = detached(py, work, || of_square(quantity, job, &upstream, unit))?;
        upstream = Upstream::Rows(per_row(&numbers, &job.lead));
    }
    let saved = Array::new("saved", saved)?;
    let known = saved_numbers(&saved, KNOWN * job.len())?;
    let mut shape = job.lead.clone();
    shape.insert(place, job.classes);
    let mut targets = [None, None];
    let mut by = [None, None];
    for i in (0..2).filter(|i| wanted[*i]) {
        let dtype = arrays[i].1.dtype;
        let target = Target::new(py, &kind, &shape, dtype)?;
        let mut lead = target.strides();
        let class_stride = lead.remove(place);
        by[i] = Some((of[i], Field { data: target.data(), dtype, class_stride, lead }));
        targets[i] = Some(target);
    }
    let (job, upstream, by) = (&call.job, &upstream, &by);
    detached(py, work, || gradient(job, known, upstream, unit, by.clone()))?;
    drop(numbers);
    let [p, q] = targets.map(|target| target.map(|target| target.finish(py, None)).transpose());
    Ok([p?, q?])
}

/// From the gradient of each distance that of its square: g/(2d). Where rows are equal a distance has a kink, as |x| at
/// 0, and the gradient is 0 as for torch's norms.
fn of_square(quantity: Quantity, job: &Job, g: &Upstream, unit: f64) -> crate::error::Result<Vec<f64>> {
    let mut distances = vec![0.0; job.len()];
    let mut of_values = job.clone();
    let Operand { lead, .. } = per_row(&distances, &job.lead);
    (of_values.root, of_values.unit, of_values.most) = (true, unit, quantity.most());
    of_values.out = Some(Out { data: distances.as_mut_ptr().cast(), single: false, lead });
    run(quantity, &of_values)?;
    let lead = Lead { shape: &job.lead };
    for (row, d) in distances.iter_mut().enumerate() {
        *d = if *d == 0.0 { 0.0 } else { g.of(&lead, row) / (2.0 * *d) };
    }
    Ok(distances)
}

/// Numbers in C order, one a row.
fn per_row(numbers: &[f64], shape: &[usize]) -> Operand {
    let lead = super::exchange::c_order(shape, 8).into();
    Operand::new("grad", numbers.as_ptr().cast(), Dtype::F64, 0, lead)
}
