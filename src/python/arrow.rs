//! Arrow arrays, streams of them and frames, by the capsules of the Arrow PyCapsule interface: without importing the
//! library they belong to, and without a copy where their rows lie one after another.
//!
//! A column of numbers is an array of one axis. Lists of one length are rows, whether their type says so or only their
//! offsets. Several columns are one class each. A null number is a NaN, and a null list is a row of NaN, so that its
//! result is NaN. What does not lie in one piece is handed out as [`Chunks`]: chunks as they lie, and what has to be
//! brought together (several columns, nulls, mixed dtypes, booleans, which Arrow stores as bits) a few rows at a time.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use numpy::{PyArray1, PyArrayDescr};
use pyo3::exceptions::{PyIndexError, PyOSError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyList, PyTuple};

use super::array::{self, Array, Kind, Pieces, Source, Target, descr};
use super::detached;
use super::exchange::c_order;
use crate::group::Numbering;
use crate::rows::Dtype;

/// `ArrowSchema` of the C data interface.
#[repr(C)]
struct Schema {
    format: *const c_char,
    name: *const c_char,
    metadata: *const c_char,
    flags: i64,
    n_children: i64,
    children: *const *const Schema,
    dictionary: *const Schema,
    release: Option<unsafe extern "C" fn(*mut Schema)>,
    private: *mut c_void,
}

/// `ArrowArray` of the C data interface.
#[repr(C)]
struct Chunk {
    length: i64,
    null_count: i64,
    offset: i64,
    n_buffers: i64,
    n_children: i64,
    buffers: *const *const u8,
    children: *const *const Chunk,
    dictionary: *const Chunk,
    release: Option<unsafe extern "C" fn(*mut Chunk)>,
    private: *mut c_void,
}

/// `ArrowArrayStream` of the C stream interface.
#[repr(C)]
struct Stream {
    schema: Option<unsafe extern "C" fn(*mut Stream, *mut Schema) -> c_int>,
    next: Option<unsafe extern "C" fn(*mut Stream, *mut Chunk) -> c_int>,
    last_error: Option<unsafe extern "C" fn(*mut Stream) -> *const c_char>,
    release: Option<unsafe extern "C" fn(*mut Stream)>,
    private: *mut c_void,
}

/// A structure that is ours to release.
struct Owned<T: Release>(T);

trait Release {
    fn released(&mut self);
}

macro_rules! release {
    ($($type:ty),+) => {
        $(impl Release for $type {
            fn released(&mut self) {
                if let Some(release) = self.release {
                    // SAFETY: the structure was filled by its producer, and is released once.
                    unsafe { release(self) }
                }
            }
        })+
    };
}

release!(Schema, Chunk);

impl<T: Release> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.released();
    }
}

// SAFETY: the Arrow C data interface allows a structure to be released on any thread.
unsafe impl Send for Owned<Chunk> {}

/// The numbers of a column: `length` of them from the element `first` on.
struct Numbers {
    dtype: Dtype,
    data: *const u8,
    valid: Bits,
    first: usize,
}

/// Which of some elements are not null: a bit each, or no pointer where all are.
#[derive(Clone, Copy)]
struct Bits(*const u8);

impl Bits {
    /// The bit of an element.
    ///
    /// # Safety
    /// There must be such an element.
    unsafe fn get(self, i: usize) -> bool {
        // SAFETY: as the caller vouches: eight elements a byte.
        self.0.is_null() || unsafe { *self.0.add(i / 8) } >> (i % 8) & 1 == 1
    }

    /// Whether every one of `length` elements from `first` on is there.
    ///
    /// # Safety
    /// There must be such elements.
    unsafe fn all(self, first: usize, length: usize) -> bool {
        let (stop, from, to) = (first + length, first.div_ceil(8), (first + length) / 8);
        if self.0.is_null() || from >= to {
            // SAFETY: as the caller vouches.
            return self.0.is_null() || (first..stop).all(|i| unsafe { self.get(i) });
        }
        // SAFETY: as the caller vouches; whole bytes between the odd bits at either end.
        unsafe {
            (first..8 * from).all(|i| self.get(i))
                && (from..to).all(|i| *self.0.add(i) == u8::MAX)
                && (8 * to..stop).all(|i| self.get(i))
        }
    }
}

