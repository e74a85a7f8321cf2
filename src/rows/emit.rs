//! Results of the input's own shape: one value a class, in terms of what a first evaluation found of the row.

use std::mem::MaybeUninit;

use super::source::{Scratch, square};
use super::{BATCH, BLOCK, Dtype, Lead, Offsets, Rows, SHORT, tiled};
use crate::math::Math;
use crate::simd::*;

/// A value a class, from `I` inputs and `R` numbers of the row.
pub trait Emit<E: Math, const I: usize, const R: usize>: Copy + Sync {
    /// One vector of classes of one row, or one class of `LANES` rows.
    fn emit<S: Simd>(self, s: S, at: &[V<S, E>; R], x: [V<S, E>; I]) -> V<S, E>;
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

impl Target<'_> {
    /// The offset of row `k` of a batch.
    #[inline(always)]
    fn offset(&self, lead: &Lead<'_>, which: &[usize], k: usize) -> isize {
        match self.packed {
            Some(step) => k as isize * step,
            None => lead.offset(self.lead, which[k]),
        }
    }
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
    // SAFETY: as the caller vouches.
    dispatch!(level, s => unsafe { emit_at(s, t, rows, which, at, target) });
}

#[inline(always)]
unsafe fn emit_at<S: Simd, E: Math, T: Emit<E, I, R>, const I: usize, const R: usize>(
    s: S,
    t: T,
    rows: &Rows<'_, E, I>,
    which: &[usize],
    at: &[[f64; BATCH]; R],
    target: &Target<'_>,
) {
    let lanes = E::LANES;
    let mut scratch = Scratch::<E, I>::new();
    let offsets: [Offsets; I] = std::array::from_fn(|i| Offsets::new(&rows.inputs[i], &rows.lead, which));
    let tiled = tiled(rows, which, &offsets);
    for first in (0..tiled).step_by(lanes) {
        let count = (tiled - first).min(lanes);
        // SAFETY: as the caller vouches.
        unsafe { tile(s, t, rows, which, first, count, &offsets, &mut scratch, at, target) };
    }
    // SAFETY: as the caller vouches.
    unsafe { along(s, t, rows, which, tiled, &offsets, &mut scratch, at, target) };
}

/// Rows `first …` of a batch, lanes along the row.
///
/// # Safety
/// As for [`emit_rows`].
#[inline(never)]
unsafe fn along<S: Simd, E: Math, T: Emit<E, I, R>, const I: usize, const R: usize>(
    s: S,
    t: T,
    rows: &Rows<'_, E, I>,
    which: &[usize],
    first: usize,
    offsets: &[Offsets; I],
    scratch: &mut Scratch<E, I>,
    at: &[[f64; BATCH]; R],
    target: &Target<'_>,
) {
    s.vectorize(
        #[inline(always)]
        || {
            let lanes = E::LANES;
            let lead: Lead<'_> = rows.lead;
            // An input that is one number is staged once.
            let constant: [bool; I] = array(|i| {
                let input = &rows.inputs[i];
                input.class_stride == 0 && input.mask.is_none() && input.lead.iter().all(|stride| *stride == 0)
            });
            let mut staged = [false; I];
            for k in first..which.len() {
                let at: [V<S, E>; R] = array(|r| V::<S, E>::splat(s, E::from_f64(at[r][k])));
                let out = target.data.wrapping_offset(target.offset(&lead, which, k));
                let mut start = 0;
                while start < rows.classes {
                    let n = (rows.classes - start).min(BLOCK);
                    let mut x = [scratch.tile[0].as_ptr().cast::<E>(); I];
                    for i in 0..I {
                        x[i] = if staged[i] {
                            scratch.tile[i].as_ptr().cast()
                        } else {
                            rows.inputs[i].block(s, offsets[i].get(k), start, n, &mut scratch.tile[i])
                        };
                        // A block as long as any to come, and not a single class, which is read where it is.
                        staged[i] = constant[i] && n > 1 && n == rows.classes.min(BLOCK);
                    }
                    let out = out.wrapping_offset(start as isize * target.class_stride);
                    let mut v = 0;
                    while v < n {
                        let len = (n - v).min(lanes);
                        let x: [V<S, E>; I] = array(|i| {
                            // SAFETY: elements v … v + len − 1 of the block are readable.
                            unsafe {
                                let from = x[i].add(v);
                                if len == lanes {
                                    load(s, from)
                                } else {
                                    V::<S, E>::from_fn(s, |j| from.add(j.min(len - 1)).read_unaligned())
                                }
                            }
                        });
                        let to = out.wrapping_offset(v as isize * target.class_stride);
                        let value = lanes_of::<S, E>(t.emit(s, &at, x));
                        // SAFETY: values v … v + len − 1 of the block are writable, as the caller vouches.
                        unsafe { put(&value, len, target.dtype, to, target.class_stride) };
                        v += lanes;
                    }
                    start += n;
                }
            }
        },
    );
}

