//! Arrays in and out, of every kind. Only here, in `exchange` and in `arrow` are they taken apart into pointers, shapes and
//! strides; every element that the kernels read or write is one that the array's library says is there.
//!
//! An argument comes in by the first door of [`DOORS`] that knows it, and its [`Kind`] is what the result goes out as.
//! Rows that do not lie in one array are [`Pieces`], which `pieces` walks; whoever needs an [`Array`] gets them brought
//! together.

use std::cell::UnsafeCell;
use std::rc::Rc;

use numpy::npyffi::{self, NpyTypes, PY_ARRAY_API, PyArrayObject, npy_intp};
use numpy::prelude::*;
use numpy::{PyArrayDescr, PyArrayDescrMethods, PyArrayDyn, PyReadwriteArrayDyn, PyUntypedArray};
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use smallvec::{SmallVec, smallvec};

use super::arrow::{Chunks, arrow};
use super::exchange::{Fresh, Table, c_order, dlpack, exchanged, is_negated, is_torch};
use crate::error::{Error, Result};
use crate::rows::Dtype;
use crate::score::{Axes, Operand};
use crate::simd::in_default_environment;

/// A way in: the argument as a source, if it is of the kind that comes in here.
type Door = for<'py> fn(&str, &Bound<'py, PyAny>) -> PyResult<Option<Source<'py>>>;

/// The ways in for what is not exactly an ndarray, in the order in which they are tried.
const DOORS: [Door; 4] = [
    |name, obj| Ok(exchanged(name, obj)?.map(Source::from)),
    arrow,
    |name, obj| Ok(dlpack(name, obj)?.map(Source::from)),
    coerced,
];

