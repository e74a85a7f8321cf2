//! Where the elements of a row come from: native memory as it stands, or scratch that everything else is staged in.
//!
//! Memory is read by value through raw pointers, never through references, because Python may write to it meanwhile;
//! addresses need no alignment.

use std::mem::MaybeUninit;

use super::{AHEAD, BATCH, BLOCK, Offsets, SHORT};
use crate::math::Math;
use crate::simd::*;

/// What an element of an input is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
}

impl Dtype {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 | Dtype::U64 => 8,
            Dtype::F32 | Dtype::I32 | Dtype::U32 => 4,
            Dtype::F16 | Dtype::Bf16 | Dtype::I16 | Dtype::U16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
        }
    }

    /// Whether elements are floating numbers.
    pub fn is_floating(self) -> bool {
        matches!(self, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16)
    }

    /// Distance from 1 to the next number, for floating dtypes.
    pub fn epsilon(self) -> f64 {
        match self {
            Dtype::F32 => f64::from(f32::EPSILON),
            Dtype::F16 => 1.0 / 1024.0,
            Dtype::Bf16 => 1.0 / 128.0,
            _ => f64::EPSILON,
        }
    }

    /// Whether results and kernels of these inputs are `f32`: NumPy's promotion, with `f32` for the half precisions and
    /// `f64` where nothing is floating.
    pub fn single(dtypes: impl Iterator<Item = Dtype> + Clone) -> bool {
        let floating = dtypes.clone().any(|d| matches!(d, Dtype::F32 | Dtype::F16 | Dtype::Bf16));
        let brain = dtypes.clone().any(|d| d == Dtype::Bf16);
        let fits = |d: Dtype| match d {
            Dtype::F32 | Dtype::F16 | Dtype::Bf16 => true,
            d => d.size() == 1 || (d.size() == 2 && !brain),
        };
        floating && dtypes.clone().all(fits)
    }

    /// The number stored at an address.
    ///
    /// # Safety
    /// Its bytes must be readable.
    #[inline]
    pub unsafe fn number(self, at: *const u8, swapped: bool) -> f64 {
        // SAFETY: as the caller vouches.
        unsafe {
            match self {
                Dtype::F64 => f64::read(at, swapped),
                Dtype::F32 => f32::read(at, swapped),
                Dtype::F16 => F16::read(at, swapped),
                Dtype::Bf16 => Bf16::read(at, swapped),
                Dtype::Bool => Bool::read(at, swapped),
                integer => integer.integer(at, swapped) as f64,
            }
        }
    }

    /// The integer stored at an address; 0 for other dtypes.
    ///
    /// # Safety
    /// Its bytes must be readable.
    #[inline]
    pub unsafe fn integer(self, at: *const u8, swapped: bool) -> i128 {
        macro_rules! read {
            ($t:ty) => {{
                // SAFETY: as the caller vouches.
                let x = unsafe { at.cast::<$t>().read_unaligned() };
                i128::from(if swapped { x.swap_bytes() } else { x })
            }};
        }
        match self {
            Dtype::I8 => read!(i8),
            Dtype::I16 => read!(i16),
            Dtype::I32 => read!(i32),
            Dtype::I64 => read!(i64),
            Dtype::U8 => read!(u8),
            Dtype::U16 => read!(u16),
            Dtype::U32 => read!(u32),
            Dtype::U64 => read!(u64),
            _ => 0,
        }
    }

    /// Stores a number, rounded once; for floating dtypes.
    ///
    /// # Safety
    /// The bytes of the number must be writable.
    pub unsafe fn store(self, x: f64, at: *mut u8) {
        // SAFETY: as the caller vouches.
        unsafe {
            match self {
                Dtype::F32 => at.cast::<f32>().write_unaligned(x as f32),
                Dtype::F16 => at.cast::<u16>().write_unaligned(half::f16::from_f32(to_odd(x)).to_bits()),
                Dtype::Bf16 => at.cast::<u16>().write_unaligned(half::bf16::from_f32(to_odd(x)).to_bits()),
                _ => at.cast::<f64>().write_unaligned(x),
            }
        }
    }

    /// That of elements `E`.
    pub(crate) fn of<E: Element>() -> Self {
        if E::LANES == 16 { Dtype::F32 } else { Dtype::F64 }
    }

    /// Whether `E` is this dtype.
    pub(super) fn is<E: Element>(self) -> bool {
        self == Self::of::<E>()
    }
}

