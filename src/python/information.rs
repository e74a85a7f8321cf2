//! The quantities of rows by their public names.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use smallvec::{SmallVec, smallvec};

use super::array::{Alignment, Array, Target, align, dtype_name, follow, precision, scalar_of, tuple};
use super::detached;
use super::exchange::c_order;
use super::options::{Axis, Base, Ignore, KeepDims, OnInvalid, Reduction, Spaces, Stored, Temperature, Threads};
use super::pieces::Operands;
use super::saved::new_numbers;
use super::slope::{is_graph, node};
use crate::error::short;
use crate::registry::{Quantity, Symmetric, run};
use crate::rows::Dtype;
use crate::score::{Axes, Bytes, Given, Job, KNOWN, Labels, Operand, Out, ln};

/// The keywords that every quantity has.
pub struct Keywords<'a, 'py> {
    pub given: Spaces,
    pub dtype: Stored,
    pub axis: Axis,
    pub keepdims: bool,
    pub base: Base,
    pub temperature: Temperature,
    pub reduction: Reduction,
    pub r#where: Option<&'a Bound<'py, PyAny>>,
    pub rows: Option<&'a Bound<'py, PyAny>>,
    pub on_invalid: OnInvalid,
    pub out: Option<&'a Bound<'py, PyAny>>,
    pub threads: Threads,
}

/// A public function: its name, those of its arguments, its quantity, and whether the root of that is taken.
type Name = (&'static str, &'static [&'static str], (Quantity, bool));

/// What a quantity is called.
pub fn name(which: (Quantity, bool)) -> &'static str {
    NAMES.iter().find(|(_, _, of)| *of == which).map_or("", |(name, ..)| *name)
}

/// What is called so.
pub fn named(name: &str) -> PyResult<(Quantity, bool)> {
    let found = NAMES.iter().find(|(n, ..)| *n == name).map(|(.., which)| *which);
    found.ok_or_else(|| crate::error::unknown("name", name, &names()).into())
}

/// All names.
pub fn names() -> Vec<&'static str> {
    NAMES.iter().map(|(name, ..)| *name).collect()
}

/// A job about arrays, and what its result looks like.
pub struct Call<'py> {
    pub job: Job,
    /// The class axis's place in the result's shape.
    pub place: usize,
    /// Whether results are `f32`.
    pub single: bool,
    /// Keeps masks and labels alive.
    _keep: Vec<Array<'py>>,
}

