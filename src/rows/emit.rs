//! Results of the input's own shape: one value a class, in terms of what a first evaluation found of the row.
//!
//! What is compiled for every value is one loop over vectors; all else here is compiled once for each element type and
//! calls that loop through a table, a block or a tile at a time.

use std::mem::MaybeUninit;

use smallvec::SmallVec;

use super::source::{Scratch, Tile, to_rows};
use super::{BATCH, BLOCK, Dtype, Input, Lead, Offsets, Rows, SHORT, tiled};
use crate::math::Math;
use crate::simd::*;

/// A value a class, from `I` inputs and `R` numbers of the row.
pub trait Emit<E: Math, const I: usize, const R: usize>: Copy + Sync {
    /// One vector of classes of one row, or one class of `LANES` rows.
    fn emit<S: Simd>(self, s: S, at: &[V<S, E>; R], x: [V<S, E>; I]) -> V<S, E>;
}

/// Inputs that a value may have.
const INPUTS: usize = 5;
/// Numbers of a row that it may need.
const NUMBERS: usize = 8;
/// The numbers of each lane, as many of them as the value has.
type Numbers<E> = [MaybeUninit<[E; 16]>; NUMBERS];

/// An [`Emit`] as a loop over vectors, whatever their lanes are.
trait Values<E>: Sync {
    /// Writes `n` vectors of values, in terms of the numbers that each lane has.
    ///
    /// # Safety
    /// The first `n` vectors of every input must be readable and those of `out` writable, and `out` none of the inputs;
    /// `at` must hold the numbers.
    unsafe fn write(&self, level: Level, at: &Numbers<E>, x: &[Tile<E>; INPUTS], n: usize, out: Tile<E>);
}

/// An [`Emit`] of this many inputs and numbers.
struct Value<T, const I: usize, const R: usize>(T);

impl<E: Math, T: Emit<E, I, R>, const I: usize, const R: usize> Values<E> for Value<T, I, R> {
    unsafe fn write(&self, level: Level, at: &Numbers<E>, x: &[Tile<E>; INPUTS], n: usize, out: Tile<E>) {
        const { assert!(I <= INPUTS && R <= NUMBERS) };
        dispatch!(level, s => {
            // SAFETY: the caller has written R of them, and 16 elements are no less than a vector.
            let at: [V<_, E>; R] = array(|r| unsafe { load(s, at[r].as_ptr().cast::<E>()) });
            let (x, value): ([Tile<E>; I], T) = (array(|i| x[i]), self.0);
            // Addresses in variables of their own: a store might write to those of the tiles, as far as the compiler knows.
            let (mut to, step): (*mut E, isize) = (out.class(0).cast_mut(), out.stride());
            let (mut from, steps): ([*const E; I], [isize; I]) = (array(|i| x[i].class(0)), array(|i| x[i].stride()));
            for _ in 0..n {
                // SAFETY: this vector of every input is readable, that of the output writable.
                unsafe { store::<_, E>(value.emit(s, &at, array(|i| load(s, from[i]))), to) };
                to = to.wrapping_byte_offset(step);
                from = array(|i| from[i].wrapping_byte_offset(steps[i]));
            }
        });
    }
}

/// Where the values go.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The first value.
    pub data: *mut u8,
    /// How they are stored: a floating dtype.
    pub dtype: Dtype,
    /// Bytes from class to class.
    pub class_stride: isize,
    /// Bytes from row to row along each leading axis.
    pub lead: &'a [isize],
    /// Where the rows of a batch lie one after the other instead: bytes from one to the next.
    pub packed: Option<isize>,
}

/// Writes the values of the given rows, up to [`BATCH`] of them. `at` holds `R` numbers a row.
///
/// # Safety
/// Every element of the target's shape must be writable, and nothing else may refer to it meanwhile.
pub unsafe fn emit_rows<E: Math, T: Emit<E, I, R>, const I: usize, const R: usize>(
    level: Level,
    t: T,
    rows: &Rows<'_, E, I>,
    which: &[usize],
    at: &[[f64; BATCH]; R],
    target: &Target<'_>,
) {
    let values: &dyn Values<E> = &Value::<T, I, R>(t);
    let (inputs, lead, classes) = (&rows.inputs, rows.lead, rows.classes);
    // SAFETY: as the caller vouches.
    dispatch!(level, s => unsafe { Call { level, values, inputs, lead, classes, which, at, target }.run(s) });
}

/// A call of [`emit_rows`], whatever its value.
struct Call<'a, E> {
    level: Level,
    values: &'a dyn Values<E>,
    inputs: &'a [Input<'a>],
    lead: Lead<'a>,
    classes: usize,
    which: &'a [usize],
    at: &'a [[f64; BATCH]],
    target: &'a Target<'a>,
}

