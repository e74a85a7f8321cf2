//! What is staged: elements of any dtype, stride and byte order as those of the kernels, masked and mapped.

use super::dtype::{Bf16, Scalar, stored};
use super::{Dtype, Input, Map};
use crate::math::Math;
use crate::rows::AHEAD;
use crate::simd::*;

/// Copies `n` classes of a row to `out` as elements, masked and mapped.
///
/// # Safety
/// Classes `start … start + n − 1` of the row at the offset are readable (in the mask too); `out` has room for `n`.
#[inline(never)]
pub(super) unsafe fn stage<E: Math>(
    level: Level,
    input: &Input<'_>,
    offset: (isize, isize),
    start: usize,
    n: usize,
    out: *mut E,
) {
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
        if input.dtype == Dtype::Bf16 && E::LANES == 16 && stride == 2 && !swapped && LITTLE {
            widen_bf16(s, from, n, out.cast());
        } else {
            stored!(input.dtype, T => convert::<T, E>(from, stride, swapped, n, out));
        }
    }
    // SAFETY: `convert` has written these n elements, and nothing else refers to them.
    let out = unsafe { std::slice::from_raw_parts_mut(out, n) };
    if let Some(mask) = input.mask {
        for (i, x) in out.iter_mut().enumerate() {
            // SAFETY: as the caller vouches of each of these classes.
            if unsafe { mask.excludes(offset.1, start + i) } {
                *x = E::from_f64(mask.absent);
            }
        }
    }
    match input.map {
        Map::Keep => {}
        Map::Negate => out.iter_mut().for_each(|x| *x = E::from_f64(-x.to_f64())),
        Map::Shrink(by) => {
            let shrunk = |x: f64| if (x / by).abs() < f64::MIN_POSITIVE { 0.0 } else { x / by };
            out.iter_mut().for_each(|x| *x = E::from_f64(shrunk(x.to_f64())));
        }
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
        Map::Ln(by) => {
            let by = V::<S, E>::splat(s, E::from_f64(by));
            for chunk in out.chunks_mut(E::LANES) {
                let v = V::<S, E>::from_fn(s, |i| *chunk.get(i).unwrap_or(&chunk[0]));
                let over = v / by;
                let mut ln = E::ln(s, over);
                // Of what is lost below the range of ratios the logarithm is large.
                let lost = over.simd_lt(V::<S, E>::splat(s, E::TINY));
                if lost.any_true() {
                    ln = lost.select(E::ln(s, v) - E::ln(s, by), ln);
                }
                for (i, x) in chunk.iter_mut().enumerate() {
                    *x = ln[i];
                }
            }
        }
    }
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
