//! Counts of values for Python: what `kullback.pandas.group_value_entropy` stands on.

use numpy::{Element, PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::detached;
use crate::group::{Column, Integer, Integers, count};
use crate::parallel;

/// A borrowed column of integers.
trait Borrowed {
    /// The column; an error if it is not contiguous.
    fn column(&self, low: i64) -> PyResult<Box<dyn Column + '_>>;
}

impl<T: Element + Integer> Borrowed for PyReadonlyArray1<'_, T> {
    fn column(&self, low: i64) -> PyResult<Box<dyn Column + '_>> {
        Ok(Box::new(Integers { values: self.as_slice()?, low }))
    }
}

/// A 1-D array of any type of integers.
fn borrow<'py>(name: &str, array: &Bound<'py, PyAny>) -> PyResult<Box<dyn Borrowed + 'py>> {
    macro_rules! first {
        ($($type:ty),+) => {
            $(if let Ok(array) = array.cast::<PyArray1<$type>>() {
                return Ok(Box::new(array.try_readonly()?));
            })+
        };
    }
    first!(i64, i32, i16, i8, u64, u32, u16, u8, bool);
    Err(PyTypeError::new_err(format!("{name} must be a 1-D array of integers")))
}

/// The number of rows of each group with each value, as a flat table in order of group.
///
/// Groups and values are contiguous 1-D arrays of integers, and the pairs after them the integer that comes first and
/// how many follow on it.
#[pyfunction]
pub fn count_values<'py>(
    py: Python<'py>,
    groups: &Bound<'py, PyAny>,
    group_span: (i64, usize),
    values: &Bound<'py, PyAny>,
    value_span: (i64, usize),
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let (groups, values) = (borrow("groups", groups)?, borrow("values", values)?);
    let (group, value) = (groups.column(group_span.0)?, values.column(value_span.0)?);
    let (group, value) = (&*group, &*value);
    let work = group.rows() as f64;
    let table = detached(py, work, || count(group, group_span.1, value, value_span.1, parallel::num_threads()))?;
    Ok(PyArray1::from_vec(py, table))
}