/// The `f32` next to x whose last bit says whether there was more: rounding it again is rounding x once.
fn to_odd(x: f64) -> f32 {
    let y = x as f32;
    let (wide, bits) = (f64::from(y), y.to_bits());
    if wide == x || !wide.is_finite() || bits & 1 == 1 {
        return y;
    }
    f32::from_bits(if wide.abs() < x.abs() { bits + 1 } else { bits - 1 })
}

/// Which classes count: one byte each, 0 for those that do not.
#[derive(Clone, Copy)]
pub struct Mask<'a> {
    /// The first byte.
    pub data: *const u8,
    /// Bytes from class to class.
    pub class_stride: isize,
    /// Bytes from row to row along each leading axis.
    pub lead: &'a [isize],
    /// What an excluded class reads as: 0 among masses, −∞ among logarithms.
    pub absent: f64,
}

/// What is done to an element while it is staged.
#[derive(Clone, Copy, PartialEq)]
pub enum Map {
    /// Nothing.
    Keep,
    /// A mass becomes its logarithm.
    Ln,
    /// A mass is divided by a power of two.
    Shrink(f64),
    /// The sign is changed.
    Negate,
    /// A logit less the row's first is divided by a temperature: near a common offset, the difference is exact.
    Divide(f64),
    /// A logit less this origin is divided by a temperature; a finite one stays finite.
    Centre(f64, f64),
}

/// One input of a measure.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The first element.
    pub data: *const u8,
    /// How elements are stored.
    pub dtype: Dtype,
    /// Whether they are stored in the other byte order.
    pub swapped: bool,
    /// Bytes from class to class.
    pub class_stride: isize,
    /// Bytes from row to row along each leading axis; 0 repeats a row.
    pub lead: &'a [isize],
    /// Where it is the rows of one batch that lie one after the other instead: bytes from one to the next.
    pub packed: Option<isize>,
    /// Which classes count.
    pub mask: Option<Mask<'a>>,
    /// What is done to the elements.
    pub map: Map,
}

/// The leading axes, in C order.
#[derive(Clone, Copy)]
pub struct Lead<'a> {
    /// Lengths, of which adjacent ones should have been collapsed where all strides allow it.
    pub shape: &'a [usize],
}

impl Lead<'_> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.shape.iter().product()
    }

    /// Byte offset of a row.
    #[inline(always)]
    pub fn offset(&self, strides: &[isize], row: usize) -> isize {
        match strides {
            [] => 0,
            [stride] => row as isize * stride,
            _ => {
                let (mut rest, mut at) = (row, 0);
                for (n, stride) in self.shape.iter().zip(strides).rev() {
                    at += (rest % n) as isize * stride;
                    rest /= n;
                }
                at
            }
        }
    }

    /// The common difference of the offsets of rows, ascending, where they are consecutive on one axis or all the same.
    #[inline(always)]
    pub(crate) fn step(&self, strides: &[isize], which: &[usize]) -> Option<isize> {
        match (strides, which) {
            ([], _) | (_, []) => Some(0),
            ([stride], [first, .., last]) if last - first == which.len() - 1 => Some(*stride),
            ([stride], [_]) => Some(*stride),
            _ => strides.iter().all(|s| *s == 0).then_some(0),
        }
    }
}

/// `LANES` rows, class by class.
#[derive(Clone, Copy)]
pub(crate) struct Tile<E> {
    base: *const u8,
    stride: isize,
    element: std::marker::PhantomData<E>,
}

impl<E> Tile<E> {
    /// Vectors this many bytes apart.
    #[inline(always)]
    pub(crate) fn new(base: *const E, stride: isize) -> Self {
        Tile { base: base.cast(), stride, element: std::marker::PhantomData }
    }

    /// Those from the i-th on.
    #[inline(always)]
    pub(crate) fn from(self, i: usize) -> Self {
        Tile::new(self.class(i), self.stride)
    }

    /// Those that begin `n` elements further on, unless it is one vector that is repeated.
    #[inline(always)]
    pub(crate) fn shifted(self, n: usize) -> Self {
        let base: *const E = self.base.cast();
        if self.is_repeated() { self } else { Tile::new(base.wrapping_add(n), self.stride) }
    }