/// What an argument is, and so what its caller gets back.
#[derive(Clone)]
pub enum Kind<'py> {
    /// NumPy's, and whatever has no arrays of its own: lists, numbers, buffers.
    Numpy,
    /// Tensors of the library whose exchange table this is.
    Exchanged(&'static Table),
    /// Tensors of torch before it had an exchange table.
    Torch(Bound<'py, PyModule>),
    /// Another library's, by the name of its type: what makes one of an ndarray.
    Other(String, Bound<'py, PyAny>),
}

impl<'py> Kind<'py> {
    /// What the caller gets back: NumPy's unless an argument says otherwise.
    pub fn of(arrays: &[(&str, &Array<'py>)]) -> PyResult<Self> {
        let mut found: Option<(&str, &Kind<'py>)> = None;
        for (name, array) in arrays {
            let same = match (found.map(|f| f.1), &array.kind) {
                (_, Kind::Numpy) => continue,
                (None, _) | (Some(Kind::Torch(_)), Kind::Torch(_)) => true,
                (Some(Kind::Exchanged(a)), Kind::Exchanged(b)) => std::ptr::eq(*a, *b),
                (Some(Kind::Other(a, _)), Kind::Other(b, _)) => a == b,
                _ => false,
            };
            if !same {
                let other = found.map_or("", |f| f.0);
                return Err(PyTypeError::new_err(format!(
                    "{other} and {name} must be of one kind, or one of them an ndarray: a tensor and a frame do not mix"
                )));
            }
            found = found.or(Some((name, &array.kind)));
        }
        Ok(found.map_or(Kind::Numpy, |f| f.1.clone()))
    }
}

/// A borrowed array.
pub struct Array<'py> {
    memory: Memory<'py>,
    /// The first element.
    pub data: *const u8,
    /// How elements are stored.
    pub dtype: Dtype,
    /// Whether in the other byte order.
    pub swapped: bool,
    /// What it came as.
    pub kind: Kind<'py>,
}

/// What keeps an array's memory alive, and knows its shape.
enum Memory<'py> {
    Numpy(Bound<'py, PyUntypedArray>),
    Foreign { keep: Bound<'py, PyAny>, shape: Vec<usize>, strides: Vec<isize> },
}

/// An argument: its rows, and the frame that they were.
pub struct Source<'py> {
    /// The rows.
    pub rows: Rows<'py>,
    /// What lines it up with other frames and makes a series of the result.
    pub frame: Option<Bound<'py, PyAny>>,
}

/// Rows in one array or in several pieces.
pub enum Rows<'py> {
    Whole(Array<'py>),
    Pieces(Pieces<'py>),
}

/// Rows that do not lie in one array: several chunks, a column a class, the blocks of a frame. `blocks` has the methods
/// `reach(start)`, the row up to which row `start` and those after it lie in one array (`start` if they have to be
/// brought together), and `block(start, stop)`, an array of these rows.
pub struct Pieces<'py> {
    blocks: Bound<'py, PyAny>,
    /// Lengths of the axes.
    pub shape: Vec<usize>,
    dtype: Dtype,
    kind: Kind<'py>,
}

impl<'py> From<Array<'py>> for Source<'py> {
    fn from(array: Array<'py>) -> Self {
        Source { rows: Rows::Whole(array), frame: None }
    }
}

impl<'py> Source<'py> {
    /// An argument: an exact ndarray as it is, anything else by the first door that knows it.
    pub fn new(name: &str, obj: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Some(array) = Array::exact(name, obj)? {
            return Ok(array.into());
        }
        for door in DOORS {
            if let Some(source) = door(name, obj)? {
                return Ok(source);
            }
        }
        Err(PyTypeError::new_err(format!("{name} must be an array of numbers, got {}", obj.get_type())))
    }

    /// Lengths of the axes.
    pub fn shape(&self) -> &[usize] {
        match &self.rows {
            Rows::Whole(array) => array.shape(),
            Rows::Pieces(pieces) => &pieces.shape,
        }
    }

    /// The rows in one array.
    pub fn whole(self) -> PyResult<Array<'py>> {
        match self.rows {
            Rows::Whole(array) => Ok(array),
            Rows::Pieces(pieces) => {
                let mut array = pieces.block(0, pieces.shape[0])?;
                array.kind = pieces.kind;
                Ok(array)
            }
        }
    }
}

impl<'py> Pieces<'py> {
    /// What `blocks` says of itself.
    pub fn new(name: &str, blocks: Bound<'py, PyAny>, kind: Kind<'py>) -> PyResult<Self> {
        let py = blocks.py();
        let shape = blocks.getattr(intern!(py, "shape"))?.extract()?;
        let descr = blocks.getattr(intern!(py, "dtype"))?.cast_into::<PyArrayDescr>()?;
        let (dtype, _) = stored(name, &descr)?;
        Ok(Pieces { blocks, shape, dtype, kind })
    }

    /// Bytes of one index of the first axis.
    pub fn row_bytes(&self) -> usize {
        self.shape[1..].iter().product::<usize>() * self.dtype.size()
    }

    /// Up to which row those from `start` on lie in one array.
    pub fn reach(&self, start: usize) -> PyResult<usize> {
        self.blocks.call_method1(intern!(self.blocks.py(), "reach"), (start,))?.extract()
    }

    /// Some rows in one array.
    pub fn block(&self, start: usize, stop: usize) -> PyResult<Array<'py>> {
        let block = self.blocks.call_method1(intern!(self.blocks.py(), "block"), (start, stop))?;
        let array = Array::numpy("a block", block.cast_into::<PyUntypedArray>()?)?;
        if array.shape()[0] != stop - start || array.shape()[1..] != self.shape[1..] || array.dtype != self.dtype {
            return Err(PyRuntimeError::new_err(format!(
                "rows {start} to {stop} of shape {} came as {}",
                tuple(&self.shape),
                tuple(array.shape())
            )));
        }
        Ok(array)
    }

    /// An array of this shape that stands for the rows: its elements are nowhere.
    pub fn outline(&self) -> Array<'py> {
        let strides = c_order(&self.shape, self.dtype.size() as isize);
        let (keep, shape) = (self.blocks.clone(), self.shape.clone());
        Array::foreign(keep, std::ptr::null(), self.dtype, shape, strides, self.kind.clone())
    }
}

/// The message for a dtype that is none of ours.
pub fn wrong_dtype(name: &str, dtype: &Bound<'_, PyAny>) -> PyErr {
    let shown = dtype.str().map_or_else(|_| String::new(), |s| s.to_string());
    PyTypeError::new_err(format!(
        "{name} must hold integers, booleans, float16, bfloat16, float32 or float64, got dtype {shown}"
    ))
}

