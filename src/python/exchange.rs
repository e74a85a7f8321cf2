//! Tensors in and out by DLPack, without importing the library they belong to: by the table of C functions that their
//! type carries (`__dlpack_c_exchange_api__`), else by the capsule of `__dlpack__`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use pyo3::exceptions::{PyMemoryError, PyTypeError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use super::array::{Array, Kind, wrong_dtype};
use crate::rows::Dtype;

#[repr(C)]
#[derive(Clone, Copy)]
struct Version {
    major: u32,
    minor: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Device {
    kind: i32,
    id: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

/// `DLTensor`.
#[repr(C)]
struct View {
    data: *mut c_void,
    device: Device,
    axes: i32,
    dtype: DataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// `DLManagedTensorVersioned`.
#[repr(C)]
struct Managed {
    version: Version,
    context: *mut c_void,
    delete: Option<unsafe extern "C" fn(*mut Managed)>,
    flags: u64,
    view: View,
}

type SetError = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char);

/// `DLPackExchangeAPI` of DLPack 1.3: its header, then its functions.
#[repr(C)]
pub struct Table {
    version: Version,
    previous: *const Table,
    allocate: Option<unsafe extern "C" fn(*mut View, *mut *mut Managed, *mut c_void, SetError) -> c_int>,
    _from_object: *const c_void,
    to_object: Option<unsafe extern "C" fn(*mut Managed, *mut *mut c_void) -> c_int>,
    view: Option<unsafe extern "C" fn(*mut c_void, *mut View) -> c_int>,
    _stream: *const c_void,
}

// SAFETY: a table is constant, and its functions may be called by any thread that holds the interpreter.
unsafe impl Sync for Table {}

/// Devices whose memory the processor reads: its own, and host memory pinned for CUDA or ROCm.
const HOST: [i32; 3] = [1, 3, 11];
const CPU: Device = Device { kind: 1, id: 0 };

/// DLPack's names of what we compute with.
const DTYPES: [((u8, u8), Dtype); 13] = [
    ((2, 64), Dtype::F64),
    ((2, 32), Dtype::F32),
    ((2, 16), Dtype::F16),
    ((4, 16), Dtype::Bf16),
    ((0, 8), Dtype::I8),
    ((0, 16), Dtype::I16),
    ((0, 32), Dtype::I32),
    ((0, 64), Dtype::I64),
    ((1, 8), Dtype::U8),
    ((1, 16), Dtype::U16),
    ((1, 32), Dtype::U32),
    ((1, 64), Dtype::U64),
    ((6, 8), Dtype::Bool),
];

/// The table that an object's type carries, if it is of a version that we know.
fn table(obj: &Bound<'_, PyAny>) -> PyResult<Option<&'static Table>> {
    // Looking the table up takes as long as reading a tensor: that of the first class seen is kept.
    static KNOWN: PyOnceLock<(Py<PyType>, &'static Table)> = PyOnceLock::new();
    let (py, class) = (obj.py(), obj.get_type());
    if let Some((known, table)) = KNOWN.get(py)
        && class.is(known)
    {
        return Ok(Some(table));
    }
    let found = table_of(&class)?;
    if let Some(table) = found {
        KNOWN.get_or_init(py, || (class.unbind(), table));
    }
    Ok(found)
}

fn table_of(class: &Bound<'_, PyType>) -> PyResult<Option<&'static Table>> {
    let py = class.py();
    let Some(capsule) = class.getattr_opt(intern!(py, "__dlpack_c_exchange_api__"))? else {
        return Ok(None);
    };
    // SAFETY: a valid object and a name; anything but a capsule of this name gives null and an exception.
    let mut at = unsafe { ffi::PyCapsule_GetPointer(capsule.as_ptr(), c"dlpack_exchange_api".as_ptr()) }
        .cast_const()
        .cast::<Table>();
    if at.is_null() {
        return Err(PyErr::fetch(py));
    }
    // SAFETY: DLPack has these tables, and the older ones they lead to, outlive the process's use of the library.
    while let Some(table) = unsafe { at.as_ref() } {
        if table.version.major == 1 {
            return Ok(Some(table));
        }
        at = table.previous;
    }
    Ok(None)
}

/// An object whose type carries the exchange table.
pub fn exchanged<'py>(name: &str, obj: &Bound<'py, PyAny>) -> PyResult<Option<Array<'py>>> {
    let Some(table) = table(obj)? else { return Ok(None) };
    let Some(look) = table.view else { return Ok(None) };
    refuse_graph(name, obj)?;
    let mut view = View {
        data: ptr::null_mut(),
        device: CPU,
        axes: 0,
        dtype: DataType { code: 0, bits: 0, lanes: 0 },
        shape: ptr::null_mut(),
        strides: ptr::null_mut(),
        byte_offset: 0,
    };
    // SAFETY: the object is of the type that carries the table, and `view` is ours to fill.
    if unsafe { look(obj.as_ptr().cast(), &mut view) } != 0 {
        return Err(unreadable(name, obj, PyErr::fetch(obj.py())));
    }
    let array = read(name, obj, &view, obj.clone(), Kind::Exchanged(table))?;
    if array.is_floating() && is_negated(obj)? {
        return exchanged(name, &obj.call_method0(intern!(obj.py(), "resolve_neg"))?);
    }
    Ok(Some(array))
}

/// Whether a tensor is the negative of its memory: torch negates lazily, and exports the memory as it is.
pub fn is_negated(obj: &Bound<'_, PyAny>) -> PyResult<bool> {
    match obj.getattr_opt(intern!(obj.py(), "is_neg"))? {
        Some(asked) => asked.call0()?.is_truthy(),
        None => Ok(false),
    }
}

/// Another producer of DLPack capsules: JAX, and torch before it had the table.
pub fn dlpack<'py>(name: &str, obj: &Bound<'py, PyAny>) -> PyResult<Option<Array<'py>>> {
    let py = obj.py();
    // An ndarray of another class, masked ones among them, is numpy's.
    if obj.cast::<numpy::PyUntypedArray>().is_ok() {
        return Ok(None);
    }
    let (Some(export), Some(device)) =
        (obj.getattr_opt(intern!(py, "__dlpack__"))?, obj.getattr_opt(intern!(py, "__dlpack_device__"))?)
    else {
        return Ok(None);
    };
    refuse_graph(name, obj)?;
    if is_torch(obj)? {
        if is_negated(obj)? {
            return dlpack(name, &obj.call_method0(intern!(py, "resolve_neg"))?);
        }
        if obj.getattr(intern!(py, "requires_grad"))?.is_truthy()? {
            // Nothing records a graph now, but torch exports no tensor that could be in one.
            return dlpack(name, &obj.call_method0(intern!(py, "detach"))?);
        }
    }
    let (kind, id) = device.call0().and_then(|d| d.extract::<(i32, i32)>()).map_err(|e| unreadable(name, obj, e))?;
    refuse_device(name, obj, Device { kind, id })?;
    let keywords = PyDict::new(py);
    keywords.set_item(intern!(py, "max_version"), (1, 0))?;
    let capsule = match export.call((), Some(&keywords)) {
        // The protocol before versions.
        Err(error) if error.is_instance_of::<PyTypeError>(py) => export.call0(),
        other => other,
    };
    let capsule = capsule.map_err(|e| unreadable(name, obj, e))?;
    // SAFETY: a valid object and names; the pointer of an unconsumed capsule stays valid while the capsule lives, and
    // it frees what it holds when it dies.
    let view = unsafe {
        if ffi::PyCapsule_IsValid(capsule.as_ptr(), c"dltensor_versioned".as_ptr()) == 1 {
            let managed = ffi::PyCapsule_GetPointer(capsule.as_ptr(), c"dltensor_versioned".as_ptr()).cast::<Managed>();
            if (*managed).version.major != 1 {
                return Ok(None);
            }
            &raw const (*managed).view
        } else {
            let at = ffi::PyCapsule_GetPointer(capsule.as_ptr(), c"dltensor".as_ptr()).cast::<View>();
            if at.is_null() {
                return Err(unreadable(name, obj, PyErr::fetch(py)));
            }
            at.cast_const()
        }
    };
    let kind = if is_torch(obj)? {
        Kind::Torch(py.import("torch")?)
    } else {
        match obj.getattr_opt(intern!(py, "__array_namespace__"))? {
            Some(namespace) => {
                let wrap = namespace.call0()?.getattr("asarray")?;
                Kind::Other(obj.get_type().fully_qualified_name()?.to_string(), wrap)
            }
            None => Kind::Numpy,
        }
    };
    // SAFETY: the capsule, which `read` keeps, owns the view.
    let array = read(name, obj, unsafe { &*view }, capsule, kind)?;
    Ok(Some(array))
}

/// A view as an array; `keep` keeps its memory alive.
fn read<'py>(
    name: &str,
    obj: &Bound<'py, PyAny>,
    view: &View,
    keep: Bound<'py, PyAny>,
    kind: Kind<'py>,
) -> PyResult<Array<'py>> {
    refuse_device(name, obj, view.device)?;
    let found = DTYPES.iter().find(|(code, _)| *code == (view.dtype.code, view.dtype.bits) && view.dtype.lanes == 1);
    let Some((_, dtype)) = found else {
        let dtype = obj.getattr(intern!(obj.py(), "dtype"))?;
        return Err(wrong_dtype(name, &dtype));
    };
    let axes = view.axes as usize;
    let numbers = |at: *mut i64| -> &[i64] {
        // SAFETY: DLPack promises a number an axis; without axes the pointer may be null.
        if axes == 0 { &[] } else { unsafe { std::slice::from_raw_parts(at, axes) } }
    };
    let shape: Vec<usize> = numbers(view.shape).iter().map(|n| *n as usize).collect();
    let size = dtype.size() as isize;
    let strides = if view.strides.is_null() {
        c_order(&shape, size)
    } else {
        numbers(view.strides).iter().map(|s| *s as isize * size).collect()
    };
    if view.data.is_null() && !shape.contains(&0) {
        return Err(PyTypeError::new_err(format!("{name} has no memory (it is a fake tensor, as in tracing)")));
    }
    let data = view.data.cast_const().cast::<u8>().wrapping_add(view.byte_offset as usize);
    Ok(Array::foreign(keep, data, *dtype, shape, strides, kind))
}