impl Numbers {
    /// A number; NaN if it is null.
    ///
    /// # Safety
    /// There must be such an element.
    unsafe fn number(&self, i: usize) -> f64 {
        let i = self.first + i;
        // SAFETY: as the caller vouches.
        unsafe {
            match self.dtype {
                _ if !self.valid.get(i) => f64::NAN,
                Dtype::Bool => f64::from(u8::from(Bits(self.data).get(i))),
                dtype => dtype.number(self.data.add(i * dtype.size()), false),
            }
        }
    }

    /// Writes `count` numbers from the `start`th on as numbers of a dtype: their own, unless one of them is null, or a
    /// floating one.
    ///
    /// # Safety
    /// There must be such elements, and room for them at `to`.
    unsafe fn put(&self, start: usize, count: usize, dtype: Dtype, to: *mut u8) {
        let (first, size) = (self.first + start, dtype.size());
        // SAFETY: as the caller vouches.
        unsafe {
            if self.dtype == dtype && dtype != Dtype::Bool {
                to.copy_from_nonoverlapping(self.data.add(first * size), count * size);
                if !self.valid.all(first, count) {
                    let absent = (0..count).filter(|i| !self.valid.get(first + i));
                    absent.for_each(|i| dtype.store(f64::NAN, to.add(i * size)));
                }
                return;
            }
            for i in 0..count {
                match dtype {
                    Dtype::Bool => *to.add(i) = u8::from(Bits(self.data).get(first + i)),
                    _ => dtype.store(self.number(start + i), to.add(i * size)),
                }
            }
        }
    }

    /// The first element as it lies in memory; none for booleans, which are bits.
    fn address(&self) -> Option<*const u8> {
        (self.dtype != Dtype::Bool).then(|| self.data.wrapping_add(self.first * self.dtype.size()))
    }
}

/// Rows of a chunk.
struct Rows {
    rows: usize,
    /// Lengths of the axes after the rows'.
    inner: Vec<usize>,
    /// Where the numbers are.
    cells: Cells,
}

impl Rows {
    /// Whether neither a row nor a number is null.
    fn is_whole(&self) -> bool {
        match &self.cells {
            // SAFETY: these are the chunk's elements.
            Cells::Across(columns) => columns.iter().all(|c| unsafe { c.valid.all(c.first, self.rows) }),
            Cells::Along { numbers, present, starts } => {
                let total = match starts {
                    Starts::Every(width) => self.rows * width,
                    Starts::At(_) => 0,
                };
                // SAFETY: as above.
                present.iter().all(|p| *p) && unsafe { numbers.valid.all(numbers.first, total) }
            }
        }
    }

    /// Whether there is a row, so that the lengths of the inner axes are known.
    fn tells(&self) -> bool {
        match &self.cells {
            Cells::Along { starts: Starts::At(_), present, .. } => present.contains(&true),
            _ => self.rows > 0,
        }
    }
}

enum Cells {
    /// Row after row in one column, but for the rows that are null.
    Along { numbers: Numbers, starts: Starts, present: Vec<bool> },
    /// A column a class.
    Across(Vec<Numbers>),
}

/// Where in its column each row starts.
enum Starts {
    /// So many elements after the one before.
    Every(usize),
    /// There.
    At(Vec<usize>),
}

impl Cells {
    fn numbers(&self) -> &[Numbers] {
        match self {
            Cells::Along { numbers, .. } => std::slice::from_ref(numbers),
            Cells::Across(columns) => columns,
        }
    }
}

/// What a message calls the format of a column.
fn shown(schema: &Schema) -> String {
    // SAFETY: the format of a schema that has not been released is a C string.
    unsafe { CStr::from_ptr(schema.format) }.to_string_lossy().into_owned()
}

