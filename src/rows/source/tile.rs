//! `LANES` rows class by class: where they are, or transposed into scratch.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::stage::stage;
use super::transpose::to_classes;
use super::{Input, Lead};
use crate::math::Math;
use crate::rows::{BATCH, BLOCK, Offsets, SHORT};
use crate::simd::*;

/// `LANES` rows, class by class.
#[derive(Clone, Copy)]
pub(crate) struct Tile<E> {
    base: *const u8,
    stride: isize,
    element: PhantomData<E>,
}

impl<E> Tile<E> {
    /// Vectors this many bytes apart.
    #[inline(always)]
    pub(crate) fn new(base: *const E, stride: isize) -> Self {
        Tile { base: base.cast(), stride, element: PhantomData }
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

/// Copies elements class by class, for a line of the cache holds a class of many rows.
///
/// # Safety
/// So many classes of `LANES` rows must be readable, and there must be room for them.
#[inline(never)]
unsafe fn gather<E: Element>(rows: &[*const E; 16], stride: isize, classes: usize, out: *mut E) {
    for i in 0..classes {
        for (k, row) in rows.iter().enumerate().take(E::LANES) {
            // SAFETY: as the caller vouches of class i of row k.
            unsafe { out.add(E::LANES * i + k).write(row.wrapping_byte_offset(i as isize * stride).read_unaligned()) };
        }
    }
}

impl Input<'_> {
    /// Where rows of elements begin, of a tile of `count` from `first`; missing rows are the last one. Not inlined: the compiler
    /// then does most of this for tiles that have no need of it, which was a tenth of a softmax of 19 classes.
    #[inline(never)]
    fn places<E: Element>(&self, offsets: &Offsets, first: usize, count: usize) -> [*const E; 16] {
        let mut places = [self.data.cast(); 16];
        for (k, place) in places.iter_mut().enumerate().take(E::LANES) {
            *place = self.data.wrapping_offset(offsets.get(first + k.min(count - 1)).0).cast();
        }
        places
    }

    /// A tile of the rows `first … first + count − 1` of a batch, `count ≤ LANES`; missing rows repeat the last one.
    #[inline(always)]
    pub(crate) fn tile<S: Simd, E: Math>(
        &self,
        s: S,
        offsets: &Offsets,
        lead: Lead<'_>,
        which: &[usize],
        first: usize,
        count: usize,
        classes: usize,
        tile: &mut [MaybeUninit<E>; BLOCK],
        rows: &mut [MaybeUninit<E>; BLOCK],
    ) -> Tile<E> {
        let (size, step) = (size_of::<E>() as isize, offsets.step_of(first, count));
        if count == E::LANES && step == Some(size) && self.is_native::<E>() {
            let base = self.data.wrapping_offset(offsets.get(first).0);
            for i in 0..if classes <= SHORT { classes } else { 0 } {
                // The next batch of rows of this class.
                prefetch(base.wrapping_offset(i as isize * self.class_stride).wrapping_add(BATCH * size as usize));
            }
            return Tile::new(base.cast(), self.class_stride);
        }
        self.staged(s, offsets, lead, which, first, count, classes, tile, rows)
    }

    /// The same of rows that are not where a tile is read. A function of its own for the sake of what is compiled.
    #[inline(never)]
    fn staged<S: Simd, E: Math>(
        &self,
        s: S,
        offsets: &Offsets,
        lead: Lead<'_>,
        which: &[usize],
        first: usize,
        count: usize,
        classes: usize,
        tile: &mut [MaybeUninit<E>; BLOCK],
        rows: &mut [MaybeUninit<E>; BLOCK],
    ) -> Tile<E> {
        s.vectorize(
            #[inline(always)]
            || {
                debug_assert!(classes <= SHORT);
                let (lanes, size) = (E::LANES, size_of::<E>() as isize);
                let at = |k: usize| offsets.get(first + k.min(count - 1));
                let (native, step) = (self.is_native::<E>(), offsets.step_of(first, count));
                let out: *mut E = tile.as_mut_ptr().cast();
                let staged = Tile::new(out.cast_const(), lanes as isize * size);
                let contiguous = self.is_run::<E>();
                if native && step == Some(0) {
                    for i in 0..classes {
                        // SAFETY: class i of the row is readable, and i < SHORT keeps the store inside the tile.
                        unsafe {
                            let from = self.data.wrapping_offset(at(0).0 + i as isize * self.class_stride).cast::<E>();
                            store::<S, E>(V::<S, E>::splat(s, from.read_unaligned()), out.add(lanes * i));
                        }
                    }
                    return staged;
                }
                if native && !contiguous {
                    // SAFETY: each row has as many classes, and SHORT of LANES rows fit the tile.
                    unsafe { gather(&self.places::<E>(offsets, first, count), self.class_stride, classes, out) };
                    return staged;
                }
                if !contiguous && count == lanes && self.is_run_across(step) {
                    // Columns of another dtype: a class of LANES rows is a run.
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
                    from = self.places(offsets, first, count);
                    for from in &from[..lanes] {
                        // The same row of the next tile.
                        let next = from.wrapping_byte_offset(lanes as isize * step.unwrap_or(0));
                        (0..classes).step_by(64 / size_of::<E>()).for_each(|i| prefetch(next.wrapping_add(i)));
                    }
                    // Where rows follow each other without a gap, a load past the end of a row reads the rows after it.
                    whole = const { is_wide::<S>() }
                        && self.packed.is_none()
                        && *self.lead == [classes as isize * size]
                        && (lead.shape[0] - which[first + count - 1]) * classes >= lanes;
                } else {
                    for k in 0..count {
                        // SAFETY: the row has `classes` ≤ SHORT classes, of which LANES rows fit the scratch.
                        unsafe {
                            stage(s.level(), self, at(k), 0, classes, rows.as_mut_ptr().cast::<E>().add(k * classes))
                        };
                    }
                    for (k, from) in from.iter_mut().enumerate().take(lanes) {
                        *from = rows.as_ptr().cast::<E>().wrapping_add(k.min(count - 1) * classes);
                    }
                }
                // SAFETY: every pointer has `classes` readable elements, LANES if `whole`; the tile has room for SHORT classes.
                unsafe { to_classes(s, &from, classes, whole, out) };
                staged
            },
        )
    }
}