impl<E: Math> Call<'_, E> {
    /// # Safety
    /// As for [`emit_rows`].
    #[inline(never)]
    unsafe fn run<S: Simd>(&self, s: S) {
        s.vectorize(
            #[inline(always)]
            || {
                let mut scratch = Scratch::<E, INPUTS>::new();
                let offsets: SmallVec<[Offsets; INPUTS]> =
                    self.inputs.iter().map(|input| Offsets::new(input, &self.lead, self.which)).collect();
                let tiled = tiled::<E>(self.inputs, self.classes, self.which, &offsets, SHORT, true);
                let places = Offsets::of(self.target.lead, self.target.packed, None, &self.lead, self.which);
                for first in (0..tiled).step_by(E::LANES) {
                    let count = (tiled - first).min(E::LANES);
                    // SAFETY: as the caller vouches.
                    unsafe { self.tile(s, first, count, &offsets, &places, &mut scratch) };
                }
                // SAFETY: as the caller vouches.
                unsafe { self.along(s, tiled, &offsets, &places, &mut scratch) };
            },
        );
    }

    /// The numbers of the rows that the lanes are.
    #[inline(always)]
    fn numbers(&self, of: impl Fn(&[f64; BATCH]) -> [E; 16]) -> Numbers<E> {
        let mut numbers = [const { MaybeUninit::uninit() }; NUMBERS];
        for (numbers, at) in numbers.iter_mut().zip(self.at) {
            numbers.write(of(at));
        }
        numbers
    }

    /// Rows `first …` of the batch, lanes along the row.
    ///
    /// # Safety
    /// As for [`emit_rows`].
    #[inline(always)]
    unsafe fn along<S: Simd>(
        &self,
        s: S,
        first: usize,
        offsets: &[Offsets],
        places: &Offsets,
        scratch: &mut Scratch<E, INPUTS>,
    ) {
        let (lanes, size, target) = (E::LANES, size_of::<E>() as isize, self.target);
        let native = target.dtype.is::<E>() && target.class_stride == size;
        let mut values = [const { MaybeUninit::<E>::uninit() }; BLOCK];
        let values: *mut E = values.as_mut_ptr().cast();
        for k in first..self.which.len() {
            let at = self.numbers(|at| [E::from_f64(at[k]); 16]);
            let row = target.data.wrapping_offset(places.get(k).0);
            for start in (0..self.classes).step_by(BLOCK) {
                let n = (self.classes - start).min(BLOCK);
                let mut x = [Tile::new(values.cast_const(), 0); INPUTS];
                let mut repeated = [[E::ZERO; 16]; INPUTS];
                for (i, input) in self.inputs.iter().enumerate() {
                    x[i] = if input.class_stride == 0 && input.mask.is_none() {
                        // One vector serves all classes.
                        let one = input.block(s, offsets[i].get(k), start, 1, &mut scratch.tile[i]);
                        // SAFETY: the block has an element.
                        repeated[i] = [unsafe { one.read_unaligned() }; 16];
                        Tile::new(repeated[i].as_ptr(), 0)
                    } else {
                        let block = input.block(s, offsets[i].get(k), start, n, &mut scratch.tile[i]);
                        Tile::new(block, lanes as isize * size)
                    };
                }
                let to = row.wrapping_offset(start as isize * target.class_stride);
                let out: *mut E = if native { to.cast() } else { values };
                // SAFETY: n elements of every block are readable and of the output writable, which is new memory.
                unsafe {
                    self.values.write(self.level, &at, &x, n / lanes, Tile::new(out, lanes as isize * size));
                    self.tail(&at, x, n, out);
                    if !native {
                        put_run(target.dtype, values, n, to, target.class_stride);
                    }
                }
            }
        }
    }

    /// The last of `n` classes, where they do not fill a vector.
    ///
    /// # Safety
    /// `n` elements of every input must be readable and of `out` writable.
    #[inline(always)]
    unsafe fn tail(&self, at: &Numbers<E>, mut x: [Tile<E>; INPUTS], n: usize, out: *mut E) {
        let (lanes, left) = (E::LANES, n % E::LANES);
        if left == 0 {
            return;
        }
        if n > lanes {
            // The last vector overlaps the one before, and writes what that has written.
            x.iter_mut().for_each(|x| *x = x.shifted(n - lanes));
            // SAFETY: elements n − LANES … n − 1 are readable and writable.
            return unsafe { self.values.write(self.level, at, &x, 1, Tile::new(out.add(n - lanes), 0)) };
        }
        let mut short = [[E::ZERO; 16]; INPUTS];
        let mut found = [E::ZERO; 16];
        for (x, short) in x.iter_mut().zip(&mut short).take(self.inputs.len()) {
            let there = if x.is_repeated() { lanes } else { left };
            // SAFETY: n = left elements of an input are readable, a vector of one that is repeated.
            unsafe {
                x.class(0).cast::<u8>().copy_to_nonoverlapping(short.as_mut_ptr().cast(), there * size_of::<E>())
            };
            *x = Tile::new(short.as_ptr(), 0);
        }
        // SAFETY: arrays of 16 have the elements of a vector, and `out` has room for n.
        unsafe {
            self.values.write(self.level, at, &x, 1, Tile::new(found.as_mut_ptr(), 0));
            found.as_ptr().cast::<u8>().copy_to_nonoverlapping(out.cast(), left * size_of::<E>());
        }
    }

    /// `count ≤ LANES` rows from `first` of the batch, lanes across the rows.
    ///
    /// # Safety
    /// As for [`emit_rows`]; there are at most [`SHORT`] classes, or no input has an origin.
    #[inline(always)]
    unsafe fn tile<S: Simd>(
        &self,
        s: S,
        first: usize,
        count: usize,
        offsets: &[Offsets],
        places: &Offsets,
        scratch: &mut Scratch<E, INPUTS>,
    ) {
        let (lanes, target, size) = (E::LANES, self.target, self.target.dtype.size() as isize);
        let mut tiles = |start: usize, n: usize| {
            let mut x = [Tile::new(std::ptr::null(), 0); INPUTS];
            for (i, input) in self.inputs.iter().enumerate() {
                let (tile, rows_of) = scratch.split(i);
                let input = input.from(start);
                x[i] = input.tile(s, &offsets[i], self.lead, self.which, first, count, n, tile, rows_of);
            }
            x
        };
        let at = self.numbers(|at| match at[first..].first_chunk::<16>() {
            Some(at) => array(|j| E::from_f64(at[j])),
            None => array(|j| E::from_f64(*at[first..].get(j).unwrap_or(&0.0))),
        });
        let step = places.step_of(first, count);
        let to = target.data.wrapping_offset(places.get(first).0);
        let mut values = [const { MaybeUninit::<E>::uninit() }; BLOCK];
        let values: *mut E = values.as_mut_ptr().cast();
        for start in (0..self.classes).step_by(SHORT) {
            let n = (self.classes - start).min(SHORT);
            let x = tiles(start, n);
            let direct = step == Some(size) && count == lanes && target.dtype.is::<E>();
            let out = if direct {
                let to = to.wrapping_offset(start as isize * target.class_stride);
                Tile::new(to.cast_const().cast(), target.class_stride)
            } else {
                Tile::new(values.cast_const(), (lanes * size_of::<E>()) as isize)
            };
            // SAFETY: a tile holds LANES elements of every class, and so does a block, of SHORT classes; or LANES rows of every
            // class are a run of the target.
            unsafe {
                self.values.write(self.level, &at, &x, n, out);
                if !direct {
                    self.put(s, first, count, start, n, places, values);
                }
            }
        }
    }

    /// Stores the values of `n` classes from `start` of such rows. Not inlined: the compiler then prepares all of it in tiles
    /// that have no need of it, which was a tenth of a softmax of 19 classes.
    ///
    /// # Safety
    /// As for [`emit_rows`]; the values are those of the classes one after the other, LANES of each.
    #[inline(never)]
    unsafe fn put<S: Simd>(
        &self,
        s: S,
        first: usize,
        count: usize,
        start: usize,
        n: usize,
        places: &Offsets,
        values: *const E,
    ) {
        s.vectorize(
            #[inline(always)]
            || {
                let (lanes, target, size) = (E::LANES, self.target, self.target.dtype.size() as isize);
                let step = places.step_of(first, count);
                let at = |k: usize| {
                    target.data.wrapping_offset(places.get(first + k).0 + start as isize * target.class_stride)
                };
                if step == Some(size) {
                    for i in 0..n {
                        let to = at(0).wrapping_offset(i as isize * target.class_stride);
                        // SAFETY: class start + i of these rows is writable, as the caller vouches.
                        unsafe { put_run(target.dtype, values.add(lanes * i), count, to, size) };
                    }
                    return;
                }
                let mut rows = [const { MaybeUninit::<E>::uninit() }; ROOM];
                let rows: *mut E = rows.as_mut_ptr().cast();
                // SAFETY: there are n classes of LANES rows, and room for as many and one vector more.
                unsafe { to_rows(s, values, n, count, rows) };
                // Rows without a gap are one run.
                let whole = target.class_stride == size && n == self.classes && step == Some(n as isize * size);
                let (runs, length) = if whole { (1, n * count) } else { (count, n) };
                for k in 0..runs {
                    // SAFETY: these classes of row k are writable, or of all rows.
                    unsafe { put_run(target.dtype, rows.add(n * k), length, at(k), target.class_stride) };
                }
            },
        );
    }
}

