//! llama.cpp's rows for Python: what the command line stands on.

use numpy::{IntoPyArray, PyArray1, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::detached;
use super::options::Threads;
use crate::packed::{Elements, Floats, HEAD, Matrix, divergence, merge};

/// A borrowed matrix and the space of its rows.
enum Borrowed<'py> {
    Codes(PyReadonlyArray2<'py, u16>),
    Single(PyReadonlyArray2<'py, f32>, bool),
    Double(PyReadonlyArray2<'py, f64>, bool),
}

impl<'py> Borrowed<'py> {
    /// A contiguous matrix: codes, or numbers of `classes` classes.
    fn new(name: &str, array: &Bound<'py, PyAny>, space: &str, classes: usize) -> PyResult<Self> {
        let is_log = matches!(space, "log_probs" | "logits");
        let borrowed = if let Ok(codes) = array.extract() {
            Borrowed::Codes(codes)
        } else if let Ok(single) = array.extract() {
            Borrowed::Single(single, is_log)
        } else {
            let double = array.extract();
            Borrowed::Double(
                double.map_err(|_| {
                    PyTypeError::new_err(format!("{name} must be a matrix of codes (uint16), float32 or float64"))
                })?,
                is_log,
            )
        };
        let (width, fits) = match &borrowed {
            Borrowed::Codes(x) => (x.shape()[1], x.shape()[1] >= classes + HEAD),
            Borrowed::Single(x, _) => (x.shape()[1], x.shape()[1] == classes),
            Borrowed::Double(x, _) => (x.shape()[1], x.shape()[1] == classes),
        };
        if !fits {
            return Err(PyValueError::new_err(format!(
                "{name} has {width} columns, too few or many for {classes} classes"
            )));
        }
        Ok(borrowed)
    }

    fn rows(&self) -> usize {
        match self {
            Borrowed::Codes(x) => x.shape()[0],
            Borrowed::Single(x, _) => x.shape()[0],
            Borrowed::Double(x, _) => x.shape()[0],
        }
    }

    fn matrix(&self) -> PyResult<Matrix<'_>> {
        let of = |floats, is_log| if is_log { Matrix::Logs(floats) } else { Matrix::Masses(floats) };
        Ok(match self {
            Borrowed::Codes(x) => Matrix::Codes(x.as_slice()?, x.shape()[1]),
            Borrowed::Single(x, is_log) => of(Floats::Single(x.as_slice()?), *is_log),
            Borrowed::Double(x, is_log) => of(Floats::Double(x.as_slice()?), *is_log),
        })
    }
}

/// The rows that results have to have.
fn common(matrices: &[Borrowed<'_>]) -> PyResult<usize> {
    let rows = matrices.first().map_or(0, Borrowed::rows);
    if matrices.iter().any(|m| m.rows() != rows) {
        return Err(PyValueError::new_err("the matrices have different numbers of rows"));
    }
    Ok(rows)
}

/// Makes one class, the last of one more, of all that is clamped in any of the matrices.
///
/// Takes pairs of a contiguous matrix and its space ("codes" are llama.cpp's, as uint16 with step and minimum in front)
/// and gives of each the merged rows, the mass of their last class and the first of the largest classes.
#[pyfunction]
#[pyo3(signature = (matrices, classes, threads=Threads(None)), text_signature = "(matrices, classes, threads=None)")]
pub fn merge_clamped<'py>(
    py: Python<'py>,
    matrices: Vec<(Bound<'py, PyAny>, String)>,
    classes: usize,
    threads: Threads,
) -> PyResult<Vec<Bound<'py, PyTuple>>> {
    let borrowed = matrices
        .iter()
        .enumerate()
        .map(|(k, (array, space))| Borrowed::new(&format!("matrix {k}"), array, space, classes))
        .collect::<PyResult<Vec<_>>>()?;
    let rows = common(&borrowed)?;
    let given = borrowed.iter().map(Borrowed::matrix).collect::<PyResult<Vec<_>>>()?;
    let work = 3.0 * (rows * classes) as f64;
    let merged = detached(py, work, || Ok(merge(&given, rows, classes, threads.get())))?;
    merged
        .into_iter()
        .map(|m| {
            let shape = [rows, classes + 1];
            let matrix = match m.rows {
                Elements::Single(all) => all.into_pyarray(py).reshape(shape)?.into_any(),
                Elements::Double(all) => all.into_pyarray(py).reshape(shape)?.into_any(),
            };
            PyTuple::new(py, [matrix, m.mass.into_pyarray(py).into_any(), m.top.into_pyarray(py).into_any()])
        })
        .collect()
}

/// llama.cpp's divergence of each row, in double precision: the sum of p (ln p − ln q) over the classes with
/// ln p > −16, not normalised.
///
/// Matrices are codes or contiguous logarithms, from which the rows' `shifts` are subtracted.
#[pyfunction]
#[pyo3(
    signature = (base, other, base_shifts, other_shifts, classes, threads=Threads(None)),
    text_signature = "(base, other, base_shifts, other_shifts, classes, threads=None)"
)]
pub fn clipped_divergence<'py>(
    py: Python<'py>,
    base: &Bound<'py, PyAny>,
    other: &Bound<'py, PyAny>,
    base_shifts: PyReadonlyArray1<'py, f64>,
    other_shifts: PyReadonlyArray1<'py, f64>,
    classes: usize,
    threads: Threads,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let borrowed =
        [Borrowed::new("base", base, "log_probs", classes)?, Borrowed::new("other", other, "log_probs", classes)?];
    let rows = common(&borrowed)?;
    let matrices = [borrowed[0].matrix()?, borrowed[1].matrix()?];
    let shifts = [base_shifts.as_slice()?, other_shifts.as_slice()?];
    if shifts.iter().any(|s| s.len() != rows) {
        return Err(PyValueError::new_err(format!("the shifts must be one a row, {rows}")));
    }
    let mut out = vec![0.0; rows];
    detached(py, 6.0 * (rows * classes) as f64, || {
        divergence(matrices, shifts, classes, &mut out, threads.get());
        Ok(())
    })?;
    Ok(out.into_pyarray(py))
}