    /// Bytes from one vector to the next.
    #[inline(always)]
    pub(crate) fn stride(&self) -> isize {
        self.stride
    }

    /// Whether it is one vector for all classes.
    #[inline(always)]
    pub(crate) fn is_repeated(&self) -> bool {
        self.stride == 0
    }

    /// Where class `i` of the rows is.
    #[inline(always)]
    pub(crate) fn class(&self, i: usize) -> *const E {
        self.base.wrapping_offset(i as isize * self.stride).cast()
    }
}

/// Room for a staged block of one row, or a staged tile of short rows, of each input. On lines of the cache: a vector
/// that straddles two takes twice as long.
#[repr(align(64))]
pub(crate) struct Scratch<E, const I: usize> {
    pub(crate) tile: [[MaybeUninit<E>; BLOCK]; I],
    rows: [MaybeUninit<E>; BLOCK],
}

const _: () = assert!(SHORT * 16 <= BLOCK, "a tile of short rows fits the scratch of a block");

impl<E: Element, const I: usize> Scratch<E, I> {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Scratch { tile: [[const { MaybeUninit::uninit() }; BLOCK]; I], rows: [const { MaybeUninit::uninit() }; BLOCK] }
    }

    /// The tile of input `i`, and room for its rows.
    #[inline(always)]
    pub(crate) fn split(&mut self, i: usize) -> (&mut [MaybeUninit<E>; BLOCK], &mut [MaybeUninit<E>; BLOCK]) {
        (&mut self.tile[i], &mut self.rows)
    }
}