/// Elements of a tile's rows, and of one vector that spills out of the last.
const ROOM: usize = BLOCK + 16;

/// Stores `n` values, rounded to the dtype. For callers with the features of a level.
///
/// # Safety
/// `n` values are readable, `n` numbers of the dtype at the stride writable.
#[inline(always)]
unsafe fn put_run<E: Element>(dtype: Dtype, values: *const E, n: usize, to: *mut u8, stride: isize) {
    // SAFETY: as the caller vouches, of value j < n.
    let value = |j: usize| unsafe { values.add(j).read() };
    let at = |j: usize| to.wrapping_offset(j as isize * stride);
    // SAFETY: as above.
    unsafe {
        match dtype {
            _ if dtype.is::<E>() && stride == size_of::<E>() as isize => {
                values.cast::<u8>().copy_to_nonoverlapping(to, n * size_of::<E>());
            }
            _ if dtype.is::<E>() => (0..n).for_each(|j| at(j).cast::<E>().write_unaligned(value(j))),
            Dtype::Bf16 if E::LANES == 16 => put_halves(values, n, to, stride, narrow_bf16),
            Dtype::F16 if E::LANES == 16 => put_halves(values, n, to, stride, narrow_f16),
            _ => (0..n).for_each(|j| dtype.store(value(j).to_f64(), at(j))),
        }
    }
}