/// The operands of a call as a job; `labels` with the label that does not count.
pub fn prepare<'py>(
    operands: &[(&'static str, &Array<'py>)],
    labels: Option<(&Bound<'py, PyAny>, Option<i64>)>,
    given: &Spaces,
    temperature: &Temperature,
    axis: isize,
    r#where: Option<&Bound<'py, PyAny>>,
    rows: Option<&Bound<'py, PyAny>>,
    invalid_is_nan: bool,
    threads: usize,
) -> PyResult<Call<'py>> {
    let n = operands.len();
    if n == 1 && given.1 {
        return Err(PyValueError::new_err("given must be one name where there is one input, got a pair"));
    }
    if n == 1 && temperature.1 {
        return Err(PyValueError::new_err("temperature must be one number where there is one input, got a pair"));
    }
    for k in 0..n {
        if temperature.0[k] != 1.0 && given.0[k] != Given::Logits && !(temperature.1 && temperature.0[k] == 1.0) {
            // A pair of spaces takes the temperature where there are logits.
            if temperature.1 || !given.0[..n].contains(&Given::Logits) {
                return Err(PyValueError::new_err(format!(
                    "temperature is for given=\"logits\", got {} with given=\"{}\"",
                    temperature.0[k],
                    given.0[k].name()
                )));
            }
        }
    }
    let Alignment { lead, classes, place, operands: aligned } = align(operands, axis)?;
    let single = Dtype::single(operands.iter().map(|(_, x)| x.dtype));
    let mut keep = Vec::new();
    let mut flags = |name: &str, obj: &Bound<'py, PyAny>| -> PyResult<(Axes<usize>, Axes<isize>, *const u8)> {
        let array = Array::new(name, obj)?;
        if array.dtype != Dtype::Bool {
            let got = dtype_name(array.dtype);
            return Err(PyTypeError::new_err(format!("{name} must be boolean, got {got}")));
        }
        let parts = (array.shape().into(), array.strides().into(), array.data);
        keep.push(array);
        Ok(parts)
    };
    let mask = r#where.map(|obj| -> PyResult<Bytes> {
        let (shape, strides, data) = flags("where", obj)?;
        let wrong = || {
            PyValueError::new_err(format!(
                "where says which classes count: it must have shape {} or as many axes as the input, got {}; to say which \
                 rows count pass rows",
                tuple(&[classes]),
                tuple(&shape)
            ))
        };
        if shape.len() == 1 && shape[0] == classes {
            return Ok(Bytes { data, class_stride: strides[0], lead: smallvec![0; lead.len()] });
        }
        if shape.len() != lead.len() + 1 || shape.len() == 1 || shape[place] != classes {
            return Err(wrong());
        }
        let (mut shape, mut strides) = (shape.clone(), strides);
        shape.remove(place);
        let class_stride = strides.remove(place);
        if shape.iter().zip(&lead).any(|(a, b)| a != b && *a != 1) {
            return Err(wrong());
        }
        Ok(Bytes { data, class_stride, lead: follow(&lead, &shape, &strides) })
    });
    let mask = mask.transpose()?;
    let rows = rows.map(|obj| -> PyResult<Bytes> {
        let (shape, strides, data) = flags("rows", obj)?;
        if shape != lead {
            return Err(PyValueError::new_err(format!(
                "rows says which rows count: it must have the result's shape {}, got {}",
                tuple(&lead),
                tuple(&shape)
            )));
        }
        Ok(Bytes { data, class_stride: 0, lead: strides })
    });
    let rows = rows.transpose()?;
    let labels = labels.map(|(obj, ignore)| -> PyResult<Labels> {
        let array = Array::new("labels", obj)?;
        if array.is_floating() || array.dtype == Dtype::Bool {
            let got = dtype_name(array.dtype);
            return Err(PyTypeError::new_err(format!("labels must be integers, one class a row, got {got}")));
        }
        if *array.shape() != *lead {
            return Err(PyValueError::new_err(format!(
                "labels must have one label a row, shape {}, got {}",
                tuple(&lead),
                tuple(array.shape())
            )));
        }
        let labels = Labels {
            data: array.data,
            dtype: array.dtype,
            swapped: array.swapped,
            lead: array.strides().into(),
            ignore,
        };
        keep.push(array);
        Ok(labels)
    });
    let labels = labels.transpose()?;
    let mut inputs = SmallVec::new();
    for (k, ((name, x), aligned)) in operands.iter().zip(aligned).enumerate() {
        inputs.push(Operand {
            given: given.0[k],
            temperature: if given.0[k] == Given::Logits { temperature.0[k] } else { 1.0 },
            ..x.operand(name, aligned.class_stride, aligned.lead)
        });
    }
    let job = Job {
        operands: inputs,
        lead,
        classes,
        check_sums: mask.is_none(),
        mask,
        rows,
        labels,
        unit: 1.0,
        most: f64::INFINITY,
        root: false,
        invalid_is_nan,
        threads,
        out: None,
        total: false,
        known: None,
    };
    Ok(Call { job, place, single, _keep: keep })
}

/// Evaluates a quantity of one or two arrays, or has torch do so where it must know.
fn score<'py>(
    py: Python<'py>,
    (quantity, root): (Quantity, bool),
    operands: &[(&'static str, &Bound<'py, PyAny>)],
    labels: Option<(&Bound<'py, PyAny>, Option<i64>)>,
    k: Keywords<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    if is_graph(operands)? {
        return node(py, (quantity, root), operands, labels, k);
    }
    Ok(value(py, (quantity, root), operands, labels, k, false)?.0)
}

