//! torch's binary cross entropy, of probabilities or of logits, and its gradients.

use pyo3::exceptions::{PyNotImplementedError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use super::pointwise::{Element, Number, broadcast, every, loss, number, spread, upstream};
use super::{Obj, Reduce, list, optional, promoted, torch_name};
use crate::elementwise::{Elements, Pointwise};
use crate::parallel::num_threads;
use crate::python::array::{Array, Kind};
use crate::python::detached;
use crate::rows::Dtype;

/// The number that an absent weight is.
static ONE: Number = (1.0, 1.0);

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
        let (weight, positive) = (optional("weight", weight)?, optional("pos_weight", positive)?);
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
            if *shape != *x.shape() {
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
            let floats: Vec<Dtype> = [self.x.dtype, self.t.dtype].into_iter().filter(|d| d.is_floating()).collect();
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
            let (elements, single) = (&Elements::new(shape, &elements, None, num_threads()), self.single);
            detached(py, elements.work(), || Ok(elements.outside(single)))
        };
        if outside(&self.x, &self.t)? == 0.0 {
            return Ok(());
        }
        let which = if outside(&self.x, &self.x)? > 0.0 { "input" } else { "target" };
        Err(PyRuntimeError::new_err(format!("all elements of {which} should be between 0 and 1")))
    }
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

/// torch's binary cross entropy, of probabilities or of logits.
#[pyfunction]
pub fn binary_cross_entropy<'py>(
    py: Python<'py>,
    input: Obj<'_, 'py>,
    target: Obj<'_, 'py>,
    weight: Option<Obj<'_, 'py>>,
    pos_weight: Option<Obj<'_, 'py>>,
    reduction: Obj<'_, 'py>,
    logits: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let reduce = Reduce::new(reduction, false)?;
    let pairs = Pairs::new(input, target, weight, pos_weight, logits)?;
    let shape = pairs.x.shape();
    if !logits && reduce == Reduce::None {
        pairs.check(py)?;
    }
    let value = if logits { Pointwise::Logistic } else { Pointwise::Binary };
    let (precision, reduction) = ((pairs.single, pairs.dtype()), (reduce, shape.iter().product()));
    loss(py, value, &pairs.kind, shape, &pairs.elements(), precision, reduction, || {
        if logits { Ok(()) } else { pairs.check(py) }
    })
}

/// The gradient of `binary_cross_entropy` by its input or its target.
#[pyfunction]
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
    let reduce = Reduce::new(reduction, false)?;
    let pairs = Pairs::new(input, target, weight, pos_weight, logits)?;
    let (g, shape) = (Array::new("grad", grad)?, pairs.x.shape());
    let (mut elements, mut cell) = (pairs.elements(), Number::default());
    elements.push(upstream(&g, shape, pairs.single, (reduce, shape.iter().product()), &mut cell)?);
    let (value, dtype) = match (logits, by_target) {
        (false, false) => (Pointwise::BinaryInput, pairs.x.dtype),
        (false, true) => (Pointwise::BinaryTarget, pairs.t.dtype),
        (true, false) => (Pointwise::LogisticInput, pairs.x.dtype),
        (true, true) => (Pointwise::LogisticTarget, pairs.t.dtype),
    };
    every(py, value, &pairs.kind, shape, &elements, (pairs.single, dtype))
}
