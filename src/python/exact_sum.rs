//! Exact sums for Python: what `kullback.Accumulator` stands on.

use numpy::{PyReadonlyArray1, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::exact_sum::{ExactSum, GroupSums};

/// One contiguous array of numbers.
enum Numbers<'py> {
    Single(PyReadonlyArray1<'py, f32>),
    Double(PyReadonlyArray1<'py, f64>),
}

impl<'py> Numbers<'py> {
    fn new(array: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(single) = array.extract() {
            return Ok(Self::Single(single));
        }
        array
            .extract()
            .map(Self::Double)
            .map_err(|_| PyTypeError::new_err("expected a 1-D array of float32 or float64"))
    }
}

/// ExactSum()
/// --
///
/// A sum of float32 or float64 numbers, or of products of two, without rounding: any order gives the same bits.
#[pyclass(name = "ExactSum", module = "kullback._core")]
#[derive(Default)]
pub struct PyExactSum(ExactSum);

#[pymethods]
impl PyExactSum {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Add every element of a contiguous 1-D array.
    fn add(&mut self, a: &Bound<'_, PyAny>) -> PyResult<()> {
        match Numbers::new(a)? {
            Numbers::Single(a) => self.0.add_slice_f32(a.as_slice()?),
            Numbers::Double(a) => self.0.add_slice(a.as_slice()?),
        }
        Ok(())
    }

    /// Add the product of each pair of elements of two arrays of one dtype and length.
    fn add_product(&mut self, a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> PyResult<()> {
        match (Numbers::new(a)?, Numbers::new(b)?) {
            (Numbers::Single(a), Numbers::Single(b)) if a.len() == b.len() => {
                self.0.add_products_f32(a.as_slice()?, b.as_slice()?);
            }
            (Numbers::Double(a), Numbers::Double(b)) if a.len() == b.len() => {
                self.0.add_products(a.as_slice()?, b.as_slice()?);
            }
            _ => return Err(PyValueError::new_err("a and b must have one dtype and one length")),
        }
        Ok(())
    }

    /// Add what another sum holds.
    fn merge(&mut self, other: &Self) {
        self.0.merge(&other.0);
    }

    /// The sum, rounded once.
    fn value(&self) -> f64 {
        self.0.round()
    }

    /// How many NaN, +inf and -inf, then the sum in units of 2**-2176 as 134 digits of 32 bits, lowest first.
    fn __getstate__(&self) -> Vec<i64> {
        self.0.to_i64s()
    }

    fn __setstate__(&mut self, state: Vec<i64>) -> PyResult<()> {
        self.0 = ExactSum::from_i64s(&state).ok_or_else(|| PyValueError::new_err("not the state of an ExactSum"))?;
        Ok(())
    }
}

/// GroupSums()
/// --
///
/// A sum per group on a grid of 2**-80: any order gives the same bits.
#[pyclass(name = "GroupSums", module = "kullback._core")]
#[derive(Default)]
pub struct PyGroupSums(GroupSums);

#[pymethods]
impl PyGroupSums {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Add each number of a contiguous 1-D array to the sum of its group, a uint32 from 0.
    fn add(&mut self, values: &Bound<'_, PyAny>, groups: PyReadonlyArray1<'_, u32>) -> PyResult<()> {
        match Numbers::new(values)? {
            Numbers::Single(values) if values.len() == groups.len() => {
                self.0.add(values.as_slice()?, groups.as_slice()?)
            }
            Numbers::Double(values) if values.len() == groups.len() => {
                self.0.add(values.as_slice()?, groups.as_slice()?)
            }
            _ => return Err(PyValueError::new_err("values and groups must have one length")),
        }
        Ok(())
    }

    /// Add group i of another to this one's group groups[i].
    fn merge(&mut self, other: &Self, groups: PyReadonlyArray1<'_, u32>) -> PyResult<()> {
        self.0.merge(&other.0, groups.as_slice()?);
        Ok(())
    }

    /// The sums in units of 2**-80; None for a group that reached 2**46 or met an infinity or a NaN.
    fn sums(&self) -> Vec<Option<i128>> {
        self.0.sums().iter().map(|&sum| (sum != GroupSums::SPOILT).then_some(sum)).collect()
    }

    fn __getstate__(&self) -> Vec<i64> {
        self.0.to_i64s()
    }

    fn __setstate__(&mut self, state: Vec<i64>) -> PyResult<()> {
        self.0 = GroupSums::from_i64s(&state).ok_or_else(|| PyValueError::new_err("not the state of a GroupSums"))?;
        Ok(())
    }
}