impl Input<'_> {
    /// Element `column` of the row at an offset, as it is stored.
    ///
    /// # Safety
    /// The row must have this element.
    #[inline]
    pub unsafe fn element(&self, offset: isize, column: usize) -> f64 {
        let at = self.data.wrapping_offset(offset + column as isize * self.class_stride);
        // SAFETY: as the caller vouches.
        unsafe { self.dtype.number(at, self.swapped) }
    }

    /// The same of the row at these offsets in the input and in its mask; no mass where the class is excluded.
    ///
    /// # Safety
    /// The row must have this class.
    #[inline]
    pub(crate) unsafe fn class(&self, (row, mask): (isize, isize), column: usize) -> f64 {
        // SAFETY: as the caller vouches; the mask has a byte for every class of every row.
        unsafe {
            match self.mask {
                Some(m) if m.data.offset(mask + column as isize * m.class_stride).read() == 0 => m.absent,
                _ => self.element(row, column),
            }
        }
    }

    /// What [`Map::Divide`] subtracts from the elements of the row at an offset.
    ///
    /// # Safety
    /// The row must have an element.
    pub unsafe fn origin(&self, offset: isize) -> f64 {
        // SAFETY: as the caller vouches.
        let first = unsafe { self.element(offset, 0) };
        if first.is_finite() { first } else { 0.0 }
    }

    /// Whether elements are `E` as they stand.
    #[inline(always)]
    fn is_native<E: Element>(&self) -> bool {
        self.dtype.is::<E>() && !self.swapped && self.mask.is_none() && self.map == Map::Keep
    }

    /// Whether neighbouring rows are neighbours in memory, so that a vector across rows is one load.
    pub(crate) fn is_columns<E: Element>(&self, lead: &Lead<'_>) -> bool {
        let step = match self.packed {
            None if lead.shape.len() == 1 => Some(self.lead[0]),
            packed => packed,
        };
        self.is_native::<E>() && step == Some(size_of::<E>() as isize)
    }

    /// Whether the classes of a row are neighbours in memory, so that a vector along it is one load.
    pub(crate) fn is_run<E: Element>(&self) -> bool {
        self.is_native::<E>() && self.class_stride == size_of::<E>() as isize
    }

    /// `n` classes from `start` of the row at `offset`: where they are, or a copy of them in `scratch`, which has room.
    #[inline(always)]
    pub(crate) fn block<S: Simd, E: Math>(
        &self,
        s: S,
        offset: (isize, isize),
        start: usize,
        n: usize,
        scratch: &mut [MaybeUninit<E>],
    ) -> *const E {
        if self.is_run::<E>() || (n <= 1 && self.is_native::<E>()) {
            return self.data.wrapping_offset(offset.0 + start as isize * self.class_stride).cast();
        }
        assert!(n <= scratch.len());
        // SAFETY: the row has classes start … start + n − 1, and the scratch room for n.
        unsafe { stage(s.level(), self, offset, start, n, scratch.as_mut_ptr().cast::<E>()) };
        scratch.as_ptr().cast()
    }

    /// A tile of the rows `first … first + count − 1` of a batch, `count ≤ LANES`; missing rows repeat the last one.
    #[inline(always)]
    pub(crate) fn tile<S: Simd, E: Math>(
        &self,
        s: S,
        offsets: &Offsets,
        lead: super::Lead<'_>,
        which: &[usize],
        first: usize,
        count: usize,
        classes: usize,
        tile: &mut [MaybeUninit<E>; BLOCK],
        rows: &mut [MaybeUninit<E>; BLOCK],
    ) -> Tile<E> {
        let (lanes, size) = (E::LANES, size_of::<E>() as isize);
        let native = self.is_native::<E>();
        let at = |k: usize| offsets.get(first + k.min(count - 1));
        if native && count == lanes && offsets.step == Some(size) {
            let base = self.data.wrapping_offset(at(0).0);
            for i in 0..if classes <= SHORT { classes } else { 0 } {
                // The next batch of rows of this class.
                prefetch(base.wrapping_offset(i as isize * self.class_stride).wrapping_add(BATCH * size as usize));
            }
            return Tile { base, stride: self.class_stride, element: std::marker::PhantomData };
        }
        let out: *mut E = tile.as_mut_ptr().cast();
        let staged =
            Tile { base: out.cast_const().cast(), stride: lanes as isize * size, element: std::marker::PhantomData };
        let contiguous = self.is_run::<E>();
        if native && offsets.step == Some(0) {
            for i in 0..classes {
                // SAFETY: class i of the row is readable, and i < SHORT keeps the store inside the tile.
                unsafe {
                    let from = self.data.wrapping_offset(at(0).0 + i as isize * self.class_stride).cast::<E>();
                    store::<S, E>(V::<S, E>::splat(s, from.read_unaligned()), out.add(lanes * i));
                }
            }
            return staged;
        }
        let by_row = self.mask.is_some() || matches!(self.map, Map::Divide(_));
        if !contiguous && count == lanes && !by_row && offsets.step == Some(self.dtype.size() as isize) {
            // Columns of another dtype: a class of LANES rows is a run. A mask or an origin belongs to one row.
            let run = Input { class_stride: self.dtype.size() as isize, ..*self };
            for i in 0..classes {
                let from = at(0).0 + i as isize * self.class_stride;
                // SAFETY: the run is class i of LANES rows, each readable, and i < SHORT keeps it inside the tile.
                unsafe { stage(s.level(), &run, (from, 0), 0, lanes, out.add(lanes * i)) };
            }
            return staged;
        }
        let mut from: [*const E; 16] = [self.data.cast(); 16];
        let mut whole = false;
        if contiguous {
            let (base, step) = (at(0).0, offsets.step);
            for (k, from) in from.iter_mut().enumerate().take(lanes) {
                let offset = match step {
                    Some(step) => base + k.min(count - 1) as isize * step,
                    None => at(k).0,
                };
                *from = self.data.wrapping_offset(offset).cast();
                // The same row of the next tile.
                let next = from.wrapping_byte_offset(lanes as isize * step.unwrap_or(0));
                (0..classes).step_by(64 / size_of::<E>()).for_each(|i| prefetch(next.wrapping_add(i)));
            }
            // Where rows follow each other without a gap, a load past the end of a row reads the rows after it.
            whole = offsets.step == Some(classes as isize * size)
                && self.packed.is_none()
                && lead.shape.len() == 1
                && (lead.shape[0] - which[first + count - 1]) * classes >= lanes;
        } else {
            for k in 0..count {
                // SAFETY: the row has `classes` ≤ SHORT classes, of which LANES rows fit the scratch.
                unsafe { stage(s.level(), self, at(k), 0, classes, rows.as_mut_ptr().cast::<E>().add(k * classes)) };
            }
            for (k, from) in from.iter_mut().enumerate().take(lanes) {
                *from = rows.as_ptr().cast::<E>().wrapping_add(k.min(count - 1) * classes);
            }
        }
        // SAFETY: every pointer has `classes` readable elements, LANES if `whole`; the tile has room for SHORT classes.
        unsafe { transpose(s, &from, classes, whole, out) };
        staged
    }
}