/// Arrow's formats of what we compute with.
fn dtype_of(name: &str, schema: &Schema) -> PyResult<Dtype> {
    let wrong = |what: &str| {
        Err(PyTypeError::new_err(format!(
            "{name} must hold integers, booleans, float16, float32 or float64, or lists of them, got {what}"
        )))
    };
    if !schema.dictionary.is_null() {
        return wrong("a dictionary (a categorical column)");
    }
    Ok(match shown(schema).as_str() {
        "g" => Dtype::F64,
        "f" => Dtype::F32,
        "e" => Dtype::F16,
        "c" => Dtype::I8,
        "s" => Dtype::I16,
        "i" => Dtype::I32,
        "l" => Dtype::I64,
        "C" => Dtype::U8,
        "S" => Dtype::U16,
        "I" => Dtype::U32,
        "L" => Dtype::U64,
        "b" => Dtype::Bool,
        "u" | "U" | "vu" => return wrong("strings"),
        format if format.starts_with("+l") || format.starts_with("+L") || format.starts_with("+w") => {
            return wrong("lists in lists, or among several columns: pass one column of lists of numbers");
        }
        format => return wrong(&format!("Arrow's format {format:?}")),
    })
}

/// A buffer of a chunk, or null.
///
/// # Safety
/// The chunk must not have been released.
unsafe fn buffer(chunk: &Chunk, i: usize) -> *const u8 {
    // SAFETY: a chunk has as many buffers as it says.
    if (i as i64) < chunk.n_buffers { unsafe { *chunk.buffers.add(i) } } else { ptr::null() }
}

/// The bits that say which elements of a chunk are not null.
///
/// # Safety
/// The chunk must not have been released.
unsafe fn validity(chunk: &Chunk) -> Bits {
    // SAFETY: as the caller vouches.
    if chunk.null_count == 0 { Bits(ptr::null()) } else { Bits(unsafe { buffer(chunk, 0) }) }
}

/// The numbers of a chunk from an element on.
///
/// # Safety
/// Schema and chunk must be of one array that has not been released.
unsafe fn numbers(name: &str, schema: &Schema, chunk: &Chunk, first: usize) -> PyResult<Numbers> {
    let dtype = dtype_of(name, schema)?;
    let first = first + chunk.offset as usize;
    // SAFETY: as the caller vouches.
    unsafe { Ok(Numbers { dtype, data: buffer(chunk, 1), valid: validity(chunk), first }) }
}

