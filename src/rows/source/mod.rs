//! Where the elements of a row come from: native memory as it stands, or scratch that everything else is staged in.
//!
//! Memory is read by value through raw pointers, never through references, because Python may write to it meanwhile;
//! addresses need no alignment.

pub(crate) mod dtype;
mod stage;
mod tile;
mod transpose;

pub use dtype::Dtype;
pub(crate) use tile::{Scratch, Tile};
pub(crate) use transpose::to_rows;

use std::mem::MaybeUninit;

use super::{BATCH, SHORT};
use crate::math::Math;
use crate::simd::*;
use stage::stage;

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

impl Mask<'_> {
    /// Whether a class of the row at an offset does not count.
    ///
    /// # Safety
    /// The row must have this class.
    #[inline(always)]
    pub(crate) unsafe fn excludes(&self, offset: isize, class: usize) -> bool {
        // SAFETY: as the caller vouches; the mask has a byte for every class of every row.
        unsafe { self.data.offset(offset + class as isize * self.class_stride).read() == 0 }
    }
}

/// What is done to an element while it is staged.
#[derive(Clone, Copy, PartialEq)]
pub enum Map {
    /// Nothing.
    Keep,
    /// A mass over a power of two becomes its logarithm: so that of the largest, for one, is near 0 and keeps its digits.
    Ln(f64),
    /// A mass (or a logit) is divided by a power of two; what is not a normal number then is 0.
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

    /// Whether the last axis is long enough for batches to end with it, so that all their rows are neighbours. Rows of few
    /// classes of shorter ones are rather gathered than that half the lanes of every other vector are empty.
    pub(crate) fn is_long(&self, classes: usize) -> bool {
        let least = if classes > SHORT { 16 } else { BATCH / 2 };
        self.shape.len() == 1 || self.shape.last().is_some_and(|n| *n >= least)
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

    /// The common difference of the offsets of rows, ascending, where they are consecutive, and on the last axis or in memory
    /// without a gap between axes; or where all are the same.
    #[inline(always)]
    pub(crate) fn step(&self, strides: &[isize], which: &[usize]) -> Option<isize> {
        let ([first, ..], [.., last]) = (which, which) else { return Some(0) };
        let (Some(n), Some(stride)) = (self.shape.last(), strides.last()) else { return Some(0) };
        let even = || self.shape.windows(2).zip(strides.windows(2)).all(|(n, s)| s[0] == s[1] * n[1] as isize);
        let near = || strides.len() == 1 || first % n + which.len() <= *n;
        let run = last - first == which.len() - 1 && (near() || even());
        if run { Some(*stride) } else { strides.iter().all(|s| *s == 0).then_some(0) }
    }

    /// Calls `see` with the place and the offset of each of some rows: where they are neighbours without a division.
    #[inline(always)]
    pub(crate) fn offsets(&self, strides: &[isize], which: &[usize], mut see: impl FnMut(usize, isize)) {
        let (n, stride) = (self.shape.last().map_or(1, |n| *n), strides.last().map_or(0, |s| *s));
        // The row that is next on the last axis, where there is one, and its offset.
        let (mut next, mut at, mut left) = (usize::MAX, 0, 0);
        for (k, row) in which.iter().enumerate() {
            if *row != next || left == 0 {
                (at, left) = (self.offset(strides, *row), n - row % n);
            }
            see(k, at);
            (next, at, left) = (row + 1, at + stride, left - 1);
        }
    }
}

impl Input<'_> {
    /// Element `column` of the row at an offset, as it is stored.
    ///
    /// # Safety
    /// The row must have this element.
    #[inline]
    pub unsafe fn element(&self, offset: isize, column: usize) -> f64 {
        // SAFETY: as the caller vouches.
        unsafe { self.dtype.number(self.at(offset, column), self.swapped) }
    }

    /// Where element `column` of the row at an offset is.
    #[inline]
    pub(crate) fn at(&self, offset: isize, column: usize) -> *const u8 {
        self.data.wrapping_offset(offset + column as isize * self.class_stride)
    }

    /// The same of the row at these offsets in the input and in its mask; no mass where the class is excluded.
    ///
    /// # Safety
    /// The row must have this class.
    #[inline]
    pub(crate) unsafe fn class(&self, (row, mask): (isize, isize), column: usize) -> f64 {
        // SAFETY: as the caller vouches.
        unsafe {
            match self.mask {
                Some(m) if m.excludes(mask, column) => m.absent,
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
    pub(crate) fn is_native<E: Element>(&self) -> bool {
        self.dtype.is::<E>() && !self.swapped && self.mask.is_none() && self.map == Map::Keep
    }

    /// Whether neighbouring rows are neighbours in memory, so that a vector across rows is one load.
    pub(crate) fn is_columns(&self, lead: &Lead<'_>, classes: usize) -> bool {
        let step = self.packed.or(self.lead.last().copied().filter(|_| lead.is_long(classes)));
        self.is_run_across(step)
    }

    /// Whether a class of rows this far apart is a run, of elements or of numbers that become elements one by one: a mask or an
    /// origin belongs to one row.
    pub(crate) fn is_run_across(&self, step: Option<isize>) -> bool {
        step == Some(self.dtype.size() as isize) && self.mask.is_none() && !matches!(self.map, Map::Divide(_))
    }

    /// The input without its first classes.
    pub(crate) fn from(&self, start: usize) -> Self {
        let mask = self.mask.map(|m| Mask { data: m.data.wrapping_offset(start as isize * m.class_stride), ..m });
        Input { data: self.at(0, start), mask, ..*self }
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
}
