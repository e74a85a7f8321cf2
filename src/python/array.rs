//! numpy arrays in and out. Only here are arrays taken apart into pointers, shapes and strides; every element that the
//! kernels read or write is one that numpy says is there.

use numpy::npyffi::{PY_ARRAY_API, PyArrayObject};
use numpy::prelude::*;
use numpy::{IxDyn, PyArray, PyArrayDescrMethods, PyArrayDyn, PyReadwriteArrayDyn, PyUntypedArray};
use pyo3::exceptions::{PyMemoryError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::error::{Error, Result};
use crate::rows::Dtype;

/// A borrowed array.
pub struct Array<'py> {
    /// Keeps the memory alive.
    array: Bound<'py, PyUntypedArray>,
    /// The first element.
    pub data: *const u8,
    /// How elements are stored.
    pub dtype: Dtype,
    /// Whether in the other byte order.
    pub swapped: bool,
}

impl<'py> Array<'py> {
    /// An argument as an array: an exact ndarray as it is, anything else through `kullback._coerce`.
    pub fn new(name: &str, obj: &Bound<'py, PyAny>) -> PyResult<Self> {
        static COERCE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = obj.py();
        let array = match obj.cast_exact::<PyUntypedArray>() {
            Ok(array) => array.clone(),
            Err(_) => {
                let coerce = COERCE.get_or_try_init(py, || {
                    PyResult::Ok(py.import("kullback._coerce")?.getattr("as_array")?.unbind())
                })?;
                coerce.bind(py).call1((obj, name))?.cast_into::<PyUntypedArray>()?
            }
        };
        let descr = array.dtype();
        let dtype = match (descr.kind(), descr.itemsize()) {
            (b'f', 8) => Dtype::F64,
            (b'f', 4) => Dtype::F32,
            (b'f', 2) => Dtype::F16,
            (b'i', 1) => Dtype::I8,
            (b'i', 2) => Dtype::I16,
            (b'i', 4) => Dtype::I32,
            (b'i', 8) => Dtype::I64,
            (b'u', 1) => Dtype::U8,
            (b'u', 2) => Dtype::U16,
            (b'u', 4) => Dtype::U32,
            (b'u', 8) => Dtype::U64,
            (b'b', 1) => Dtype::Bool,
            // ml_dtypes registers bfloat16 with numpy under this name.
            (_, 2) if descr.num() >= 256 && descr.getattr("name")?.extract::<String>()? == "bfloat16" => Dtype::Bf16,
            _ => {
                let descr = descr.str()?;
                return Err(PyTypeError::new_err(format!(
                    "{name} must hold integers, booleans, float16, bfloat16, float32 or float64, got dtype {descr}"
                )));
            }
        };
        let swapped = matches!((descr.byteorder(), cfg!(target_endian = "little")), (b'>', true) | (b'<', false));
        // SAFETY: `array` is an ndarray, whose object starts with a `PyArrayObject`.
        let data = unsafe { (*array.as_ptr().cast::<PyArrayObject>()).fields.data }.cast_const().cast();
        Ok(Array { array, data, dtype, swapped })
    }

    /// Lengths of the axes.
    pub fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    /// Bytes from element to element along each axis.
    pub fn strides(&self) -> &[isize] {
        self.array.strides()
    }

    /// Whether elements are floating numbers.
    pub fn is_floating(&self) -> bool {
        matches!(self.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16)
    }

    /// The first address and the one past the last.
    fn extent(&self) -> (usize, usize) {
        let (mut low, mut high) = (self.data as isize, self.data as isize);
        if self.shape().contains(&0) {
            return (0, 0);
        }
        for (n, stride) in self.shape().iter().zip(self.strides()) {
            let reach = (*n as isize - 1) * stride;
            (low, high) = if reach < 0 { (low + reach, high) } else { (low, high + reach) };
        }
        (low as usize, high as usize + self.dtype.size())
    }
}

/// The class axis of an operand, and its strides along the result's axes, repeated where it has none.
pub struct Aligned {
    /// Bytes from class to class.
    pub class_stride: isize,
    /// Bytes from row to row.
    pub lead: Vec<isize>,
}