/// Evaluates a quantity of one or two arrays, with what its gradients need if `save`.
fn value<'py>(
    py: Python<'py>,
    (quantity, root): (Quantity, bool),
    operands: &[(&'static str, &Bound<'py, PyAny>)],
    labels: Option<(&Bound<'py, PyAny>, Option<i64>)>,
    k: Keywords<'_, 'py>,
    save: bool,
) -> PyResult<(Bound<'py, PyAny>, Option<Bound<'py, PyAny>>)> {
    let mut operands = Operands::new(operands, k.axis.0)?;
    k.dtype.apply(&mut operands.arrays)?;
    let borrowed = operands.borrowed();
    if let (Quantity::CrossEntropy, [(_, p), (_, q)]) = (quantity, borrowed.as_slice())
        && !q.is_floating()
        && q.dtype != Dtype::Bool
        && q.shape().len() + 1 == p.shape().len()
        && q.shape() == &p.shape()[..q.shape().len()]
    {
        return Err(PyValueError::new_err(
            "q holds integers and has one axis less than p: for class labels use kullback.nll(p, labels) or \
             kullback.functional.cross_entropy",
        ));
    }
    let mut call = prepare(
        &borrowed,
        labels,
        &k.given,
        &k.temperature,
        k.axis.0,
        k.r#where,
        k.rows,
        k.on_invalid.0,
        k.threads.get(),
    )?;
    let job = &mut call.job;
    job.root = root;
    job.unit = k.base.0.map_or(1.0, ln);
    job.most = quantity.most();
    if let (true, Some(base)) = (root, k.base.0.filter(|b| *b < 1.0)) {
        return Err(PyValueError::new_err(format!(
            "base must be > 1 for a distance, got {}: in a base below 1 a divergence is negative and has no root",
            short(base)
        )));
    }
    let work = job.work();
    let mut saved = None;
    if save {
        let (target, numbers) = new_numbers(py, &operands.kind, KNOWN * job.len())?;
        job.known = Some(numbers);
        saved = Some(target.finish(py, None)?);
    }
    if k.reduction != Reduction::None {
        if k.out.is_some() {
            return Err(PyValueError::new_err("out is for reduction=\"none\": a sum or a mean is a scalar"));
        }
        if k.keepdims {
            return Err(PyValueError::new_err("keepdims is for reduction=\"none\": a sum or a mean is a scalar"));
        }
        let total = if operands.are_pieces() {
            let mut values = vec![0.0_f64; job.len()];
            let lead = c_order(&job.lead, 8).into();
            job.out = Some(Out { data: values.as_mut_ptr().cast(), single: false, lead });
            let invalid = operands.walk(job, |job, _| Ok(detached(py, work, || run(quantity, job))?.1))?;
            invalid.check(job)?;
            job.total_of(&values)
        } else {
            job.total = true;
            let job = &call.job;
            let (total, invalid) = detached(py, work, || run(quantity, job))?;
            invalid.check(job)?;
            total
        };
        let value = if k.reduction == Reduction::Sum { total.sum() } else { total.mean() };
        return Ok((scalar_of(py, &operands.kind, value, precision(call.single))?, saved));
    }
    let mut shape = job.lead.clone();
    if k.keepdims {
        shape.insert(call.place, 1);
    }
    let target = match k.out {
        Some(out) => Target::borrow(out, &shape, call.single, &borrowed)?,
        None => Target::new(py, &operands.kind, &shape, precision(call.single))?,
    };
    let mut lead = target.strides();
    if k.keepdims {
        lead.remove(call.place);
    }
    job.out = Some(Out { data: target.data(), single: call.single, lead });
    let job = &call.job;
    let invalid = operands.walk(job, |job, _| Ok(detached(py, work, || run(quantity, job))?.1))?;
    invalid.check(job)?;
    let result = target.finish(py, k.out)?;
    let result = match (&operands.frame, k.out) {
        (Some(frame), None) => {
            frame.call_method1("result", (result, name((quantity, root)), call.place, k.keepdims))?
        }
        _ => result,
    };
    Ok((result, saved))
}