/// Everything else, through `kullback._coerce`: an ndarray, blocks of rows, or one of them and the frame that it was.
fn coerced<'py>(name: &str, obj: &Bound<'py, PyAny>) -> PyResult<Option<Source<'py>>> {
    static COERCE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = obj.py();
    if obj.cast::<Chunks>().is_ok() {
        let rows = Rows::Pieces(Pieces::new(name, obj.clone(), Kind::Numpy)?);
        return Ok(Some(Source { rows, frame: None }));
    }
    let coerce = COERCE
        .get_or_try_init(py, || PyResult::Ok(py.import("kullback._coerce")?.getattr("as_rows")?.unbind()))?
        .bind(py);
    let (rows, frame): (Bound<'py, PyAny>, Option<Bound<'py, PyAny>>) = coerce.call1((obj, name))?.extract()?;
    let rows = match rows.cast::<PyUntypedArray>() {
        Ok(array) => Rows::Whole(Array::numpy(name, array.clone())?),
        Err(_) => Rows::Pieces(Pieces::new(name, rows, Kind::Numpy)?),
    };
    Ok(Some(Source { rows, frame }))
}

/// How elements of NumPy's dtype are stored, and whether in the other byte order.
fn stored(name: &str, descr: &Bound<'_, PyArrayDescr>) -> PyResult<(Dtype, bool)> {
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
        _ => return Err(wrong_dtype(name, descr.as_any())),
    };
    Ok((dtype, matches!((descr.byteorder(), cfg!(target_endian = "little")), (b'>', true) | (b'<', false))))
}

impl<'py> Array<'py> {
    /// An argument in one array.
    pub fn new(name: &str, obj: &Bound<'py, PyAny>) -> PyResult<Self> {
        Source::new(name, obj)?.whole()
    }

    /// The memory as an ndarray, which may not be written to unless it came as one.
    pub fn into_ndarray(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (keep, shape, mut strides) = match self.memory {
            Memory::Numpy(array) => return Ok(array.into_any()),
            Memory::Foreign { keep, shape, strides } => (keep, shape, strides),
        };
        let mut lengths: Vec<npy_intp> = shape.iter().map(|n| *n as npy_intp).collect();
        // SAFETY: shape and strides are those of the memory, which the base object keeps alive; the references to the
        // descriptor and to the base are taken over.
        unsafe {
            let array = PY_ARRAY_API.PyArray_NewFromDescr(
                py,
                npyffi::get_type_object(py, NpyTypes::PyArray_Type),
                descr(py, self.dtype)?.into_dtype_ptr(),
                lengths.len() as i32,
                lengths.as_mut_ptr(),
                strides.as_mut_ptr(),
                self.data.cast_mut().cast(),
                0,
                std::ptr::null_mut(),
            );
            let array = Bound::from_owned_ptr_or_err(py, array)?;
            if PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast(), keep.into_ptr()) != 0 {
                return Err(PyErr::fetch(py));
            }
            Ok(array)
        }
    }

    /// An argument that is exactly an ndarray, as it is.
    pub fn exact(name: &str, obj: &Bound<'py, PyAny>) -> PyResult<Option<Self>> {
        obj.cast_exact::<PyUntypedArray>().ok().map(|array| Self::numpy(name, array.clone())).transpose()
    }

    fn numpy(name: &str, array: Bound<'py, PyUntypedArray>) -> PyResult<Self> {
        let (dtype, swapped) = stored(name, &array.dtype())?;
        // SAFETY: `array` is an ndarray, whose object starts with a `PyArrayObject`.
        let data = unsafe { (*array.as_ptr().cast::<PyArrayObject>()).fields.data }.cast_const().cast();
        Ok(Array { memory: Memory::Numpy(array), data, dtype, swapped, kind: Kind::Numpy })
    }

    /// Memory that `keep` keeps alive.
    pub fn foreign(
        keep: Bound<'py, PyAny>,
        data: *const u8,
        dtype: Dtype,
        shape: Vec<usize>,
        strides: Vec<isize>,
        kind: Kind<'py>,
    ) -> Self {
        Array { memory: Memory::Foreign { keep, shape, strides }, data, dtype, swapped: false, kind }
    }

    /// Lengths of the axes.
    pub fn shape(&self) -> &[usize] {
        match &self.memory {
            Memory::Numpy(array) => array.shape(),
            Memory::Foreign { shape, .. } => shape,
        }
    }

    /// Bytes from element to element along each axis.
    pub fn strides(&self) -> &[isize] {
        match &self.memory {
            Memory::Numpy(array) => array.strides(),
            Memory::Foreign { strides, .. } => strides,
        }
    }

    /// Whether elements are floating numbers.
    pub fn is_floating(&self) -> bool {
        self.dtype.is_floating()
    }

    /// Its elements as rows of logits, or mere numbers, at these strides.
    pub fn operand(&self, name: &'static str, class_stride: isize, lead: Axes<isize>) -> Operand {
        Operand { swapped: self.swapped, ..Operand::new(name, self.data, self.dtype, class_stride, lead) }
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
    pub lead: Axes<isize>,
}

