//! Keyword arguments: each type accepts what the option accepts and says so when something else comes.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyString, PyTuple};

use super::array::Array;
use crate::error::{short, unknown};
use crate::rows::Dtype;
use crate::score::Given;

type Obj<'a, 'py> = Borrowed<'a, 'py, PyAny>;

fn type_name(obj: &Obj<'_, '_>) -> String {
    if obj.is_none() {
        return "None".into();
    }
    obj.get_type().name().map_or_else(|_| "another type".into(), |n| n.to_string())
}

fn integer(argument: &str, accepted: &str, obj: &Obj<'_, '_>) -> PyResult<isize> {
    let error = || PyTypeError::new_err(format!("{argument} must be {accepted}, got {}", type_name(obj)));
    if obj.is_instance_of::<PyBool>() || obj.is_instance_of::<PyString>() {
        return Err(error());
    }
    obj.extract::<isize>().map_err(|found| {
        if found.is_instance_of::<PyOverflowError>(obj.py()) {
            return PyValueError::new_err(format!("{argument} must be {accepted}, got {}", &**obj));
        }
        error()
    })
}

/// A number of threads.
pub fn threads(argument: &str, accepted: &str, obj: &Obj<'_, '_>) -> PyResult<usize> {
    match integer(argument, accepted, obj)? {
        n if n >= 1 => Ok(n as usize),
        n => Err(PyValueError::new_err(format!("{argument} must be {accepted}, got {n}"))),
    }
}

fn number(argument: &str, accepted: &str, obj: &Obj<'_, '_>) -> PyResult<f64> {
    let error = || PyTypeError::new_err(format!("{argument} must be {accepted}, got {}", type_name(obj)));
    if obj.is_instance_of::<PyBool>() || obj.is_instance_of::<PyString>() {
        return Err(error());
    }
    obj.extract::<f64>().map_err(|_| error())
}

fn string<'a>(argument: &str, obj: Obj<'a, '_>) -> PyResult<&'a str> {
    obj.extract::<&str>()
        .map_err(|_| PyTypeError::new_err(format!("{argument} must be a string, got {}", type_name(&obj))))
}

/// `axis`: the axis along which a row lies.
#[derive(Clone, Copy)]
pub struct Axis(pub isize);

impl<'a, 'py> FromPyObject<'a, 'py> for Axis {
    type Error = PyErr;
    fn extract(obj: Obj<'a, 'py>) -> PyResult<Self> {
        integer("axis", "one int (a row lies along one axis)", &obj).map(Axis)
    }
}

/// `keepdims`: whether the result keeps the axis of the classes, of length 1.
#[derive(Clone, Copy)]
pub struct KeepDims(pub bool);

impl<'a, 'py> FromPyObject<'a, 'py> for KeepDims {
    type Error = PyErr;
    fn extract(obj: Obj<'a, 'py>) -> PyResult<Self> {
        let error = |_| PyTypeError::new_err(format!("keepdims must be True or False, got {}", type_name(&obj)));
        obj.extract::<bool>().map(KeepDims).map_err(error)
    }
}

/// `threads`: how many, or the package's setting.
#[derive(Clone, Copy)]
pub struct Threads(pub Option<usize>);

impl<'a, 'py> FromPyObject<'a, 'py> for Threads {
    type Error = PyErr;
    fn extract(obj: Obj<'a, 'py>) -> PyResult<Self> {
        if obj.is_none() {
            return Ok(Threads(None));
        }
        threads("threads", "None or an int >= 1", &obj).map(|n| Threads(Some(n)))
    }
}

impl Threads {
    /// The number of threads.
    pub fn get(&self) -> usize {
        self.0.unwrap_or_else(crate::parallel::num_threads)
    }
}

/// `base`: of the logarithms; none for nats.
#[derive(Clone, Copy)]
pub struct Base(pub Option<f64>);

impl<'a, 'py> FromPyObject<'a, 'py> for Base {
    type Error = PyErr;
    fn extract(obj: Obj<'a, 'py>) -> PyResult<Self> {
        if obj.is_none() {
            return Ok(Base(None));
        }
        let accepted = "None (nats) or a number > 0 other than 1";
        match number("base", accepted, &obj)? {
            b if b > 0.0 && b != 1.0 && b.is_finite() => Ok(Base(Some(b))),
            b => Err(PyValueError::new_err(format!("base must be {accepted}, got {}", short(b)))),
        }
    }
}

/// `given`: the spaces of the operands.
#[derive(Clone, Copy)]
pub struct Spaces(pub [Given; 2], pub bool);

impl<'a, 'py> FromPyObject<'a, 'py> for Spaces {
    type Error = PyErr;
    fn extract(obj: Obj<'a, 'py>) -> PyResult<Self> {
        let one = |obj: Obj<'_, 'py>| -> PyResult<Given> {
            let name = string("given", obj)?;
            let found = Given::NAMES.iter().find(|(n, _)| *n == name);
            found.map(|(_, g)| *g).ok_or_else(|| unknown("given", name, &Given::NAMES.map(|(n, _)| n)).into())
        };
        if let Ok(pair) = obj.cast::<PyTuple>() {
            if pair.len() != 2 {
                return Err(PyValueError::new_err(format!(
                    "given must be a name or a pair of names, got {} names",
                    pair.len()
                )));
            }
            let (p, q) = (pair.get_item(0)?, pair.get_item(1)?);
            return Ok(Spaces([one(p.as_borrowed())?, one(q.as_borrowed())?], true));
        }
        if !obj.is_instance_of::<PyString>() {
            let got = type_name(&obj);
            return Err(PyTypeError::new_err(format!("given must be a name or a tuple of two names, got {got}")));
        }
        one(obj).map(|g| Spaces([g, g], false))
    }
}