/// What the docstrings share.
macro_rules! keywords {
    () => {
        "given : {\"probs\", \"counts\", \"log_probs\", \"logits\"} or a pair of them, default \"probs\"
    How rows are given. \"probs\": sums within max(sqrt(eps), 1e-3) of 1; \"counts\": any non-negative weights;
    \"log_probs\": logarithms whose log-sum-exp is within the same distance of 0; \"logits\": any logarithms. Rows are
    normalised in every case. A pair, as in ``given=(\"probs\", \"logits\")``, mixes spaces.
dtype : {\"bfloat16\"}, optional
    What inputs of uint16 hold: the bits of bfloat16, which NumPy has no dtype for. Other inputs stay what they are.
axis : int, default -1
    The axis along which a row lies. SciPy's default is 0. Other axes broadcast as in NumPy; a one-dimensional
    input is one row.
keepdims : bool, default False
    Whether the class axis stays in the result with length 1.
base : float, optional
    Base of the logarithms; natural ones by default, so that results are in nats.
temperature : float or pair of float, default 1.0
    What logits are divided by.
reduction : {\"none\", \"sum\", \"mean\"}, default \"none\"
    A value a row, or their sum or mean, accumulated in double precision in a fixed order and rounded once.
where : ndarray of bool, optional
    Which classes count: of shape (C,), or with as many axes as the input. The others have no mass; sums are not checked.
rows : ndarray of bool, optional
    Which rows count, in the result's shape. The others are not read, give NaN and stay out of reductions.
on_invalid : {\"raise\", \"nan\"}, default \"raise\"
    Whether a row that is not of its space is an error or gives NaN.
out : ndarray, optional
    Where results go: of the result's shape and dtype, sharing no memory with the inputs.
threads : int, optional
    Number of threads; the package's setting by default. It changes no bit of the result.

Returns
-------
ndarray or scalar
    float32 for float16, bfloat16 and float32 inputs, else float64. A row with a NaN, or without mass, gives NaN.
    Tensors give tensors, a pandas frame a series with its index, polars' columns a series.

Raises
------
TypeError
    If an input is not an array of real numbers or an option has the wrong type.
ValueError
    If shapes do not broadcast, an option is unknown, or a row is invalid: the message names argument, row, column,
    value and remedy.
"
    };
}

/// A function of one or two rows and the keywords that every quantity has.
macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident($($arg:ident),+), $signature:literal, $quantity:expr, $root:expr) => {
        $(#[$doc])*
        #[pyfunction]
        #[pyo3(
            signature = ($($arg),+, *, given=Spaces([Given::Probs; 2], false), dtype=Stored(false), axis=Axis(-1), keepdims=KeepDims(false), base=Base(None),
                temperature=Temperature([1.0; 2], false), reduction=Reduction::None, r#where=None, rows=None,
                on_invalid=OnInvalid(false), out=None, threads=Threads(None)),
            text_signature = $signature
        )]
        pub fn $name<'py>(
            py: Python<'py>,
            $($arg: &Bound<'py, PyAny>,)+
            given: Spaces,
            dtype: Stored,
            axis: Axis,
            keepdims: KeepDims,
            base: Base,
            temperature: Temperature,
            reduction: Reduction,
            r#where: Option<&Bound<'py, PyAny>>,
            rows: Option<&Bound<'py, PyAny>>,
            on_invalid: OnInvalid,
            out: Option<&Bound<'py, PyAny>>,
            threads: Threads,
        ) -> PyResult<Bound<'py, PyAny>> {
            let keepdims = keepdims.0;
            let keywords =
                Keywords { given, dtype, axis, keepdims, base, temperature, reduction, r#where, rows, on_invalid, out, threads };
            score(py, ($quantity, $root), &[$((stringify!($arg), $arg)),+], None, keywords)
        }
    };
    ($(#[$doc:meta])* $name:ident(p), $($of:tt)+) => {
        quantity! {
            $(#[$doc])* $name(p),
            "(p, *, given='probs', dtype=None, axis=-1, keepdims=False, base=None, temperature=1.0, reduction='none', where=None, rows=None, on_invalid='raise', out=None, threads=None)",
            $($of)+
        }
    };
    ($(#[$doc:meta])* $name:ident(p, q), $($of:tt)+) => {
        quantity! {
            $(#[$doc])* $name(p, q),
            "(p, q, *, given='probs', dtype=None, axis=-1, keepdims=False, base=None, temperature=1.0, reduction='none', where=None, rows=None, on_invalid='raise', out=None, threads=None)",
            $($of)+
        }
    };
}

/// The public functions: a name is one entry, with its arguments, its quantity, and whether the root of that is taken.
macro_rules! quantities {
    ($($(#[$doc:meta])* $name:ident($($arg:ident),+), $quantity:expr, $root:expr;)+) => {
        $(quantity! { $(#[$doc])* $name($($arg),+), $quantity, $root })+

        const NAMES: &[Name] = &[
            $((stringify!($name), &[$(stringify!($arg)),+], ($quantity, $root)),)+
            ("nll", &["q", "labels"], (Quantity::Nll, false)),
        ];

        /// Adds the functions to the native module, and says what they are: for torch's compiler, and for tests.
        pub fn add(m: &Bound<'_, PyModule>) -> PyResult<()> {
            $(m.add_function(wrap_pyfunction!($name, m)?)?;)+
            m.add_function(wrap_pyfunction!(nll, m)?)?;
            let arguments = PyDict::new(m.py());
            for (name, args, _) in NAMES {
                arguments.set_item(name, PyTuple::new(m.py(), *args)?)?;
            }
            m.add("QUANTITIES", arguments)
        }
    };
}

quantities! {
    /// Entropy of each row, ``-sum(p * ln(p))``, in nats.
    ///
    /// ``0 * ln(0)`` is 0. Evaluated with the largest class kept out of the sums, so that the tiny entropy of a confident
    /// row is as exact as any other.
    ///
    /// Parameters
    /// ----------
    /// p : array_like
    ///     Rows of C classes.
    #[doc = keywords!()]
    ///
    /// References
    /// ----------
    /// Shannon, "A Mathematical Theory of Communication", 1948.
    ///
    /// Examples
    /// --------
    /// >>> import kullback as kb
    /// >>> print(kb.entropy([0.5, 0.5], base=2))
    /// 1.0
    /// >>> print(kb.entropy([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]).round(4))
    /// [0.6931 0.    ]
    entropy(p), Quantity::Entropy, false;

    /// Cross entropy of each pair of rows, ``-sum(p * ln(q))``, in nats.
    ///
    /// A class with ``p = 0`` adds nothing; ``p > 0`` where ``q = 0`` makes it infinite. ``cross_entropy(p, p)`` equals
    /// ``entropy(p)`` in every bit. For class labels see `nll`.
    ///
    /// Parameters
    /// ----------
    /// p, q : array_like
    ///     Rows of C classes.
    #[doc = keywords!()]
    ///
    /// References
    /// ----------
    /// Cover and Thomas, "Elements of Information Theory", 2006, chapter 5.
    ///
    /// Examples
    /// --------
    /// >>> import kullback as kb
    /// >>> print(kb.cross_entropy([0.5, 0.5], [0.25, 0.75]).round(4))
    /// 0.837
    cross_entropy(p, q), Quantity::CrossEntropy, false;

    /// Kullback-Leibler divergence of each pair of rows, ``sum(p * ln(p / q))``, in nats.
    ///
    /// Never negative, and exactly 0 for equal rows: it is summed as terms none of which is negative, so that nothing
    /// cancels. ``p > 0`` where ``q = 0`` makes it infinite.
    ///
    /// Parameters
    /// ----------
    /// p, q : array_like
    ///     Rows of C classes.
    #[doc = keywords!()]
    ///
    /// References
    /// ----------
    /// Kullback and Leibler, "On Information and Sufficiency", 1951.
    ///
    /// Examples
    /// --------
    /// >>> import kullback as kb
    /// >>> print(kb.kl_divergence([0.36, 0.48, 0.16], [1/3, 1/3, 1/3]).round(4))
    /// 0.0853
    /// >>> print(kb.kl_divergence([0.5, 0.5], [0.5, 0.5]))
    /// 0.0
    kl_divergence(p, q), Quantity::Kl, false;

    /// Jensen-Shannon divergence of each pair of rows, in nats.
    ///
    /// ``(KL(p, m) + KL(q, m)) / 2`` with ``m = (p + q) / 2``: between 0 and ln 2, finite whatever the support, and symmetric
    /// in every bit.
    ///
    /// Parameters
    /// ----------
    /// p, q : array_like
    ///     Rows of C classes.
    #[doc = keywords!()]
    ///
    /// References
    /// ----------
    /// Lin, "Divergence Measures Based on the Shannon Entropy", 1991.
    ///
    /// Examples
    /// --------
    /// >>> import kullback as kb
    /// >>> print(kb.js_divergence([1.0, 0.0], [0.0, 1.0], base=2))
    /// 1.0
    js_divergence(p, q), Quantity::Symmetric(Symmetric::Js), false;

    /// Jensen-Shannon distance of each pair of rows: the square root of `js_divergence`, a metric.
    ///
    /// The base divides before the root is taken, and so must be greater than 1.
    ///
    /// Parameters
    /// ----------
    /// p, q : array_like
    ///     Rows of C classes.
    #[doc = keywords!()]
    ///
    /// References
    /// ----------
    /// Endres and Schindelin, "A New Metric for Probability Distributions", 2003.
    ///
    /// Examples
    /// --------
    /// >>> import kullback as kb
    /// >>> print(kb.js_distance([1.0, 0.0], [0.0, 1.0]).round(4))
    /// 0.8326
    js_distance(p, q), Quantity::Symmetric(Symmetric::Js), true;
}

/// Negative log-likelihood of a label under each row, ``-ln(q[label])``, in nats.
///
/// The exponential of its mean is the perplexity. Tiny values keep their digits: logits ``[20, 0]`` and label 0
/// give 2.06e-9.
///
/// Parameters
/// ----------
/// q : array_like
///     Rows of C classes.
/// labels : array_like of int
///     One class a row.
/// ignore_index : int, optional
///     The label of rows that do not count: they give NaN and stay out of reductions.
#[doc = keywords!()]
/// IndexError
///     If a label is out of range: the message names row and label.
///
/// References
/// ----------
/// Jelinek et al., "Perplexity: a measure of the difficulty of speech recognition tasks", 1977.
///
/// Examples
/// --------
/// >>> import kullback as kb
/// >>> print(kb.nll([[0.1, 0.9], [0.5, 0.5]], [1, 0]).round(4))
/// [0.1054 0.6931]
#[pyfunction]
#[pyo3(
    signature = (q, labels, *, ignore_index=Ignore(None), given=Spaces([Given::Probs; 2], false), dtype=Stored(false), axis=Axis(-1),
        keepdims=KeepDims(false), base=Base(None), temperature=Temperature([1.0; 2], false), reduction=Reduction::None, r#where=None,
        rows=None, on_invalid=OnInvalid(false), out=None, threads=Threads(None)),
    text_signature = "(q, labels, *, ignore_index=None, given='probs', dtype=None, axis=-1, keepdims=False, base=None, temperature=1.0, reduction='none', where=None, rows=None, on_invalid='raise', out=None, threads=None)"
)]
pub fn nll<'py>(
    py: Python<'py>,
    q: &Bound<'py, PyAny>,
    labels: &Bound<'py, PyAny>,
    ignore_index: Ignore,
    given: Spaces,
    dtype: Stored,
    axis: Axis,
    keepdims: KeepDims,
    base: Base,
    temperature: Temperature,
    reduction: Reduction,
    r#where: Option<&Bound<'py, PyAny>>,
    rows: Option<&Bound<'py, PyAny>>,
    on_invalid: OnInvalid,
    out: Option<&Bound<'py, PyAny>>,
    threads: Threads,
) -> PyResult<Bound<'py, PyAny>> {
    let keywords = Keywords {
        given,
        dtype,
        axis,
        keepdims: keepdims.0,
        base,
        temperature,
        reduction,
        r#where,
        rows,
        on_invalid,
        out,
        threads,
    };
    score(py, (Quantity::Nll, false), &[("q", q)], Some((labels, ignore_index.0)), keywords)
}

/// A quantity by name, of tensors whatever torch may have to know of them: for its operators. With what its gradients
/// need if `save`.
#[pyfunction]
#[pyo3(
    signature = (save, p, q, labels, r#where, rows, name, ignore_index, given, axis, keepdims, base, temperature, reduction,
        on_invalid, threads),
    text_signature = "(save, p, q, labels, where, rows, name, ignore_index, given, axis, keepdims, base, temperature, reduction, on_invalid, threads)"
)]
pub fn quantity<'py>(
    py: Python<'py>,
    save: bool,
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
    on_invalid: OnInvalid,
    threads: Threads,
) -> PyResult<(Bound<'py, PyAny>, Option<Bound<'py, PyAny>>)> {
    let keywords = Keywords {
        given,
        dtype: Stored(false),
        axis,
        keepdims,
        base,
        temperature,
        reduction,
        r#where,
        rows,
        on_invalid,
        out: None,
        threads,
    };
    let labels = labels.map(|labels| (labels, ignore_index.0));
    let which = named(name)?;
    match q {
        Some(q) => value(py, which, &[("p", p), ("q", q)], labels, keywords, save),
        None => value(py, which, &[(if labels.is_some() { "q" } else { "p" }, p)], labels, keywords, save),
    }
}