/// What operands have in common.
pub struct Alignment {
    /// Lengths of the leading axes.
    pub lead: Axes<usize>,
    /// Number of classes.
    pub classes: usize,
    /// The class axis's place in the result's shape.
    pub place: usize,
    /// How each operand follows.
    pub operands: SmallVec<[Aligned; 2]>,
}

/// The leading axes that the operands share, broadcast as numpy does, and how each follows them.
///
/// A one-dimensional operand is one row, whatever the axis.
pub fn align(operands: &[(&str, &Array<'_>)], axis: isize) -> Result<Alignment> {
    let most = operands.iter().map(|(_, x)| x.shape().len()).max().unwrap_or(0);
    if let Some((name, _)) = operands.iter().find(|(_, x)| x.shape().is_empty()) {
        return Err(Error::Value(format!("{name} must have at least one axis, the classes of a row, got a scalar")));
    }
    if axis >= most as isize || axis < -(most as isize) {
        return Err(Error::Value(format!("axis {axis} is out of range for {most} axes")));
    }
    let from_end = if axis < 0 { axis } else { axis - most as isize };
    let mut class_axes = SmallVec::<[usize; 2]>::new();
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
    let mut lead = without(operands[0].1.shape(), class_axes[0]);
    for ((name, x), axis) in operands.iter().zip(&class_axes).skip(1) {
        lead = broadcast(&lead, &without(x.shape(), *axis)).map_err(|_| {
            Error::Value(format!(
                "{} has shape {} and {name} has shape {}: the axes other than the classes' do not broadcast",
                operands[0].0,
                tuple(operands[0].1.shape()),
                tuple(x.shape())
            ))
        })?;
    }
    let mut aligned = SmallVec::new();
    for ((_, x), axis) in operands.iter().zip(&class_axes) {
        let lead = follow(&lead, &without(x.shape(), *axis), &without(x.strides(), *axis));
        aligned.push(Aligned { class_stride: x.strides()[*axis], lead });
    }
    let place = (lead.len() as isize + 1 + from_end) as usize;
    Ok(Alignment { lead, classes, place, operands: aligned })
}

/// Numbers of all axes but one.
fn without<T: Copy>(all: &[T], axis: usize) -> Axes<T> {
    let mut rest = Axes::from_slice(&all[..axis]);
    rest.extend_from_slice(&all[axis + 1..]);
    rest
}

/// The shape two shapes broadcast to, or the last of its axes along which they do not and their lengths there.
pub fn broadcast(a: &[usize], b: &[usize]) -> std::result::Result<Axes<usize>, (usize, [usize; 2])> {
    if a == b {
        return Ok(Axes::from_slice(a));
    }
    let n = a.len().max(b.len());
    let at = |x: &[usize], i: usize| if i + x.len() >= n { x[i + x.len() - n] } else { 1 };
    let mut shape = smallvec![0; n];
    for i in (0..n).rev() {
        shape[i] = match [at(a, i), at(b, i)] {
            [x, y] if x == y => x,
            [1, y] => y,
            [x, 1] => x,
            lengths => return Err((i, lengths)),
        };
    }
    Ok(shape)
}

/// Strides along `lead` of an array of `shape` that broadcasts to it.
pub fn follow(lead: &[usize], shape: &[usize], strides: &[isize]) -> Axes<isize> {
    let missing = lead.len() - shape.len();
    let mut result = smallvec![0; lead.len()];
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

/// The dtype of a result in single or double precision.
pub fn precision(single: bool) -> Dtype {
    if single { Dtype::F32 } else { Dtype::F64 }
}

/// A result: new, or `out`.
pub struct Target<'py> {
    place: Place<'py>,
    data: *mut u8,
    strides: Axes<isize>,
}

enum Place<'py> {
    /// A number, to be one of NumPy's scalars: half the time of an array without axes that is turned into one.
    Scalar(Rc<UnsafeCell<f64>>, Dtype),
    /// A new ndarray, and what makes the caller's kind of it.
    New(Bound<'py, PyAny>, Option<Bound<'py, PyAny>>),
    /// A new tensor.
    Tensor(Fresh<'py>),
    /// `out`, an ndarray borrowed for writing.
    Single { _borrow: PyReadwriteArrayDyn<'py, f32> },
    /// `out`, an ndarray borrowed for writing.
    Double { _borrow: PyReadwriteArrayDyn<'py, f64> },
    /// `out`, a tensor, which the caller keeps.
    Foreign,
}

/// What NumPy calls a dtype.
pub fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F64 => "float64",
        Dtype::F32 => "float32",
        Dtype::Bf16 => "bfloat16",
        Dtype::F16 => "float16",
        Dtype::I8 => "int8",
        Dtype::I16 => "int16",
        Dtype::I32 => "int32",
        Dtype::I64 => "int64",
        Dtype::U8 => "uint8",
        Dtype::U16 => "uint16",
        Dtype::U32 => "uint32",
        Dtype::U64 => "uint64",
        Dtype::Bool => "bool",
    }
}

/// NumPy's dtype.
pub fn descr(py: Python<'_>, dtype: Dtype) -> PyResult<Bound<'_, PyArrayDescr>> {
    match dtype {
        Dtype::F64 => Ok(numpy::dtype::<f64>(py)),
        Dtype::F32 => Ok(numpy::dtype::<f32>(py)),
        Dtype::Bf16 => {
            let library = py.import("ml_dtypes").map_err(|_| {
                PyTypeError::new_err("NumPy has no bfloat16 of its own: install ml_dtypes for arrays of it")
            })?;
            PyArrayDescr::new(py, library.getattr("bfloat16")?)
        }
        other => PyArrayDescr::new(py, dtype_name(other)),
    }
}

/// An argument as an ndarray of the memory that it has, whatever its kind.
///
/// Parameters
/// ----------
/// obj : object
///     An array, a tensor on the CPU or another producer of DLPack, a nested list or a number.
/// name : str
///     What messages call it.
///
/// Returns
/// -------
/// ndarray
///     The object itself if it is one; read-only where the memory is another library's.
///
/// Raises
/// ------
/// TypeError
///     If the object holds no real numbers, lies on another device, or requires a gradient.
#[pyfunction]
#[pyo3(signature = (obj, name), text_signature = "(obj, name)")]
pub fn as_ndarray<'py>(obj: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    Array::new(name, obj)?.into_ndarray(obj.py())
}

/// An argument as an ndarray, or where its rows do not lie in one as an object with its `shape` and `dtype` and the
/// methods `reach(start)` and `block(start, stop)`, which the functions of this module take too.
///
/// Parameters
/// ----------
/// obj : object
///     What `as_ndarray` takes.
/// name : str
///     What messages call it.
///
/// Returns
/// -------
/// ndarray or object
///
/// Raises
/// ------
/// TypeError
///     As for `as_ndarray`.
#[pyfunction]
#[pyo3(signature = (obj, name), text_signature = "(obj, name)")]
pub fn as_rows<'py>(obj: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    match Source::new(name, obj)?.rows {
        Rows::Whole(array) => array.into_ndarray(obj.py()),
        Rows::Pieces(pieces) => Ok(pieces.blocks),
    }
}