/// `count ≤ LANES` rows from `first` of a batch, lanes across the rows.
///
/// # Safety
/// As for [`emit_rows`]; there are at most [`SHORT`] classes, or `LANES` rows of native columns.
#[inline(never)]
unsafe fn tile<S: Simd, E: Math, T: Emit<E, I, R>, const I: usize, const R: usize>(
    s: S,
    t: T,
    rows: &Rows<'_, E, I>,
    which: &[usize],
    first: usize,
    count: usize,
    offsets: &[Offsets; I],
    scratch: &mut Scratch<E, I>,
    at: &[[f64; BATCH]; R],
    target: &Target<'_>,
) {
    s.vectorize(
        #[inline(always)]
        || {
            let (lanes, classes, size) = (E::LANES, rows.classes, target.dtype.size() as isize);
            let x: [_; I] = array(|i| {
                let (tile, rows_of) = scratch.split(i);
                rows.inputs[i].tile(s, &offsets[i], rows.lead, which, first, count, classes, tile, rows_of)
            });
            let at: [V<S, E>; R] = array(|r| V::<S, E>::from_fn(s, |j| E::from_f64(at[r][first + j.min(count - 1)])));
            let mut place = [0; 16];
            for k in 0..count {
                place[k] = target.offset(&rows.lead, which, first + k);
            }
            let step = if count > 1 { place[1] - place[0] } else { 0 };
            let even = (1..count).all(|k| place[k] - place[k - 1] == step);
            // Not a closure: with two callers it would not be inlined.
            macro_rules! value {
                ($i:expr) => {
                    // SAFETY: a tile holds LANES elements of every class.
                    unsafe { t.emit(s, &at, array(|k| load(s, x[k].class($i)))) }
                };
            }
            if (even && step == size && count == lanes) || classes > SHORT {
                for i in 0..classes {
                    let value = lanes_of::<S, E>(value!(i));
                    let to = target.data.wrapping_offset(place[0] + i as isize * target.class_stride);
                    // SAFETY: class i of these rows is writable, as the caller vouches.
                    unsafe {
                        if even {
                            put(&value, count, target.dtype, to, step);
                        } else {
                            for k in 0..count {
                                put(&[value[k]], 1, target.dtype, to.wrapping_offset(place[k] - place[0]), 0);
                            }
                        }
                    }
                }
                return;
            }
            let mut whole = [const { MaybeUninit::<E>::uninit() }; BLOCK];
            let out: *mut E = whole.as_mut_ptr().cast();
            for i in 0..classes {
                let value = value!(i).to_array();
                // SAFETY: i < SHORT, and SHORT classes of LANES rows fit a block.
                unsafe { out.add(lanes * i).cast::<<V<S, E> as SimdBase<S>>::Array>().write_unaligned(value) };
            }
            // Rows without a gap are written in order: what spills out of one is of the next, which comes after it.
            let packed = even && target.class_stride == size && step == classes as isize * size;
            for start in (0..classes).step_by(lanes) {
                let n = (classes - start).min(lanes);
                let mut r = [V::<S, E>::splat(s, E::ZERO); 16];
                for (i, r) in r.iter_mut().enumerate().take(n) {
                    // SAFETY: class start + i < classes has been written.
                    *r = unsafe { load(s, out.add(lanes * (start + i))) };
                }
                let r = square::<S, E>(r);
                for k in 0..count {
                    let to = target.data.wrapping_offset(place[k] + start as isize * target.class_stride);
                    let spill = packed && classes <= lanes && (count - 1 - k) * classes >= lanes - n;
                    let value = lanes_of::<S, E>(r[k]);
                    // SAFETY: classes start … start + n − 1 of row k are writable, and what spills out of them is of
                    // later rows of this tile.
                    unsafe { put(&value, if spill { lanes } else { n }, target.dtype, to, target.class_stride) };
                }
            }
        },
    );
}

/// The lanes of a vector, which for `f64` are the first half.
#[inline(always)]
fn lanes_of<S: Simd, E: Element>(value: V<S, E>) -> [E; 16] {
    let mut lanes = [E::ZERO; 16];
    // SAFETY: the array of a vector has at most 16 elements.
    unsafe { lanes.as_mut_ptr().cast::<<V<S, E> as SimdBase<S>>::Array>().write_unaligned(value.to_array()) };
    lanes
}

/// Stores the first `n` values, rounded to the dtype.
///
/// # Safety
/// `n` numbers of the dtype at the stride must be writable.
#[inline(always)]
unsafe fn put<E: Element, const N: usize>(value: &[E; N], n: usize, dtype: Dtype, to: *mut u8, stride: isize) {
    let size = dtype.size() as isize;
    // SAFETY: as the caller vouches.
    unsafe {
        if dtype.is::<E>() {
            if stride == size && n == E::LANES && N == 16 {
                // As a whole: a copy of known length.
                std::ptr::copy_nonoverlapping(value.as_ptr().cast::<u8>(), to, E::LANES * size_of::<E>());
            } else {
                for j in 0..n {
                    to.offset(j as isize * stride).cast::<E>().write_unaligned(value[j]);
                }
            }
        } else if E::LANES == 16 && dtype.size() == 2 {
            let mut bits = [0u16; N];
            for j in 0..N {
                let x = value[j].to_f64() as f32;
                bits[j] = if dtype == Dtype::F16 { narrow_f16(x) } else { narrow_bf16(x) };
            }
            if stride == size && n == N {
                std::ptr::copy_nonoverlapping(bits.as_ptr().cast::<u8>(), to, 2 * N);
            } else {
                for j in 0..n {
                    to.offset(j as isize * stride).cast::<u16>().write_unaligned(bits[j]);
                }
            }
        } else {
            for j in 0..n {
                dtype.store(value[j].to_f64(), to.offset(j as isize * stride));
            }
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
