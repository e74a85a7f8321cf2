//! Results of the input's own shape: one value a class, in terms of what a first evaluation found of the row.

use super::source::Scratch;
use super::{BATCH, BLOCK, Lead, Offsets, Rows};
use crate::math::Math;
use crate::simd::*;

/// A value a class, from `I` inputs and `R` numbers of the row.
pub trait Emit<E: Math, const I: usize, const R: usize>: Copy + Sync {
    /// One vector of classes of one row.
    fn emit<S: Simd>(self, s: S, at: &[V<S, E>; R], x: [V<S, E>; I]) -> V<S, E>;
}

/// Where the values go.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The first value.
    pub data: *mut u8,
    /// Bytes from class to class.
    pub class_stride: isize,
    /// Bytes from row to row along each leading axis.
    pub lead: &'a [isize],
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
    let (lanes, size) = (E::LANES, size_of::<E>() as isize);
    let mut scratch = Scratch::<E, I>::new();
    let offsets: [Offsets; I] = std::array::from_fn(|i| Offsets::new(&rows.inputs[i], &rows.lead, which));
    let lead: Lead<'_> = rows.lead;
    for (k, row) in which.iter().enumerate() {
        let at: [V<S, E>; R] = array(|r| V::<S, E>::splat(s, E::from_f64(at[r][k])));
        let out = target.data.wrapping_offset(lead.offset(target.lead, *row));
        let mut start = 0;
        while start < rows.classes {
            let n = (rows.classes - start).min(BLOCK);
            let x: [*const E; I] =
                array(|i| rows.inputs[i].block(s, offsets[i].get(k), start, n, &mut scratch.tile[i]));
            let out = out.wrapping_offset(start as isize * target.class_stride);
            let mut v = 0;
            while v < n {
                let len = (n - v).min(lanes);
                let x = x.map(|x| {
                    // SAFETY: elements v … v + len − 1 of the block are readable.
                    unsafe {
                        let from = x.add(v);
                        if len == lanes {
                            load(s, from)
                        } else {
                            V::<S, E>::from_fn(s, |j| from.add(j.min(len - 1)).read_unaligned())
                        }
                    }
                });
                let value = t.emit(s, &at, x);
                let to = out.wrapping_offset(v as isize * target.class_stride);
                // SAFETY: values v … v + len − 1 of the block are writable, as the caller vouches.
                unsafe {
                    if len == lanes && target.class_stride == size {
                        to.cast::<<V<S, E> as SimdBase<S>>::Array>().write_unaligned(value.to_array());
                    } else {
                        for j in 0..len {
                            to.offset(j as isize * target.class_stride).cast::<E>().write_unaligned(value[j]);
                        }
                    }
                }
                v += lanes;
            }
            start += n;
        }
    }
}