/// Stores `n` values of single precision as halves.
///
/// # Safety
/// As for [`put_run`].
#[inline(always)]
unsafe fn put_halves<E: Element>(values: *const E, n: usize, to: *mut u8, stride: isize, narrow: impl Fn(f32) -> u16) {
    // SAFETY: as the caller vouches.
    let bits = |j: usize| narrow(unsafe { values.add(j).read() }.to_f64() as f32);
    if stride == 2 {
        for j in 0..n {
            // SAFETY: likewise.
            unsafe { to.cast::<u16>().add(j).write_unaligned(bits(j)) };
        }
    } else {
        for j in 0..n {
            // SAFETY: likewise.
            unsafe { to.offset(j as isize * stride).cast::<u16>().write_unaligned(bits(j)) };
        }
    }
}

/// The bits of the nearest bfloat16. Branch-free, so that a loop of it becomes vector code on every level.
#[inline(always)]
fn narrow_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    let nan = (bits >> 16) as u16 | 0x40;
    if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded }
}

/// The bits of the nearest half-precision number, likewise.
#[inline(always)]
fn narrow_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // Below 2^-14 the unit of f32 numbers around ½ is that of the halves: the addition rounds.
    let small = (f32::from_bits(magnitude.min(0x3880_0000)) + 0.5).to_bits() - 0x3f00_0000;
    let normal = magnitude.clamp(0x3880_0000, 0x4780_0000);
    let normal = (normal - 0x3800_0000 + 0xfff + (normal >> 13 & 1)) >> 13;
    let value = if magnitude < 0x3880_0000 { small } else { normal.min(0x7c00) };
    let value = if magnitude > 0x7f80_0000 { 0x7e00 } else { value };
    (value | (bits >> 16 & 0x8000)) as u16
}

#[cfg(test)]
mod tests {
    use super::{narrow_bf16, narrow_f16};

    #[test]
    fn halves_are_the_nearest() {
        // Every half, its neighbours in f32, and all midpoints with theirs.
        for bits in 0..=u16::MAX {
            for base in [u32::from(bits) << 16, half::f16::from_bits(bits).to_f32().to_bits()] {
                for x in [base, base.wrapping_add(1), base.wrapping_sub(1)] {
                    for half_way in [0, 0x1000, 0x8000] {
                        let x = f32::from_bits(x.wrapping_add(half_way));
                        let (f16, bf16) = (half::f16::from_f32(x), half::bf16::from_f32(x));
                        if x.is_nan() {
                            assert!(half::f16::from_bits(narrow_f16(x)).is_nan());
                            assert!(half::bf16::from_bits(narrow_bf16(x)).is_nan());
                        } else {
                            assert_eq!(narrow_f16(x), f16.to_bits(), "{x:e}");
                            assert_eq!(narrow_bf16(x), bf16.to_bits(), "{x:e}");
                        }
                    }
                }
            }
        }
    }
}
