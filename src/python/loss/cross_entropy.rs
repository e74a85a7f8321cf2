//! torch's cross entropy of logits and its likelihood of log-probabilities, and their gradients.

use pyo3::prelude::*;

use super::classes::{Classes, Which};
use super::{Obj, Reduce, field, rows, same_shape, whole};
use crate::elementwise::Field;
use crate::loss::{self, Upstream};
use crate::python::array::{Array, Target, scalar_of};
use crate::python::detached;
use crate::python::saved::{new_numbers, saved_numbers};
use crate::reduce::Total;

/// A result of a cross entropy and, where wanted, what its gradient needs.
type Loss<'py> = (Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);
/// The same and, where it is at hand, the gradient by the input.
type LossAhead<'py> = (Bound<'py, PyAny>, Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>);

/// A sum or a mean over labels with its gradient, which one reading of the logits gives.
fn cross_entropy_ahead<'py>(py: Python<'py>, call: &Classes<'py>, reduce: Reduce) -> PyResult<LossAhead<'py>> {
    let (saved, numbers) = new_numbers(py, &call.kind, call.saved())?;
    let (target, field) = whole(py, &call.kind, call.x.shape(), call.axis, call.x.dtype)?;
    let (job, terms, field) = (&call.job, &call.terms, &field);
    let (sum, count) = detached(py, 2.0 * call.job.work(), || {
        let g = if reduce == Reduce::Mean { 1.0 / loss::weights(job, terms) } else { 1.0 };
        loss::cross_entropy_and_gradient(job, terms, numbers, g, field.clone())
    })?;
    numbers.set(call.saved() - 1, count);
    let result = scalar_of(py, &call.kind, reduce.of_sum(sum, count), call.dtype())?;
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
    let (sum, count) = detached(py, call.job.work(), || {
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
        None => scalar_of(py, &call.kind, reduce.of_sum(sum, count), dtype)?,
    };
    Ok((result, saved.map(|(saved, _)| saved.finish(py, None)).transpose()?))
}

/// torch's cross entropy of logits, what `cross_entropy_backward` needs if `save`, and if `ahead` the gradient by the
/// input for a gradient of 1, where that takes no second reading of the logits.
#[pyfunction]
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
    let reduce = Reduce::new(reduction, false)?;
    let call = Classes::new(input, target, weight, ignore_index, label_smoothing, false)?;
    if ahead && reduce != Reduce::None && call.is_one_reading() {
        return cross_entropy_ahead(py, &call, reduce);
    }
    let (result, saved) = cross_entropy_of(py, &call, reduce, save)?;
    Ok((result, saved, None))
}

/// torch's negative log-likelihood of log-probabilities, and the sum of the weights if `save`.
#[pyfunction]
pub fn nll_loss<'py>(
    py: Python<'py>,
    input: Obj<'_, 'py>,
    target: Obj<'_, 'py>,
    weight: Option<Obj<'_, 'py>>,
    ignore_index: i64,
    reduction: Obj<'_, 'py>,
    save: bool,
) -> PyResult<Loss<'py>> {
    let reduce = Reduce::new(reduction, false)?;
    let call = Classes::new(input, target, weight, ignore_index, 0.0, true)?;
    cross_entropy_of(py, &call, reduce, save)
}

/// The gradient of what each row adds to the result.
fn upstream_of_rows(g: &Array<'_>, lead: &[usize], reduce: Reduce, count: f64) -> PyResult<Upstream> {
    if reduce == Reduce::None {
        same_shape("grad", g, lead)?;
        return Ok(Upstream::Rows(g.operand("grad", 0, g.strides().into())));
    }
    Ok(Upstream::One(reduce.gradient_of_sum(g, count)?))
}

/// Gradients by input, target and weight, each where it is wanted.
type Gradients<'py> = (Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>);

/// The gradients of `cross_entropy_loss` by input, target and weight, each if `wanted`.
#[pyfunction]
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
    let reduce = Reduce::new(reduction, false)?;
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
    detached(py, 2.0 * call.job.work(), || {
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
    let reduce = Reduce::new(reduction, false)?;
    let call = Classes::new(input, target, weight, ignore_index, 0.0, true)?;
    let (g, saved) = (Array::new("grad", grad)?, Array::new("saved", saved)?);
    let count = saved_numbers(&saved, call.saved())?.get(0);
    let upstream = &upstream_of_rows(&g, &call.job.lead, reduce, count)?;
    let target = Target::zeros(py, &call.kind, call.x.shape(), call.x.dtype)?;
    let (job, terms, field) = (&call.job, &call.terms, &field(&target, call.axis, call.x.dtype));
    detached(py, 10.0 * job.len() as f64, || loss::nll_gradient(job, terms, upstream, field))?;
    target.finish(py, None)
}