/// The rows of a chunk.
///
/// # Safety
/// Schema and chunk must be of one array that has not been released.
unsafe fn rows(name: &str, schema: &Schema, chunk: &Chunk) -> PyResult<Rows> {
    let rows = chunk.length as usize;
    let format = shown(schema);
    // SAFETY: as the caller vouches; a schema has as many children as its array, and lists and structures have their
    // children behind the pointers.
    unsafe {
        let children = std::slice::from_raw_parts(
            if schema.n_children == 0 { ptr::dangling() } else { schema.children },
            schema.n_children as usize,
        );
        let parts = std::slice::from_raw_parts(
            if chunk.n_children == 0 { ptr::dangling() } else { chunk.children },
            chunk.n_children as usize,
        );
        let valid = validity(chunk);
        let offset = chunk.offset as usize;
        let present = |rows: usize| (0..rows).map(|i| valid.get(offset + i)).collect::<Vec<bool>>();
        match format.as_str() {
            "+s" => {
                if !valid.all(offset, rows) {
                    return Err(PyTypeError::new_err(format!("{name} has structures that are null")));
                }
                if offset == 0
                    && let [child] = children
                    && shown(&**child).starts_with('+')
                {
                    return self::rows(name, &**child, &*parts[0]);
                }
                let columns = children.iter().zip(parts).map(|(child, part)| numbers(name, &**child, &**part, offset));
                let columns = columns.collect::<PyResult<Vec<Numbers>>>()?;
                Ok(Rows { rows, inner: vec![columns.len()], cells: Cells::Across(columns) })
            }
            "+l" | "+L" => {
                let at = |i: usize| {
                    let buffer = buffer(chunk, 1);
                    match format.as_str() {
                        _ if buffer.is_null() => 0,
                        "+l" => buffer.cast::<i32>().add(offset + i).read_unaligned() as usize,
                        _ => buffer.cast::<i64>().add(offset + i).read_unaligned() as usize,
                    }
                };
                let present = present(rows);
                let lengths = || (0..rows).filter(|i| present[*i]).map(|i| (i, at(i + 1) - at(i)));
                let (first, width) = lengths().next().unwrap_or((0, 0));
                if let Some((row, other)) = lengths().find(|(_, n)| *n != width) {
                    return Err(PyValueError::new_err(format!(
                        "{name} has rows of different lengths: row {first} has {width} classes and row {row} has {other}"
                    )));
                }
                let numbers = numbers(name, &*children[0], &*parts[0], at(0))?;
                let starts = match present.iter().all(|p| *p) {
                    true => Starts::Every(width),
                    false => Starts::At((0..rows).map(|i| at(i) - at(0)).collect()),
                };
                Ok(Rows { rows, inner: vec![width], cells: Cells::Along { numbers, starts, present } })
            }
            _ if format.starts_with("+w:") => {
                let (mut inner, mut first) = (Vec::new(), offset);
                let (mut schema, mut chunk) = (schema, chunk);
                while let Some(width) = shown(schema).strip_prefix("+w:").and_then(|n| n.parse::<usize>().ok()) {
                    if !inner.is_empty()
                        && !validity(chunk).all(chunk.offset as usize + first, rows * inner.iter().product::<usize>())
                    {
                        return Err(PyTypeError::new_err(format!("{name} has lists within lists that are null")));
                    }
                    if !inner.is_empty() {
                        first += chunk.offset as usize;
                    }
                    inner.push(width);
                    first *= width;
                    (schema, chunk) = (&**schema.children, &**chunk.children);
                }
                let numbers = numbers(name, schema, chunk, first)?;
                let starts = Starts::Every(inner.iter().product());
                Ok(Rows { rows, inner, cells: Cells::Along { numbers, starts, present: present(rows) } })
            }
            _ => {
                let numbers = numbers(name, schema, chunk, 0)?;
                // A null number is not a row that is null: `numbers` sees to it.
                let present = vec![true; rows];
                Ok(Rows { rows, inner: vec![], cells: Cells::Along { numbers, starts: Starts::Every(1), present } })
            }
        }
    }
}

/// Rows that do not lie in one array. Blocks of them come where they are as far as a chunk goes that holds nothing but
/// numbers of the dtype of all, and are brought together where they do not.
#[pyclass(module = "kullback._core", frozen)]
pub struct Chunks {
    chunks: Vec<Rows>,
    /// The first row of each chunk, and the end.
    firsts: Vec<usize>,
    /// Which chunks are arrays as they lie.
    plain: Vec<bool>,
    lengths: Vec<usize>,
    stored: Dtype,
    keep: Py<PyAny>,
}

// SAFETY: the memory behind the pointers is Arrow's, which nobody writes to, and `keep` keeps it alive.
unsafe impl Send for Chunks {}
// SAFETY: as above.
unsafe impl Sync for Chunks {}

#[pymethods]
impl Chunks {
    /// Lengths of the axes.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.lengths)
    }

    /// NumPy's dtype of every block.
    #[getter]
    fn dtype<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArrayDescr>> {
        descr(py, self.stored)
    }

    /// Up to which row those from `start` on lie in one array; `start` itself if they have to be brought together.
    fn reach(&self, start: usize) -> usize {
        match self.chunk_of(start) {
            Some(i) if self.plain[i] => self.firsts[i + 1],
            _ => start,
        }
    }

    /// The rows from `start` up to `stop` as an array.
    fn block<'py>(&self, py: Python<'py>, start: usize, stop: usize) -> PyResult<Bound<'py, PyAny>> {
        if start > stop || stop > self.lengths[0] {
            return Err(PyIndexError::new_err(format!("rows {start} to {stop} of {}", self.lengths[0])));
        }
        self.view(py, start, stop).map_or_else(|| self.gathered(py, start, stop), Ok)?.into_ndarray(py)
    }
}