/// The leading axes that the operands share, broadcast as numpy does, and how each follows them.
///
/// A one-dimensional operand is one row, whatever the axis.
pub fn align(operands: &[(&str, &Array<'_>)], axis: isize) -> Result<(Vec<usize>, usize, usize, Vec<Aligned>)> {
    let most = operands.iter().map(|(_, x)| x.shape().len()).max().unwrap_or(0);
    if let Some((name, _)) = operands.iter().find(|(_, x)| x.shape().is_empty()) {
        return Err(Error::Value(format!("{name} must have at least one axis, the classes of a row, got a scalar")));
    }
    if axis >= most as isize || axis < -(most as isize) {
        return Err(Error::Value(format!("axis {axis} is out of range for {most} axes")));
    }
    let from_end = if axis < 0 { axis } else { axis - most as isize };
    let mut class_axes = Vec::with_capacity(operands.len());
    for (name, x) in operands {
        let n = x.shape().len() as isize;
        class_axes.push(match n {
            1 => 0,
            n if n + from_end >= 0 => (n + from_end) as usize,
            _ => return Err(Error::Value(format!("{name} has {n} axes: axis {axis} does not lie in it"))),
        });
    }
    let classes = operands[0].1.shape()[class_axes[0]];
    for ((name, x), axis) in operands.iter().zip(&class_axes) {
        if x.shape()[*axis] != classes {
            return Err(Error::Value(format!(
                "{} has {classes} classes and {name} has {}: the number of classes must be equal",
                operands[0].0,
                x.shape()[*axis]
            )));
        }
    }
    let lead_of = |k: usize| -> Vec<usize> {
        operands[k].1.shape().iter().enumerate().filter(|(i, _)| *i != class_axes[k]).map(|(_, n)| *n).collect()
    };
    let mut lead = lead_of(0);
    for k in 1..operands.len() {
        lead = broadcast(&lead, &lead_of(k)).ok_or_else(|| {
            Error::Value(format!(
                "{} has shape {} and {} has shape {}: the axes other than the classes' do not broadcast",
                operands[0].0,
                tuple(operands[0].1.shape()),
                operands[k].0,
                tuple(operands[k].1.shape())
            ))
        })?;
    }
    let aligned = operands
        .iter()
        .enumerate()
        .map(|(k, (_, x))| {
            let strides: Vec<isize> =
                x.strides().iter().enumerate().filter(|(i, _)| *i != class_axes[k]).map(|(_, s)| *s).collect();
            Aligned { class_stride: x.strides()[class_axes[k]], lead: follow(&lead, &lead_of(k), &strides) }
        })
        .collect();
    let place = (lead.len() as isize + 1 + from_end) as usize;
    Ok((lead, classes, place, aligned))
}

/// The shape two shapes broadcast to.
fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let n = a.len().max(b.len());
    let at = |x: &[usize], i: usize| if i + x.len() >= n { x[i + x.len() - n] } else { 1 };
    (0..n)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

/// Strides along `lead` of an array of `shape` that broadcasts to it.
pub fn follow(lead: &[usize], shape: &[usize], strides: &[isize]) -> Vec<isize> {
    let missing = lead.len() - shape.len();
    let mut result = vec![0; lead.len()];
    for (i, (n, stride)) in shape.iter().zip(strides).enumerate() {
        if *n == lead[missing + i] && *n != 1 {
            result[missing + i] = *stride;
        }
    }
    result
}

/// A shape as Python writes it.
pub fn tuple(shape: &[usize]) -> String {
    let items: Vec<String> = shape.iter().map(usize::to_string).collect();
    if items.len() == 1 { format!("({},)", items[0]) } else { format!("({})", items.join(", ")) }
}

/// A result array of `f32` or `f64`: a new one, or `out`.
pub enum Target<'py> {
    /// A new array.
    New(Bound<'py, PyAny>, *mut u8, Vec<isize>),
    /// `out`, borrowed for writing.
    Single(PyReadwriteArrayDyn<'py, f32>),
    /// `out`, borrowed for writing.
    Double(PyReadwriteArrayDyn<'py, f64>),
}

impl<'py> Target<'py> {
    /// An uninitialised array in C order.
    pub fn new(py: Python<'py>, shape: &[usize], single: bool) -> PyResult<Self> {
        let bytes = shape.iter().try_fold(if single { 4usize } else { 8 }, |a, n| a.checked_mul(*n));
        if bytes.is_none_or(|b| b > isize::MAX as usize) {
            return Err(PyMemoryError::new_err(format!("no memory for a result of shape {}", tuple(shape))));
        }
        // SAFETY: every element is written before the array is handed out, or the array is dropped.
        unsafe {
            Ok(if single {
                let array = PyArray::<f32, IxDyn>::new(py, IxDyn(shape), false);
                let (data, strides) = (array.data().cast(), array.strides().to_vec());
                Target::New(array.into_any(), data, strides)
            } else {
                let array = PyArray::<f64, IxDyn>::new(py, IxDyn(shape), false);
                let (data, strides) = (array.data().cast(), array.strides().to_vec());
                Target::New(array.into_any(), data, strides)
            })
        }
    }

    /// `out`, if it is an array of this shape and dtype that may be written and shares no memory with the inputs.
    pub fn borrow(
        out: &Bound<'py, PyAny>,
        shape: &[usize],
        single: bool,
        inputs: &[(&str, &Array<'_>)],
    ) -> PyResult<Self> {
        let wanted = if single { "float32" } else { "float64" };
        let array = out.cast::<PyUntypedArray>().map_err(|_| {
            PyTypeError::new_err(format!("out must be a numpy array of {wanted}, got {}", out.get_type()))
        })?;
        if array.shape() != shape {
            return Err(PyValueError::new_err(format!(
                "out must have the result's shape {}, got {}",
                tuple(shape),
                tuple(array.shape())
            )));
        }
        if array.shape().iter().zip(array.strides()).any(|(n, stride)| *n > 1 && *stride == 0) {
            return Err(PyValueError::new_err(
                "out must have an element for every result, but one of its axes repeats elements",
            ));
        }
        let taken = || PyValueError::new_err("out must be writable and not in use by another call");
        let dtype = || -> PyErr {
            let got = array.dtype().str().map_or_else(|_| String::new(), |s| s.to_string());
            PyTypeError::new_err(format!("out must have dtype {wanted}, got {got}"))
        };
        let target = if single {
            let typed = out.cast::<PyArrayDyn<f32>>().map_err(|_| dtype())?;
            Target::Single(typed.try_readwrite().map_err(|_| taken())?)
        } else {
            let typed = out.cast::<PyArrayDyn<f64>>().map_err(|_| dtype())?;
            Target::Double(typed.try_readwrite().map_err(|_| taken())?)
        };
        let whole = Array::new("out", array.as_any())?;
        let (low, high) = whole.extent();
        for (name, x) in inputs {
            let (from, to) = x.extent();
            if from < high && low < to {
                return Err(PyValueError::new_err(format!("out must share no memory with {name}: pass another array")));
            }
        }
        Ok(target)
    }

    /// The first element.
    pub fn data(&self) -> *mut u8 {
        match self {
            Target::New(_, data, _) => *data,
            Target::Single(array) => array.data().cast(),
            Target::Double(array) => array.data().cast(),
        }
    }

    /// Bytes from element to element along each axis.
    pub fn strides(&self) -> Vec<isize> {
        match self {
            Target::New(_, _, strides) => strides.clone(),
            Target::Single(array) => array.strides().to_vec(),
            Target::Double(array) => array.strides().to_vec(),
        }
    }

    /// What the caller gets: a scalar where the array has no axes and is new.
    pub fn finish(self, out: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        match (self, out) {
            (Target::New(array, ..), _) => Ok(scalar(array)),
            (_, Some(out)) => Ok(out.clone()),
            (_, None) => Err(PyValueError::new_err("out is missing")),
        }
    }
}

/// An array without axes as a numpy scalar; any other as it is.
fn scalar(array: Bound<'_, PyAny>) -> Bound<'_, PyAny> {
    let py = array.py();
    // SAFETY: `array` is an ndarray, whose reference PyArray_Return takes over.
    unsafe {
        let result = PY_ARRAY_API.PyArray_Return(py, array.into_ptr().cast());
        Bound::from_owned_ptr(py, result)
    }
}

/// A number as a numpy scalar of `f32` or `f64`.
pub fn scalar_of(py: Python<'_>, value: f64, single: bool) -> PyResult<Bound<'_, PyAny>> {
    let target = Target::new(py, &[], single)?;
    // SAFETY: an array without axes has one element.
    unsafe {
        if single {
            target.data().cast::<f32>().write(value as f32);
        } else {
            target.data().cast::<f64>().write(value);
        }
    }
    target.finish(None)
}