/// `dtype`: whether inputs of uint16 hold bfloat16.
#[derive(Clone, Copy)]
pub struct Stored(pub bool);

impl<'a, 'py> FromPyObject<'a, 'py> for Stored {
    type Error = PyErr;
    fn extract(obj: Obj<'a, 'py>) -> PyResult<Self> {
        if obj.is_none() {
            return Ok(Stored(false));
        }
        match string("dtype", obj)? {
            "bfloat16" => Ok(Stored(true)),
            other => Err(unknown("dtype", other, &["bfloat16"]).into()),
        }
    }
}

impl Stored {
    /// Reads the inputs as what they hold.
    pub fn apply(self, arrays: &mut [(&'static str, Array<'_>)]) -> PyResult<()> {
        if !self.0 {
            return Ok(());
        }
        let mut found = false;
        for (_, array) in arrays.iter_mut().filter(|(_, x)| matches!(x.dtype, Dtype::U16 | Dtype::Bf16)) {
            (array.dtype, found) = (Dtype::Bf16, true);
        }
        if !found {
            let names: Vec<&str> = arrays.iter().map(|(name, _)| *name).collect();
            return Err(PyTypeError::new_err(format!(
                "dtype=\"bfloat16\" says what arrays of uint16 hold, and {} {} none",
                names.join(" and "),
                if names.len() == 1 { "is" } else { "are" }
            )));
        }
        Ok(())
    }
}

impl Spaces {
    /// Their names: of a pair two.
    pub fn names(&self) -> Vec<&'static str> {
        self.0[..1 + usize::from(self.1)].iter().map(|g| g.name()).collect()
    }
}

/// `temperature`: a number or a pair.
#[derive(Clone, Copy)]
pub struct Temperature(pub [f64; 2], pub bool);

impl Temperature {
    /// The number, or both of a pair.
    pub fn numbers(&self) -> &[f64] {
        &self.0[..1 + usize::from(self.1)]
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Temperature {
    type Error = PyErr;
    fn extract(obj: Obj<'a, 'py>) -> PyResult<Self> {
        let one = |obj: &Obj<'_, 'py>| match number("temperature", "a number or a tuple of two", obj)? {
            t if t > 0.0 && t.is_finite() => Ok(t),
            t => Err(PyValueError::new_err(format!("temperature must be a number > 0, got {}", short(t)))),
        };
        if let Ok(pair) = obj.cast::<PyTuple>() {
            if pair.len() != 2 {
                return Err(PyValueError::new_err(format!(
                    "temperature must be a number or a pair, got {} numbers",
                    pair.len()
                )));
            }
            let (p, q) = (pair.get_item(0)?, pair.get_item(1)?);
            return Ok(Temperature([one(&p.as_borrowed())?, one(&q.as_borrowed())?], true));
        }
        one(&obj).map(|t| Temperature([t, t], false))
    }
}

/// `reduction`: what becomes of the rows' values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// A value a row.
    None,
    /// Their sum.
    Sum,
    /// Their mean.
    Mean,
}

impl<'a, 'py> FromPyObject<'a, 'py> for Reduction {
    type Error = PyErr;
    fn extract(obj: Obj<'a, 'py>) -> PyResult<Self> {
        let name = string("reduction", obj)?;
        let found = Reduction::NAMES.iter().find(|(n, _)| *n == name);
        found.map(|(_, r)| *r).ok_or_else(|| unknown("reduction", name, &Reduction::NAMES.map(|(n, _)| n)).into())
    }
}

impl Reduction {
    const NAMES: [(&'static str, Reduction); 3] =
        [("none", Reduction::None), ("sum", Reduction::Sum), ("mean", Reduction::Mean)];

    /// What it is called.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, r)| *r == self).map_or("", |(name, _)| *name)
    }
}

/// `on_invalid`: whether invalid rows become NaN.
#[derive(Clone, Copy)]
pub struct OnInvalid(pub bool);

impl OnInvalid {
    /// What it is called.
    pub fn name(self) -> &'static str {
        if self.0 { "nan" } else { "raise" }
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for OnInvalid {
    type Error = PyErr;
    fn extract(obj: Obj<'a, 'py>) -> PyResult<Self> {
        match string("on_invalid", obj)? {
            "raise" => Ok(OnInvalid(false)),
            "nan" => Ok(OnInvalid(true)),
            other => Err(unknown("on_invalid", other, &["raise", "nan"]).into()),
        }
    }
}

/// `ignore_index`: the label of rows that do not count.
pub struct Ignore(pub Option<i64>);

impl<'a, 'py> FromPyObject<'a, 'py> for Ignore {
    type Error = PyErr;
    fn extract(obj: Obj<'a, 'py>) -> PyResult<Self> {
        if obj.is_none() {
            return Ok(Ignore(None));
        }
        integer("ignore_index", "None or an int", &obj).map(|i| Ignore(Some(i as i64)))
    }
}