/// Strides of a shape in C order.
pub fn c_order(shape: &[usize], size: isize) -> Vec<isize> {
    let mut strides = vec![size; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i].max(1) as isize;
    }
    strides
}

/// Whether an object is a tensor of torch.
pub fn is_torch(obj: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(obj.getattr_opt(intern!(obj.py(), "__torch_function__"))?.is_some())
}

/// Whether a result computed from this object must be part of torch's graph.
pub fn wants_graph(obj: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = obj.py();
    let Some(wanted) = obj.getattr_opt(intern!(py, "requires_grad"))? else { return Ok(false) };
    if !wanted.is_truthy()? || !is_torch(obj)? {
        return Ok(false);
    }
    py.import(intern!(py, "torch"))?.call_method0(intern!(py, "is_grad_enabled"))?.is_truthy()
}

/// A result without its gradient would be a wrong gradient.
fn refuse_graph(name: &str, obj: &Bound<'_, PyAny>) -> PyResult<()> {
    if wants_graph(obj)? {
        return Err(PyTypeError::new_err(format!(
            "{name} is a tensor that requires a gradient, which this function does not have: pass {name}.detach()"
        )));
    }
    Ok(())
}

fn refuse_device(name: &str, obj: &Bound<'_, PyAny>, device: Device) -> PyResult<()> {
    if HOST.contains(&device.kind) {
        return Ok(());
    }
    let shown = obj.getattr_opt(intern!(obj.py(), "device"))?;
    let shown = match shown {
        Some(device) => device.str()?.to_string(),
        None => format!("DLPack device ({}, {})", device.kind, device.id),
    };
    Err(PyTypeError::new_err(format!("{name} must be on the CPU, got device {shown}")))
}