impl<'py> Target<'py> {
    /// Uninitialised, in C order, of the caller's kind.
    pub fn new(py: Python<'py>, kind: &Kind<'py>, shape: &[usize], dtype: Dtype) -> PyResult<Self> {
        addressable(shape, dtype)?;
        let wrap = match kind {
            Kind::Exchanged(table) => {
                let (fresh, data, strides) = Fresh::exchanged(table, shape, dtype)?;
                return Ok(Target { place: Place::Tensor(fresh), data, strides: strides.into() });
            }
            Kind::Torch(torch) => {
                let (fresh, data, strides) = Fresh::torch(torch, shape, dtype)?;
                return Ok(Target { place: Place::Tensor(fresh), data, strides: strides.into() });
            }
            // polars has nothing for a single number.
            Kind::Other(name, _) if shape.is_empty() && name == "polars" => None,
            Kind::Other(_, wrap) => Some(wrap.clone()),
            Kind::Numpy if shape.is_empty() => {
                let number = Rc::new(UnsafeCell::new(0.0));
                let data = number.get().cast();
                return Ok(Target { place: Place::Scalar(number, dtype), data, strides: Axes::new() });
            }
            Kind::Numpy => None,
        };
        let (array, data) = empty(py, shape, dtype)?;
        let strides = array.strides().into();
        Ok(Target { place: Place::New(array.into_any(), wrap), data, strides })
    }

