//! `compare_columns`: what `kullback.compare` and the command line stand on.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::array::{empty, precision};
use super::detached;
use super::information::prepare;
use super::options::{Axis, Ignore, OnInvalid, Spaces, Stored, Temperature, Threads};
use super::pieces::Operands;
use crate::compare::{COLUMNS, Column, Columns, compare};
use crate::rows::Dtype;
use crate::score::Given;

/// Columns that tell two models apart row by row, from one reading of both matrices.
///
/// Returns a dict of arrays in the shape of the leading axes, and an array of uint8 of that shape: 0 for rows that were
/// scored, 1 for ignored, 2 for invalid ones, whose values are NaN.
#[pyfunction]
#[pyo3(
    signature = (base, other, labels=None, *, given=Spaces([Given::Logits; 2], false), dtype=Stored(false), axis=Axis(-1),
        temperature=Temperature([1.0; 2], false), r#where=None, rows=None, ignore_index=Ignore(Some(-100)), columns,
        on_invalid=OnInvalid(false), threads=Threads(None)),
    text_signature = "(base, other, labels=None, *, given='logits', dtype=None, axis=-1, temperature=1.0, where=None, rows=None, ignore_index=-100, columns, on_invalid='raise', threads=None)"
)]
pub fn compare_columns<'py>(
    py: Python<'py>,
    base: &Bound<'py, PyAny>,
    other: &Bound<'py, PyAny>,
    labels: Option<&Bound<'py, PyAny>>,
    given: Spaces,
    dtype: Stored,
    axis: Axis,
    temperature: Temperature,
    r#where: Option<&Bound<'py, PyAny>>,
    rows: Option<&Bound<'py, PyAny>>,
    ignore_index: Ignore,
    columns: Vec<String>,
    on_invalid: OnInvalid,
    threads: Threads,
) -> PyResult<(Bound<'py, PyDict>, Bound<'py, PyAny>)> {
    let mut operands = Operands::new(&[("base", base), ("other", other)], axis.0)?;
    dtype.apply(&mut operands.arrays)?;
    let labels = labels.map(|l| (l, ignore_index.0));
    let has_labels = labels.is_some();
    let call = prepare(
        &operands.borrowed(),
        labels,
        &given,
        &temperature,
        axis.0,
        r#where,
        rows,
        on_invalid.0,
        threads.get(),
    )?;
    let job = &call.job;
    let dict = PyDict::new(py);
    let mut wanted = Vec::with_capacity(columns.len());
    for name in &columns {
        let Some(which) = Column::find(name) else {
            return Err(crate::error::unknown("columns", name, &COLUMNS).into());
        };
        if Column::needs_labels(which) && !has_labels {
            return Err(PyValueError::new_err(format!("column {name:?} needs labels")));
        }
        let dtype = if Column::is_bool(which) { Dtype::Bool } else { precision(call.single) };
        let (array, data) = empty(py, &job.lead, dtype)?;
        dict.set_item(name, array)?;
        wanted.push(Column { which, data });
    }
    let (status, written) = empty(py, &job.lead, Dtype::U8)?;
    // `compare` writes every element of every column, and the status of every row; on an error the arrays are dropped.
    let columns = Columns { columns: wanted, single: call.single, status: written };
    let work = 3.0 * job.work();
    let columns = &columns;
    let invalid = operands.walk(job, |job, first| {
        let columns = &columns.from(first);
        detached(py, work, move || compare(job, columns))
    })?;
    invalid.check(job)?;
    Ok((dict, status.into_any()))
}