/// `LANES` vectors transposed.
#[inline(always)]
pub(super) fn square<S: Simd, E: Element>(r: [V<S, E>; 16]) -> [V<S, E>; 16] {
    // log2 LANES steps, written out: a loop over them was left as one, in memory.
    let r = interleave::<S, E>(interleave::<S, E>(interleave::<S, E>(r)));
    if E::LANES == 16 { interleave::<S, E>(r) } else { r }
}

/// The first half of `LANES` vectors interleaved with the second.
#[inline(always)]
fn interleave<S: Simd, E: Element>(r: [V<S, E>; 16]) -> [V<S, E>; 16] {
    let half = E::LANES / 2;
    array(|k| {
        let (a, b) = (r[k / 2 % half], r[k / 2 % half + half]);
        if k % 2 == 0 { a.zip_low(b) } else { a.zip_high(b) }
    })
}

/// Writes `LANES` rows of `classes` elements class by class.
///
/// # Safety
/// Each of the first `LANES` pointers has `classes` readable elements, and `LANES` if `whole`; `out` has room for
/// `LANES · classes`.
#[inline(always)]
unsafe fn transpose<S: Simd, E: Element>(s: S, from: &[*const E; 16], classes: usize, whole: bool, out: *mut E) {
    let lanes = E::LANES;
    let mut start = 0;
    while start < classes {
        // The last columns overlap those before rather than fall short.
        let (first, n) = if start + lanes <= classes || classes < lanes {
            (start, (classes - start).min(lanes))
        } else {
            (classes - lanes, lanes)
        };
        let mut short;
        let mut at = from.map(|from| from.wrapping_add(first));
        if n < lanes && !whole {
            short = [[E::ZERO; 16]; 16];
            for (at, short) in at.iter_mut().zip(&mut short).take(lanes) {
                // SAFETY: elements first … first + n − 1 of the row are readable, and n < 16.
                unsafe { at.copy_to_nonoverlapping(short.as_mut_ptr(), n) };
                *at = short.as_ptr();
            }
        }
        // One plain load for every row: a choice in this loop was compiled to element-wise copies. SAFETY: LANES elements
        // from here are readable if n = LANES or `whole`, and else have been copied to `short`.
        let r = square::<S, E>(array(|k| unsafe { load(s, at[if k < lanes { k } else { 0 }]) }));
        for (k, r) in r.iter().enumerate().take(n) {
            // SAFETY: class first + k < classes has room for LANES elements.
            unsafe { store::<S, E>(*r, out.add(lanes * (first + k))) };
        }
        start += lanes;
    }
}

/// Copies `n` classes of a row to `out` as elements, masked and mapped.
///
/// # Safety
/// Classes `start … start + n − 1` of the row at the offset are readable (in the mask too); `out` has room for `n`.
#[inline(never)]
unsafe fn stage<E: Math>(level: Level, input: &Input<'_>, offset: (isize, isize), start: usize, n: usize, out: *mut E) {
    // SAFETY: as the caller vouches.
    dispatch!(level, s => unsafe { stage_at(s, input, offset, start, n, out) });
}