/// Why a tensor could not be read.
fn unreadable(name: &str, obj: &Bound<'_, PyAny>, error: PyErr) -> PyErr {
    let py = obj.py();
    let shown = |attribute: &str| Some(obj.getattr_opt(attribute).ok()??.str().ok()?.to_string());
    if let Some(device) = shown("device")
        && !device.to_ascii_lowercase().contains("cpu")
    {
        return PyTypeError::new_err(format!("{name} must be on the CPU, got device {device}"));
    }
    if let Some(layout) = shown("layout")
        && layout != "torch.strided"
    {
        return PyTypeError::new_err(format!("{name} must be dense, got layout {layout}: pass {name}.to_dense()"));
    }
    let message = error.value(py).str().map(|s| s.to_string()).unwrap_or_default();
    let first = message.lines().next().unwrap_or_default();
    PyTypeError::new_err(format!("{name} cannot be read: {first}"))
}

/// Bytes from which large pages are worth asking for: numpy's own choice.
#[cfg(target_os = "linux")]
const LARGE: usize = 4 << 20;
/// What a large page is aligned to.
#[cfg(target_os = "linux")]
const PAGE: usize = 2 << 20;

/// Asks the system for large pages where a new tensor lies, as numpy does for its arrays. Without them 40 MB of new memory took
/// 15 ms to be written first (a fault every 4 KiB), with them 4. The system may refuse: then pages are small.
#[cfg(target_os = "linux")]
fn prefer_large_pages(data: *mut u8, bytes: usize) {
    let skipped = data.align_offset(PAGE);
    // What is skipped is less than a page, or no number where the offset cannot be told.
    if bytes >= LARGE && bytes > skipped {
        let whole = (bytes - skipped) / PAGE * PAGE;
        // SAFETY: the range lies in memory that has just been allocated and that nobody else knows of; its contents do not change.
        let _ =
            unsafe { rustix::mm::madvise(data.wrapping_add(skipped).cast(), whole, rustix::mm::Advice::LinuxHugepage) };
    }
}

#[cfg(not(target_os = "linux"))]
fn prefer_large_pages(_: *mut u8, _: usize) {}