impl Chunks {
    /// The chunks of an argument, which `keep` keeps alive.
    fn new(name: &str, mut chunks: Vec<Rows>, keep: Py<PyAny>) -> PyResult<Self> {
        // Lists that are all null say nothing of their length.
        let telling = || chunks.iter().filter(|c| c.tells());
        let known = telling().next().or_else(|| chunks.iter().find(|c| c.rows > 0)).or(chunks.first());
        let inner = known.map_or(vec![], |c| c.inner.clone());
        if let Some(chunk) = telling().find(|c| c.inner != inner) {
            return Err(PyValueError::new_err(format!(
                "{name} has rows of different lengths: the first has {inner:?} classes and a later chunk's {:?}",
                chunk.inner
            )));
        }
        let types: Vec<Dtype> = {
            let filled = || chunks.iter().filter(|c| c.rows > 0);
            let all = chunks.iter().filter(|c| c.rows > 0 || filled().next().is_none());
            all.flat_map(|c| c.cells.numbers()).map(|c| c.dtype).collect()
        };
        chunks.retain(|c| c.rows > 0);
        let first = types.first().copied().unwrap_or(Dtype::F64);
        let floating = matches!(first, Dtype::F64 | Dtype::F32 | Dtype::F16);
        let whole: Vec<bool> = chunks.iter().map(Rows::is_whole).collect();
        let stored = match types.iter().all(|d| *d == first) && (floating || whole.iter().all(|w| *w)) {
            true => first,
            false if Dtype::single(types.iter().copied()) => Dtype::F32,
            false => Dtype::F64,
        };
        let is_plain = |(chunk, whole): (&Rows, &bool)| match &chunk.cells {
            Cells::Along { numbers, starts: Starts::Every(_), .. } => {
                *whole && numbers.dtype == stored && numbers.address().is_some()
            }
            _ => false,
        };
        let plain = chunks.iter().zip(&whole).map(is_plain).collect();
        let mut firsts = vec![0];
        chunks.iter().for_each(|c| firsts.push(firsts[firsts.len() - 1] + c.rows));
        let lengths = std::iter::once(firsts[chunks.len()]).chain(inner).collect();
        Ok(Chunks { chunks, firsts, plain, lengths, stored, keep })
    }

    /// The chunk that holds a row.
    fn chunk_of(&self, row: usize) -> Option<usize> {
        (row < self.lengths[0]).then(|| self.firsts.partition_point(|first| *first <= row) - 1)
    }

    /// Elements of a row.
    fn width(&self) -> usize {
        self.lengths[1..].iter().product()
    }

