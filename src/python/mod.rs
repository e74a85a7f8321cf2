//! The Python module `kullback._core`. Bindings only translate: parse, borrow, allocate, detach, call, return.

mod array;
mod arrow;
mod compare;
mod exact_sum;
mod exchange;
mod group;
mod information;
mod loss;
mod options;
mod packed;
mod pieces;
mod saved;
mod slope;

use pyo3::exceptions::{PyIndexError, PyMemoryError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::error::Error;
use crate::{parallel, simd};

impl From<Error> for PyErr {
    fn from(error: Error) -> PyErr {
        match error {
            Error::Type(message) => PyTypeError::new_err(message),
            Error::Value(message) => PyValueError::new_err(message),
            Error::Index(message) => PyIndexError::new_err(message),
            Error::Memory(message) => PyMemoryError::new_err(message),
        }
    }
}

/// Work of at least this many nanoseconds is done without holding the interpreter.
const WORTH_DETACHING: f64 = 20_000.0;

/// Runs `work`, which takes about `nanoseconds`, in the default floating-point environment, detached from the interpreter
/// if that pays. A panic becomes an error.
fn detached<T: Send>(
    py: Python<'_>,
    nanoseconds: f64,
    work: impl FnOnce() -> crate::error::Result<T> + Send,
) -> PyResult<T> {
    let work = || simd::in_default_environment(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)));
    let result = if nanoseconds > WORTH_DETACHING { py.detach(work) } else { work() };
    match result {
        Ok(result) => Ok(result?),
        Err(_) => {
            Err(PyRuntimeError::new_err("kullback failed: this is a bug, please report it with the call's shapes"))
        }
    }
}

/// Sets the number of threads that calls use by default.
///
/// Parameters
/// ----------
/// n : int
///     At least 1.
///
/// Examples
/// --------
/// >>> import kullback as kb
/// >>> kb.set_num_threads(2)
/// >>> kb.get_num_threads()
/// 2
#[pyfunction]
fn set_num_threads(n: &Bound<'_, PyAny>) -> PyResult<()> {
    parallel::set_num_threads(options::threads("n", "an int >= 1", &n.as_borrowed())?);
    Ok(())
}

/// The number of threads that calls use by default.
///
/// What `set_num_threads` was told, else the environment variables ``KULLBACK_NUM_THREADS``, ``RAYON_NUM_THREADS`` and
/// ``OMP_NUM_THREADS``, else what the process may use.
///
/// Returns
/// -------
/// int
///     At least 1.
///
/// Examples
/// --------
/// >>> import kullback as kb
/// >>> kb.get_num_threads() >= 1
/// True
#[pyfunction]
fn get_num_threads() -> usize {
    parallel::num_threads()
}

/// The name of the instruction-set level in use.
#[pyfunction]
fn simd_level() -> &'static str {
    simd::level_name()
}

/// The instruction-set levels this machine can run, best first.
#[pyfunction]
fn simd_levels() -> Vec<&'static str> {
    simd::levels()
}

/// Forces an instruction-set level: results are the same in every bit, so this is for tests.
#[pyfunction]
fn set_simd_level(name: &str) -> PyResult<()> {
    if simd::set_level(name) {
        return Ok(());
    }
    Err(crate::error::unknown("name", name, &simd::levels()).into())
}

/// Refuses what the package's own environment variables cannot mean: a level with a slip in its name would otherwise
/// be tested as the best one. Those of other libraries may hold what only these understand.
fn check_environment() -> crate::error::Result<()> {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(name) = set("KULLBACK_SIMD").filter(|name| !simd::levels().contains(&name.as_str())) {
        return Err(crate::error::unknown("KULLBACK_SIMD", &name, &simd::levels()));
    }
    match set("KULLBACK_NUM_THREADS") {
        Some(n) if !n.trim().parse::<usize>().is_ok_and(|n| n > 0) => {
            Err(Error::Value(format!("KULLBACK_NUM_THREADS must be an int >= 1, got {n:?}")))
        }
        _ => Ok(()),
    }
}

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    check_environment()?;
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_function(wrap_pyfunction!(array::as_ndarray, m)?)?;
    m.add_function(wrap_pyfunction!(array::as_rows, m)?)?;
    information::add(m)?;
    loss::add(m)?;
    m.add_function(wrap_pyfunction!(compare::compare_columns, m)?)?;
    m.add_function(wrap_pyfunction!(group::count_values, m)?)?;
    m.add_function(wrap_pyfunction!(arrow::number_strings, m)?)?;
    m.add_function(wrap_pyfunction!(packed::merge_clamped, m)?)?;
    m.add_function(wrap_pyfunction!(packed::clipped_divergence, m)?)?;
    m.add_class::<arrow::Chunks>()?;
    m.add_function(wrap_pyfunction!(information::quantity, m)?)?;
    m.add_function(wrap_pyfunction!(slope::quantity_backward, m)?)?;
    m.add_class::<exact_sum::PyExactSum>()?;
    m.add_class::<exact_sum::PyGroupSums>()?;
    m.add_function(wrap_pyfunction!(set_num_threads, m)?)?;
    m.add_function(wrap_pyfunction!(get_num_threads, m)?)?;
    m.add_function(wrap_pyfunction!(simd_level, m)?)?;
    m.add_function(wrap_pyfunction!(simd_levels, m)?)?;
    m.add_function(wrap_pyfunction!(set_simd_level, m)?)?;
    // What `from kullback._core import *` hands on to the package: the rest is for its own modules.
    let public = ["__version__", "get_num_threads", "set_num_threads"];
    m.setattr("__all__", [&public[..], &information::names()].concat())
}