/// A new tensor, until it is handed out.
pub enum Fresh<'py> {
    /// Allocated by the exchange table.
    Exchanged(&'static Table, Owned),
    /// Allocated by torch itself.
    Torch(Bound<'py, PyAny>),
}

/// A managed tensor that is freed unless it is handed out.
pub struct Owned(*mut Managed);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the tensor is ours alone, and is deleted once: `into_raw` forgets it.
        unsafe {
            if let Some(delete) = (*self.0).delete {
                delete(self.0);
            }
        }
    }
}

impl Owned {
    fn into_raw(self) -> *mut Managed {
        let at = self.0;
        std::mem::forget(self);
        at
    }
}

/// What an allocator says went wrong.
unsafe extern "C" fn set_error(context: *mut c_void, _kind: *const c_char, message: *const c_char) {
    // SAFETY: the context is the string that `Fresh::exchanged` passes, the message a C string.
    unsafe { *context.cast::<String>() = CStr::from_ptr(message).to_string_lossy().into_owned() };
}

impl<'py> Fresh<'py> {
    /// An uninitialised tensor in C order from an exchange table: where its elements are, and their strides.
    pub fn exchanged(table: &'static Table, shape: &[usize], dtype: Dtype) -> PyResult<(Self, *mut u8, Vec<isize>)> {
        let mut message = String::new();
        let mut lengths: Vec<i64> = shape.iter().map(|n| *n as i64).collect();
        let &((code, bits), _) = DTYPES.iter().find(|(_, d)| *d == dtype).expect("every dtype has DLPack's name");
        let mut wanted = View {
            data: ptr::null_mut(),
            device: CPU,
            axes: shape.len() as i32,
            dtype: DataType { code, bits, lanes: 1 },
            shape: lengths.as_mut_ptr(),
            strides: ptr::null_mut(),
            byte_offset: 0,
        };
        let mut made: *mut Managed = ptr::null_mut();
        let context: *mut c_void = (&raw mut message).cast();
        // SAFETY: all pointers are valid during the call.
        let status = table.allocate.map(|allocate| unsafe { allocate(&mut wanted, &mut made, context, set_error) });
        if status != Some(0) || made.is_null() {
            return Err(PyMemoryError::new_err(format!("no memory for a tensor: {message}")));
        }
        let owned = Owned(made);
        // SAFETY: the tensor has just been made, with the axes asked for.
        let view = unsafe { &(*made).view };
        let data = view.data.cast::<u8>().wrapping_add(view.byte_offset as usize);
        let size = dtype.size() as isize;
        prefer_large_pages(data, shape.iter().product::<usize>() * dtype.size());
        let strides = if view.strides.is_null() || shape.is_empty() {
            c_order(shape, size)
        } else {
            // SAFETY: as above: a stride an axis.
            let strides = unsafe { std::slice::from_raw_parts(view.strides, shape.len()) };
            strides.iter().map(|s| *s as isize * size).collect()
        };
        Ok((Fresh::Exchanged(table, owned), data, strides))
    }

    /// The same from torch without the table.
    pub fn torch(torch: &Bound<'py, PyModule>, shape: &[usize], dtype: Dtype) -> PyResult<(Self, *mut u8, Vec<isize>)> {
        let py = torch.py();
        let name = match dtype {
            Dtype::F64 => "float64",
            Dtype::F32 => "float32",
            Dtype::F16 => "float16",
            Dtype::Bf16 => "bfloat16",
            _ => "int64",
        };
        let keywords = PyDict::new(py);
        keywords.set_item("dtype", torch.getattr(name)?)?;
        keywords.set_item("device", "cpu")?;
        let tensor = torch.call_method("empty", (PyTuple::new(py, shape)?,), Some(&keywords))?;
        let data = tensor.call_method0("data_ptr")?.extract::<usize>()? as *mut u8;
        prefer_large_pages(data, shape.iter().product::<usize>() * dtype.size());
        Ok((Fresh::Torch(tensor), data, c_order(shape, dtype.size() as isize)))
    }

    /// The tensor as its library's object.
    pub fn finish(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Fresh::Torch(tensor) => Ok(tensor),
            Fresh::Exchanged(table, owned) => {
                let Some(to_object) = table.to_object else {
                    return Err(PyTypeError::new_err("the exchange table of this tensor's type makes no tensors"));
                };
                let mut object: *mut c_void = ptr::null_mut();
                // SAFETY: the function takes over the tensor, and gives a new reference or sets an exception.
                unsafe {
                    if to_object(owned.into_raw(), &mut object) != 0 {
                        return Err(PyErr::fetch(py));
                    }
                    Bound::from_owned_ptr_or_err(py, object.cast())
                }
            }
        }
    }
}

const _: () = assert!(size_of::<View>() == 48 && size_of::<Managed>() == 80);