    /// Rows as they lie, if they lie in one array.
    fn view<'py>(&self, py: Python<'py>, start: usize, stop: usize) -> Option<Array<'py>> {
        let i = self.chunk_of(start)?;
        let Cells::Along { numbers, .. } = &self.chunks[i].cells else { return None };
        if !self.plain[i] || stop > self.firsts[i + 1] {
            return None;
        }
        let size = self.stored.size();
        let data = numbers.address()?.wrapping_add((start - self.firsts[i]) * self.width() * size);
        let shape: Vec<usize> = std::iter::once(stop - start).chain(self.lengths[1..].iter().copied()).collect();
        let strides = c_order(&shape, size as isize);
        Some(Array::foreign(self.keep.bind(py).clone(), data, self.stored, shape, strides, Kind::Numpy))
    }

    /// Rows brought together in a new array.
    fn gathered<'py>(&self, py: Python<'py>, start: usize, stop: usize) -> PyResult<Array<'py>> {
        let (rows, width, size) = (stop - start, self.width(), self.stored.size());
        let shape: Vec<usize> = std::iter::once(rows).chain(self.lengths[1..].iter().copied()).collect();
        let across = matches!(self.chunks.first().map(|c| &c.cells), Some(Cells::Across(_)));
        // Columns stay columns, so that each is copied as it lies.
        let order: Vec<usize> = if across { shape.iter().rev().copied().collect() } else { shape.clone() };
        let target = Target::new(py, &Kind::Numpy, &order, self.stored)?;
        let data = target.data();
        for (i, chunk) in self.chunks.iter().enumerate() {
            let (from, to) = (start.max(self.firsts[i]), stop.min(self.firsts[i + 1]));
            if from >= to {
                continue;
            }
            let (first, count, done) = (from - self.firsts[i], to - from, from - start);
            match &chunk.cells {
                Cells::Across(columns) => {
                    for (c, numbers) in columns.iter().enumerate() {
                        // SAFETY: these are elements of the column, and the target has room for them.
                        unsafe { numbers.put(first, count, self.stored, data.wrapping_add((c * rows + done) * size)) };
                    }
                }
                Cells::Along { numbers, starts, present } => {
                    for row in first..first + count {
                        let to = data.wrapping_add((done + row - first) * width * size);
                        // SAFETY: as above; a row that is null has no elements, and the dtype then is a floating one.
                        unsafe {
                            match (present[row], starts) {
                                (true, Starts::Every(width)) => numbers.put(row * width, *width, self.stored, to),
                                (true, Starts::At(at)) => numbers.put(at[row], width, self.stored, to),
                                (false, _) => (0..width).for_each(|i| self.stored.store(f64::NAN, to.add(i * size))),
                            }
                        }
                    }
                }
            }
        }
        let strides = match across {
            true => vec![size as isize, (rows * size) as isize],
            false => c_order(&shape, size as isize),
        };
        Ok(Array::foreign(target.finish(py, None)?, data, self.stored, shape, strides, Kind::Numpy))
    }
}

/// The rows of all chunks, which `keep` keeps alive.
fn source<'py>(
    name: &str,
    py: Python<'py>,
    chunks: Vec<Rows>,
    keep: Bound<'py, PyAny>,
    kind: Kind<'py>,
) -> PyResult<Option<Source<'py>>> {
    let chunks = Chunks::new(name, chunks, keep.unbind())?;
    let rows = chunks.lengths[0];
    let whole = if rows == 0 { Some(chunks.gathered(py, 0, 0)?) } else { chunks.view(py, 0, rows) };
    if let Some(mut array) = whole {
        array.kind = kind;
        return Ok(Some(array.into()));
    }
    let blocks = Bound::new(py, chunks)?.into_any();
    Ok(Some(Source { rows: array::Rows::Pieces(Pieces::new(name, blocks, kind)?), frame: None }))
}

/// What the caller gets back: polars' series; of libraries that have no functions of numbers, an ndarray.
fn kind_of<'py>(obj: &Bound<'py, PyAny>) -> PyResult<Kind<'py>> {
    let module = obj.get_type().module()?.to_string();
    if module.split('.').next() == Some("polars") {
        let polars = obj.py().import(intern!(obj.py(), "polars"))?;
        return Ok(Kind::Other("polars".into(), polars.getattr(intern!(obj.py(), "Series"))?));
    }
    Ok(Kind::Numpy)
}

/// The structure in a capsule.
fn inside<T>(capsule: &Bound<'_, PyAny>, name: &CStr) -> PyResult<*mut T> {
    // SAFETY: a valid object and a name; anything but a capsule of this name gives null and an exception.
    let at = unsafe { ffi::PyCapsule_GetPointer(capsule.as_ptr(), name.as_ptr()) }.cast::<T>();
    if at.is_null() { Err(PyErr::fetch(capsule.py())) } else { Ok(at) }
}

/// An object with the methods of Arrow's capsules. pandas has them too, but its frames mostly are ndarrays within.
pub fn arrow<'py>(name: &str, obj: &Bound<'py, PyAny>) -> PyResult<Option<Source<'py>>> {
    if obj.get_type().module()?.to_string().split('.').next() == Some("pandas") {
        return Ok(None);
    }
    let mut chunks = Vec::new();
    // SAFETY: `imported` calls with a schema and a chunk of one array.
    let keep = imported(name, obj, &mut |schema, chunk| unsafe {
        chunks.push(match chunk {
            Some(chunk) => rows(name, schema, chunk)?,
            None => nothing(name, schema)?,
        });
        Ok(())
    })?;
    keep.map_or(Ok(None), |keep| source(name, obj.py(), chunks, keep, kind_of(obj)?))
}