    /// The same of zeros, for a floating dtype.
    pub fn zeros(py: Python<'py>, kind: &Kind<'py>, shape: &[usize], dtype: Dtype) -> PyResult<Self> {
        let target = Self::new(py, kind, shape, dtype)?;
        // SAFETY: the new array is as long, in C order, and a floating 0 is all zero bits.
        unsafe { target.data.write_bytes(0, shape.iter().product::<usize>() * dtype.size()) };
        Ok(target)
    }

    /// `out`, if it is an array of this shape and dtype that may be written and shares no memory with the inputs.
    pub fn borrow(
        out: &Bound<'py, PyAny>,
        shape: &[usize],
        single: bool,
        inputs: &[(&str, &Array<'_>)],
    ) -> PyResult<Self> {
        let wanted = if single { "float32" } else { "float64" };
        if is_negated(out)? {
            return Err(PyTypeError::new_err(
                "out is a lazily negated tensor, whose memory cannot be written to as it is",
            ));
        }
        let tensor = || -> PyResult<Option<Array<'py>>> {
            match exchanged("out", out)? {
                // Of torch before it had the table: its tensors may be written, those of others need not be.
                None if is_torch(out)? => dlpack("out", out),
                found => Ok(found),
            }
        };
        let whole = match out.cast::<PyUntypedArray>() {
            Ok(array) => Array::numpy("out", array.clone())?,
            Err(_) => match tensor()? {
                Some(tensor) => tensor,
                None => {
                    let got = out.get_type().name()?;
                    let message = format!("out must be a numpy array or a tensor of {wanted}, got {got}");
                    return Err(PyTypeError::new_err(message));
                }
            },
        };
        if whole.shape() != shape {
            return Err(PyValueError::new_err(format!(
                "out must have the result's shape {}, got {}",
                tuple(shape),
                tuple(whole.shape())
            )));
        }
        if whole.shape().iter().zip(whole.strides()).any(|(n, stride)| *n > 1 && *stride == 0) {
            return Err(PyValueError::new_err(
                "out must have an element for every result, but one of its axes repeats elements",
            ));
        }
        let taken = || PyValueError::new_err("out must be writable and not in use by another call");
        let dtype = || -> PyErr {
            let got = out.getattr(intern!(out.py(), "dtype")).and_then(|d| d.str().map(|s| s.to_string()));
            PyTypeError::new_err(format!("out must have dtype {wanted}, got {}", got.unwrap_or_default()))
        };
        let (low, high) = whole.extent();
        let strides = whole.strides().into();
        let (place, data) = match whole.memory {
            Memory::Foreign { .. } if whole.dtype != precision(single) => return Err(dtype()),
            Memory::Foreign { .. } => (Place::Foreign, whole.data.cast_mut()),
            Memory::Numpy(_) if single => {
                let typed = out.cast::<PyArrayDyn<f32>>().map_err(|_| dtype())?;
                let borrowed = typed.try_readwrite().map_err(|_| taken())?;
                let data = borrowed.data().cast();
                (Place::Single { _borrow: borrowed }, data)
            }
            Memory::Numpy(_) => {
                let typed = out.cast::<PyArrayDyn<f64>>().map_err(|_| dtype())?;
                let borrowed = typed.try_readwrite().map_err(|_| taken())?;
                let data = borrowed.data().cast();
                (Place::Double { _borrow: borrowed }, data)
            }
        };
        for (name, x) in inputs {
            let (from, to) = x.extent();
            if from < high && low < to {
                return Err(PyValueError::new_err(format!("out must share no memory with {name}: pass another array")));
            }
        }
        Ok(Target { place, data, strides })
    }

    /// The first element.
    pub fn data(&self) -> *mut u8 {
        self.data
    }

    /// Bytes from element to element along each axis.
    pub fn strides(&self) -> Axes<isize> {
        self.strides.clone()
    }

    /// What the caller gets: of NumPy's kind a scalar where the array has no axes and is new.
    pub fn finish(self, py: Python<'py>, out: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        match (self.place, out) {
            (Place::New(array, Some(wrap)), _) => wrap.call1((array,)),
            (Place::New(array, None), _) => Ok(array),
            (Place::Scalar(number, dtype), _) => {
                let descr = descr(py, dtype)?;
                // SAFETY: the number is large enough for an element of every dtype, and aligned; it is only read.
                unsafe {
                    let data = number.get().cast();
                    let result = PY_ARRAY_API.PyArray_Scalar(py, data, descr.as_dtype_ptr(), std::ptr::null_mut());
                    Bound::from_owned_ptr_or_err(py, result)
                }
            }
            (Place::Tensor(fresh), _) => fresh.finish(py),
            (Place::Single { .. } | Place::Double { .. } | Place::Foreign, Some(out)) => Ok(out.clone()),
            (_, None) => Err(PyValueError::new_err("out is missing")),
        }
    }
}

