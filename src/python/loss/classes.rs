//! The arguments of a cross entropy over classes: torch's checks of them, and the job that they make.

use pyo3::exceptions::{PyIndexError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use super::{Obj, axis_of, is_implemented, list, operand, optional, promoted, softmax_kernel, split, torch_name};
use crate::loss::Terms;
use crate::parallel::num_threads;
use crate::python::array::{Array, Kind};
use crate::rows::Dtype;
use crate::score::{Axes, Job, Labels};

/// Which of the cross entropies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Of log-probabilities and class indices.
    LogProbs,
    /// Of logits and class indices.
    Labels,
    /// Of logits and probabilities.
    Probabilities,
}

/// The arguments of a cross entropy.
pub struct Classes<'py> {
    pub x: Array<'py>,
    pub t: Array<'py>,
    pub weight: Option<Array<'py>>,
    pub kind: Kind<'py>,
    /// The class axis.
    pub axis: usize,
    pub which: Which,
    pub job: Job,
    pub terms: Terms,
}

impl<'py> Classes<'py> {
    pub fn new(
        input: Obj<'_, 'py>,
        target: Obj<'_, 'py>,
        weight: Option<Obj<'_, 'py>>,
        ignore_index: i64,
        label_smoothing: f64,
        log_probs: bool,
    ) -> PyResult<Self> {
        let (x, t) = (Array::new("input", input)?, Array::new("target", target)?);
        let weight = optional("weight", weight)?;
        let mut all = vec![("input", &x), ("target", &t)];
        all.extend(weight.iter().map(|w| ("weight", w)));
        let kind = Kind::of(&all)?;
        let which = match x.shape() == t.shape() {
            _ if log_probs => Which::LogProbs,
            true => Which::Probabilities,
            false => Which::Labels,
        };
        let soft = which == Which::Probabilities;
        if soft && !t.is_floating() {
            return Err(PyRuntimeError::new_err(format!(
                "Expected floating point type for target with class probabilities, got {}",
                torch_name(t.dtype)
            )));
        }
        if soft && ignore_index >= 0 {
            return Err(PyRuntimeError::new_err("ignore_index is not supported for floating point target"));
        }
        if label_smoothing > 1.0 {
            return Err(PyRuntimeError::new_err(format!(
                "label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}"
            )));
        }
        let axes = x.shape().len();
        if axes == 0 {
            return Err(match which {
                Which::LogProbs => PyValueError::new_err("Expected 1 or more dimensions (got 0)"),
                Which::Probabilities => PyIndexError::new_err("Dimension specified as 1 but tensor has no dimensions"),
                Which::Labels => axis_of(1, 0).expect_err("no axes have no second"),
            });
        }
        let axis = usize::from(axes != 1);
        let (lead, classes) = split(x.shape(), axis, 1);
        let tensors = !matches!(kind, Kind::Numpy);
        check_kinds(which, &x, &t, axis, tensors, &lead)?;
        if let Some(weight) = &weight {
            check_weight(which, &x, weight, classes, tensors)?;
        }
        let mut operands = vec![operand("input", &x, axis)];
        let mut labels = None;
        if soft {
            operands.push(operand("target", &t, axis));
        } else {
            // One row may have its label in an array of one.
            let lead = if axes == 1 { Axes::new() } else { t.strides().into() };
            labels =
                Some(Labels { data: t.data, dtype: t.dtype, swapped: t.swapped, lead, ignore: Some(ignore_index) });
        }
        let mut job = Job::new(operands, lead, classes, num_threads());
        job.labels = labels;
        let numbers = weight.as_ref().map(|w| {
            let at = |i: usize| w.data.wrapping_offset(i as isize * w.strides()[0]);
            // SAFETY: the array has a number for every class.
            (0..classes).map(|i| unsafe { w.dtype.number(at(i), w.swapped) }).collect()
        });
        let double = |y: &Array<'_>| y.dtype == Dtype::F64;
        let single = !(double(&x) || (soft && (double(&t) || weight.as_ref().is_some_and(double))));
        let smoothing = if label_smoothing > 0.0 { label_smoothing } else { 0.0 };
        Ok(Classes { x, t, weight, kind, axis, which, job, terms: Terms { weight: numbers, smoothing, single } })
    }

    /// torch's dtype of the result.
    pub fn dtype(&self) -> Dtype {
        if self.which != Which::Probabilities {
            return self.x.dtype;
        }
        let weight = self.weight.as_ref().map(|w| w.dtype).filter(|d| d.is_floating());
        let all: Vec<Dtype> = [self.x.dtype, self.t.dtype].into_iter().chain(weight).collect();
        promoted(&all)
    }

    /// Whether one reading of the logits gives the gradient too.
    pub fn is_one_reading(&self) -> bool {
        self.which == Which::Labels && self.terms.smoothing == 0.0
    }

    /// How many numbers the gradient needs: the log-sum-exp of every row and the weight of every row (probabilities) or
    /// of all of them (labels); of log-probabilities the latter alone.
    pub fn saved(&self) -> usize {
        match self.which {
            Which::LogProbs => 1,
            Which::Labels => self.job.len() + 1,
            Which::Probabilities => 2 * self.job.len(),
        }
    }
}

/// torch's words about the dtypes of input and target and the shape of labels, in its order.
fn check_kinds(which: Which, x: &Array<'_>, t: &Array<'_>, axis: usize, tensors: bool, lead: &[usize]) -> PyResult<()> {
    let (soft, axes) = (which == Which::Probabilities, x.shape().len());
    if which != Which::LogProbs {
        is_implemented(x, || softmax_kernel(true, axis, axes))?;
    }
    let labels = !t.is_floating() && t.dtype != Dtype::Bool;
    let no_labels = !soft && (!labels || (tensors && !matches!(t.dtype, Dtype::I64 | Dtype::U8)));
    let refuse_labels = || {
        let got = torch_name(t.dtype);
        Err(PyRuntimeError::new_err(format!("expected target dtype to be Long or Byte, but got {got}")))
    };
    if no_labels && axes == 1 && t.shape().len() == 1 {
        // Of one row torch looks at the kind of its label before it counts them.
        return refuse_labels();
    }
    if !soft {
        check_shapes(x.shape(), t.shape(), lead)?;
    }
    is_implemented(x, || format!("nll_loss{}_out_frame", if axes > 2 { "2d_forward" } else { "" }))?;
    if no_labels { refuse_labels() } else { Ok(()) }
}

/// torch's words about the weights of the classes.
fn check_weight(which: Which, x: &Array<'_>, weight: &Array<'_>, classes: usize, tensors: bool) -> PyResult<()> {
    let soft = which == Which::Probabilities;
    if weight.shape() != [classes] {
        if !soft && x.shape().len() > 2 {
            return Err(PyRuntimeError::new_err("weight tensor should be defined either for all or no classes"));
        }
        return Err(PyRuntimeError::new_err(format!(
            "{}weight tensor should be defined either for all {classes} classes or no classes but got weight tensor of \
             shape: {}",
            if soft { "cross_entropy: " } else { "" },
            list(weight.shape())
        )));
    }
    if tensors && !soft && weight.dtype != x.dtype {
        let (of_x, of_w) = (torch_name(x.dtype), torch_name(weight.dtype));
        return Err(PyRuntimeError::new_err(format!("expected scalar type {of_x} but found {of_w}")));
    }
    Ok(())
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