/// Calls `see` with the schema and each chunk of an object that has the methods of Arrow's capsules, or without a chunk
/// where there is none. Gives what keeps the chunks alive; nothing for another object.
fn imported<'py>(
    name: &str,
    obj: &Bound<'py, PyAny>,
    see: &mut dyn FnMut(&Schema, Option<&Chunk>) -> PyResult<()>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = obj.py();
    if let Some(export) = obj.getattr_opt(intern!(py, "__arrow_c_array__"))? {
        let pair = export.call0()?.cast_into::<PyTuple>()?;
        let schema = inside::<Schema>(&pair.get_item(0)?, c"arrow_schema")?;
        let chunk = inside::<Chunk>(&pair.get_item(1)?, c"arrow_array")?;
        // SAFETY: the capsules own the structures, which describe one array, and release them when they die: the pair
        // keeps them.
        unsafe { see(&*schema, Some(&*chunk))? };
        return Ok(Some(pair.into_any()));
    }
    let Some(export) = obj.getattr_opt(intern!(py, "__arrow_c_stream__"))? else { return Ok(None) };
    let capsule = export.call0()?;
    let stream = inside::<Stream>(&capsule, c"arrow_array_stream")?;
    // SAFETY: the capsule owns the stream, and lives to the end of this function.
    let failed = |stream: *mut Stream| unsafe {
        let message = (*stream).last_error.map_or(ptr::null(), |last_error| last_error(stream));
        let message =
            if message.is_null() { "no reason given".into() } else { CStr::from_ptr(message).to_string_lossy() };
        PyOSError::new_err(format!("{name} cannot be read as an Arrow stream: {message}"))
    };
    // SAFETY: all-zero structures are ones that have been released, which the stream then fills; what it gives is
    // ours to release.
    unsafe {
        let mut schema = Owned(std::mem::zeroed::<Schema>());
        if (*stream).schema.is_none_or(|get| get(stream, &mut schema.0) != 0) {
            return Err(failed(stream));
        }
        let keep = PyList::empty(py);
        loop {
            let mut chunk = Owned(std::mem::zeroed::<Chunk>());
            if (*stream).next.is_none_or(|next| next(stream, &mut chunk.0) != 0) {
                return Err(failed(stream));
            }
            if chunk.0.release.is_none() {
                break;
            }
            see(&schema.0, Some(&chunk.0))?;
            keep.append(PyCapsule::new_with_value(py, chunk, c"kullback.chunk")?)?;
        }
        if keep.is_empty() {
            see(&schema.0, None)?;
        }
        Ok(Some(keep.into_any()))
    }
}