#[inline(always)]
unsafe fn stage_at<S: Simd, E: Math>(
    s: S,
    input: &Input<'_>,
    offset: (isize, isize),
    start: usize,
    n: usize,
    out: *mut E,
) {
    let from = input.data.wrapping_offset(offset.0 + start as isize * input.class_stride);
    let (stride, swapped) = (input.class_stride, input.swapped);
    // SAFETY: as the caller vouches: n elements at the stride are readable and n are writable.
    unsafe {
        match input.dtype {
            Dtype::F64 => convert::<f64, E>(from, stride, swapped, n, out),
            Dtype::F32 => convert::<f32, E>(from, stride, swapped, n, out),
            Dtype::F16 => convert::<F16, E>(from, stride, swapped, n, out),
            Dtype::Bf16 if E::LANES == 16 && stride == 2 && !swapped && LITTLE => widen_bf16(s, from, n, out.cast()),
            Dtype::Bf16 => convert::<Bf16, E>(from, stride, swapped, n, out),
            Dtype::I8 => convert::<i8, E>(from, stride, swapped, n, out),
            Dtype::I16 => convert::<i16, E>(from, stride, swapped, n, out),
            Dtype::I32 => convert::<i32, E>(from, stride, swapped, n, out),
            Dtype::I64 => convert::<i64, E>(from, stride, swapped, n, out),
            Dtype::U8 => convert::<u8, E>(from, stride, swapped, n, out),
            Dtype::U16 => convert::<u16, E>(from, stride, swapped, n, out),
            Dtype::U32 => convert::<u32, E>(from, stride, swapped, n, out),
            Dtype::U64 => convert::<u64, E>(from, stride, swapped, n, out),
            Dtype::Bool => convert::<Bool, E>(from, stride, swapped, n, out),
        }
    }
    // SAFETY: `convert` has written these n elements, and nothing else refers to them.
    let out = unsafe { std::slice::from_raw_parts_mut(out, n) };
    if let Some(mask) = input.mask {
        let from = mask.data.wrapping_offset(offset.1 + start as isize * mask.class_stride);
        for (i, x) in out.iter_mut().enumerate() {
            // SAFETY: as the caller vouches, the mask has a byte for each of these classes.
            if unsafe { from.offset(i as isize * mask.class_stride).read() } == 0 {
                *x = E::from_f64(mask.absent);
            }
        }
    }
    match input.map {
        Map::Keep => {}
        Map::Negate => out.iter_mut().for_each(|x| *x = E::from_f64(-x.to_f64())),
        Map::Shrink(by) => out.iter_mut().for_each(|x| *x = E::from_f64(x.to_f64() / by)),
        Map::Divide(t) => {
            // SAFETY: the row has a first class, as n > 0 classes are read of it.
            let origin = if n > 0 { unsafe { input.origin(offset.0) } } else { 0.0 };
            out.iter_mut().for_each(|x| *x = E::from_f64((x.to_f64() - origin) / t));
        }
        Map::Centre(origin, t) => {
            for x in out.iter_mut().filter(|x| x.to_f64() != f64::NEG_INFINITY) {
                *x = E::from_f64(((x.to_f64() - origin) / t).clamp(f64::MIN, f64::MAX));
            }
        }
        Map::Ln => {
            for chunk in out.chunks_mut(E::LANES) {
                let v = V::<S, E>::from_fn(s, |i| *chunk.get(i).unwrap_or(&chunk[0]));
                let ln = E::ln(s, v);
                for (i, x) in chunk.iter_mut().enumerate() {
                    *x = ln[i];
                }
            }
        }
    }
}

/// A stored number that an `f64` holds, exactly or (64-bit integers) rounded.
trait Scalar: Copy {
    /// Bytes of the number.
    const SIZE: isize;
    /// Reads the number at an address, in the other byte order if `swapped`.
    ///
    /// # Safety
    /// The bytes of the number must be readable.
    unsafe fn read(from: *const u8, swapped: bool) -> f64;
}

macro_rules! scalar {
    ($($t:ty, $bits:ty, $get:expr;)*) => { $(
        impl Scalar for $t {
            const SIZE: isize = size_of::<$bits>() as isize;
            #[inline(always)]
            unsafe fn read(from: *const u8, swapped: bool) -> f64 {
                // SAFETY: as the caller vouches.
                let bits = unsafe { from.cast::<$bits>().read_unaligned() };
                let get: fn($bits) -> f64 = $get;
                get(if swapped { bits.swap_bytes() } else { bits })
            }
        }
    )* };
}

#[derive(Clone, Copy)]
struct F16;
#[derive(Clone, Copy)]
struct Bf16;
#[derive(Clone, Copy)]
struct Bool;

scalar! {
    f64, u64, f64::from_bits;
    f32, u32, |b| f64::from(f32::from_bits(b));
    F16, u16, |b| f64::from(widen_f16(b));
    Bf16, u16, |b| f64::from(f32::from_bits(u32::from(b) << 16));
    i8, i8, f64::from;
    i16, i16, f64::from;
    i32, i32, f64::from;
    i64, i64, |b| b as f64;
    u8, u8, f64::from;
    u16, u16, f64::from;
    u32, u32, f64::from;
    u64, u64, |b| b as f64;
    Bool, u8, |b| f64::from(u8::from(b != 0));
}