/// A `MemoryError` if no memory can have a result of this shape.
fn addressable(shape: &[usize], dtype: Dtype) -> PyResult<()> {
    let bytes = shape.iter().try_fold(dtype.size(), |a, n| a.checked_mul(*n));
    if bytes.is_none_or(|b| b > isize::MAX as usize) {
        return Err(PyMemoryError::new_err(format!("no memory for a result of shape {}", tuple(shape))));
    }
    Ok(())
}

/// An ndarray in C order and its first element. Every element must be written before the array is handed out, or the
/// array be dropped: they are uninitialised.
pub fn empty<'py>(py: Python<'py>, shape: &[usize], dtype: Dtype) -> PyResult<(Bound<'py, PyUntypedArray>, *mut u8)> {
    addressable(shape, dtype)?;
    let mut lengths: Axes<npy_intp> = shape.iter().map(|n| *n as npy_intp).collect();
    // SAFETY: a shape of as many numbers as are said, and a descriptor whose reference is taken over.
    let array = unsafe {
        let descr = descr(py, dtype)?.into_dtype_ptr();
        let array = PY_ARRAY_API.PyArray_Empty(py, lengths.len() as i32, lengths.as_mut_ptr(), descr, 0);
        Bound::from_owned_ptr_or_err(py, array)?.cast_into_unchecked::<PyUntypedArray>()
    };
    // SAFETY: an ndarray's object starts with a `PyArrayObject`.
    let data = unsafe { (*array.as_ptr().cast::<PyArrayObject>()).fields.data }.cast();
    Ok((array, data))
}

/// A number as a scalar of the caller's kind, rounded once.
pub fn scalar_of<'py>(py: Python<'py>, kind: &Kind<'py>, value: f64, dtype: Dtype) -> PyResult<Bound<'py, PyAny>> {
    let target = Target::new(py, kind, &[], dtype)?;
    // SAFETY: an array without axes has one element.
    in_default_environment(|| unsafe { dtype.store(value, target.data()) });
    target.finish(py, None)
}