/// Numbers the distinct strings of a column as they come.
///
/// Parameters
/// ----------
/// column : object
///     A column of strings or bytes that has the methods of Arrow's capsules.
///
/// Returns
/// -------
/// codes : ndarray of int64
///     The number of each row; -1 for null.
/// firsts : ndarray of int64
///     The row in which each number first came.
#[pyfunction]
#[pyo3(signature = (column), text_signature = "(column)")]
pub fn number_strings<'py>(column: &Bound<'py, PyAny>) -> PyResult<[Bound<'py, PyArray1<i64>>; 2]> {
    let py = column.py();
    let mut chunks: Vec<Strings> = Vec::new();
    // SAFETY: `imported` calls with a schema and a chunk of one array.
    let keep = imported("column", column, &mut |schema, chunk| unsafe {
        let wide = match shown(schema).as_str() {
            "u" | "z" => false,
            "U" | "Z" => true,
            format => {
                return Err(PyTypeError::new_err(format!("column must hold strings, got Arrow's format {format:?}")));
            }
        };
        if !schema.dictionary.is_null() {
            return Err(PyTypeError::new_err("column must hold strings, got a dictionary (a categorical column)"));
        }
        chunks.extend(chunk.map(|chunk| Strings {
            rows: chunk.length as usize,
            offset: chunk.offset as usize,
            valid: validity(chunk),
            offsets: buffer(chunk, 1),
            wide,
            bytes: buffer(chunk, 2),
        }));
        Ok(())
    })?;
    if keep.is_none() {
        return Err(PyTypeError::new_err("column must have the methods of Arrow's capsules"));
    }
    let rows = chunks.iter().map(|c| c.rows).sum::<usize>();
    let numbered = detached(py, 10.0 * rows as f64, || {
        let mut numbering = Numbering::default();
        numbering.codes.reserve(rows);
        for chunk in &chunks {
            // SAFETY: these are the rows of the chunk, which `keep` keeps alive.
            (0..chunk.rows).for_each(|i| numbering.push(unsafe { chunk.get(i) }));
        }
        Ok((numbering.codes, numbering.firsts))
    });
    drop(keep);
    let (codes, firsts) = numbered?;
    Ok([codes, firsts].map(|numbers| PyArray1::from_vec(py, numbers)))
}

/// A chunk of strings.
struct Strings {
    rows: usize,
    offset: usize,
    valid: Bits,
    offsets: *const u8,
    /// Whether offsets are of 64 bits.
    wide: bool,
    bytes: *const u8,
}

// SAFETY: the memory behind the pointers is Arrow's, which nobody writes to.
unsafe impl Sync for Strings {}

impl Strings {
    /// A string; none if it is null.
    ///
    /// # Safety
    /// There must be such a row, and its chunk must outlive what is returned.
    #[inline]
    unsafe fn get<'a>(&self, i: usize) -> Option<&'a [u8]> {
        // SAFETY: as the caller vouches: an offset more than there are rows, and the bytes between two of them.
        unsafe {
            if !self.valid.get(self.offset + i) {
                return None;
            }
            let at = |i: usize| match self.wide {
                false => self.offsets.cast::<i32>().add(self.offset + i).read_unaligned() as usize,
                true => self.offsets.cast::<i64>().add(self.offset + i).read_unaligned() as usize,
            };
            let (start, stop) = (at(i), at(i + 1));
            Some(if start == stop { &[] } else { std::slice::from_raw_parts(self.bytes.add(start), stop - start) })
        }
    }
}

/// No rows of a type.
///
/// # Safety
/// The schema must not have been released.
unsafe fn nothing(name: &str, schema: &Schema) -> PyResult<Rows> {
    let mut leaf = schema;
    let mut inner = Vec::new();
    // SAFETY: as the caller vouches; lists and structures have children.
    unsafe {
        while shown(leaf).starts_with('+') {
            let format = shown(leaf);
            match format.strip_prefix("+w:").and_then(|n| n.parse().ok()) {
                Some(width) => inner.push(width),
                None if format == "+s" && leaf.n_children != 1 => {
                    inner.push(leaf.n_children as usize);
                    if leaf.n_children == 0 {
                        let none = Numbers { dtype: Dtype::F64, data: ptr::null(), valid: Bits(ptr::null()), first: 0 };
                        let cells = Cells::Along { numbers: none, starts: Starts::Every(0), present: vec![] };
                        return Ok(Rows { rows: 0, inner, cells });
                    }
                }
                None if format == "+s" => {
                    if !shown(&**leaf.children).starts_with('+') {
                        inner.push(1);
                    }
                }
                None => inner.push(0),
            }
            leaf = &**leaf.children;
        }
    }
    let numbers = Numbers { dtype: dtype_of(name, leaf)?, data: ptr::null(), valid: Bits(ptr::null()), first: 0 };
    Ok(Rows { rows: 0, inner, cells: Cells::Along { numbers, starts: Starts::Every(1), present: vec![] } })
}

const _: () = assert!(size_of::<Schema>() == 72 && size_of::<Chunk>() == 80 && size_of::<Stream>() == 40);