/// The half-precision number with these bits. Branch-free, so that a loop of it becomes vector code on every level.
#[inline(always)]
fn widen_f16(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    // The exponent field is 112 short of f32's; multiplying by 2^112 is exact and makes subnormals normal.
    let value = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let infinite = if magnitude >= 0x0f80_0000 { 0x7f80_0000 | magnitude } else { 0 };
    f32::from_bits(value.to_bits() | infinite | (u32::from(bits & 0x8000) << 16))
}

/// Whether the first of two halves is the lower part of their word.
const LITTLE: bool = cfg!(target_endian = "little");

/// Numbers that are widened together: a line of the cache of those of 16 bits.
const LINE: usize = 32;

/// # Safety
/// `n` numbers at the stride are readable, `n` elements writable at `out`.
#[inline(always)]
unsafe fn convert<T: Scalar, E: Element>(from: *const u8, stride: isize, swapped: bool, n: usize, out: *mut E) {
    if stride == T::SIZE && !swapped {
        // SAFETY: as the caller vouches, of element i < n.
        let one =
            |i: usize| unsafe { out.add(i).write(E::from_f64(T::read(from.offset(i as isize * T::SIZE), false))) };
        // So many steps, a number that is known, become vector code without a loop.
        let mut start = 0;
        while start + LINE <= n {
            prefetch(from.wrapping_offset(start as isize * T::SIZE + AHEAD as isize));
            (start..start + LINE).for_each(one);
            start += LINE;
        }
        (start..n).for_each(one);
    } else {
        for i in 0..n {
            // SAFETY: as the caller vouches.
            unsafe { out.add(i).write(E::from_f64(T::read(from.offset(i as isize * stride), swapped))) };
        }
    }
}

/// [`convert`] of bfloat16 to `f32`, which the compiler left in pieces: two of them are a word of 32 bits.
///
/// # Safety
/// `n` numbers are readable, `n` elements writable at `out`.
#[inline(always)]
unsafe fn widen_bf16<S: Simd>(s: S, from: *const u8, n: usize, out: *mut f32) {
    let mut start = 0;
    while start + LINE <= n {
        let at = from.wrapping_add(2 * start);
        prefetch(at.wrapping_add(AHEAD));
        // SAFETY: these 32 numbers are readable, as 16 words.
        let words = unsafe { load::<S, f32>(s, at.cast()) }.bitcast::<i32x16<S>>();
        let (even, odd): (V<S, f32>, V<S, f32>) =
            ((words << 16).bitcast(), (words & i32x16::splat(s, 0xffff_0000_u32 as i32)).bitcast());
        // SAFETY: and these 32 elements writable.
        unsafe {
            store::<S, f32>(even.zip_low(odd), out.add(start));
            store::<S, f32>(even.zip_high(odd), out.add(start + 16));
        }
        start += LINE;
    }
    // SAFETY: as the caller vouches.
    unsafe { convert::<Bf16, f32>(from.add(2 * start), 2, false, n - start, out.add(start)) };
}

#[cfg(test)]
mod tests {
    use super::{Dtype, widen_f16};

    #[test]
    fn halves_are_rounded_once() {
        let stored = |dtype: Dtype, x: f64| {
            let mut bits = 0u16;
            // SAFETY: two bytes are writable.
            unsafe { dtype.store(x, (&raw mut bits).cast()) };
            bits
        };
        let tiny = 2f64.powi(-40);
        for (x, f16, bf16) in [
            (1.0 + 2f64.powi(-11), 1.0, 1.0),
            (1.0 + 2f64.powi(-11) + tiny, 1.0 + 2f64.powi(-10), 1.0),
            (1.0 + 2f64.powi(-8) + tiny, 1.0 + 2f64.powi(-8), 1.0 + 2f64.powi(-7)),
            (1.0 + 3.0 * 2f64.powi(-8) - tiny, 1.0 + 3.0 * 2f64.powi(-8), 1.0 + 2f64.powi(-7)),
        ] {
            assert_eq!(stored(Dtype::F16, x), half::f16::from_f64(f16).to_bits(), "{x}");
            assert_eq!(stored(Dtype::Bf16, x), half::bf16::from_f64(bf16).to_bits(), "{x}");
            assert_eq!(stored(Dtype::Bf16, -x), half::bf16::from_f64(-bf16).to_bits(), "{x}");
        }
    }

    #[test]
    fn every_half_widens_exactly() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (widen_f16(bits), half::f16::from_bits(bits).to_f32());
            assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()), "{bits:#06x}: {ours} {theirs}");
        }
    }
}
