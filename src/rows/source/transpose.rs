//! Tiles transposed: rows of few classes to class by class, and back.
//!
//! Where a register holds a logical vector, in squares of `LANES`. Such a square leaves the registers elsewhere (under AVX2 it was
//! a quarter of the time of rows of ten classes), and blocks of 128 bits do not: four vectors (two of `f64`), none of which
//! crosses the middle of a register.

use crate::simd::*;

/// 128 bits of elements.
type Block<S, E> = <V<S, E> as SimdBase<S>>::Block;

/// `LANES` vectors transposed.
#[inline(always)]
fn square<S: Simd, E: Element>(r: [V<S, E>; 16]) -> [V<S, E>; 16] {
    // log2 LANES steps, written out: a loop over them was left as one, in memory.
    let n = E::LANES;
    let r = interleave::<S, _, 16>(interleave::<S, _, 16>(interleave::<S, _, 16>(r, n), n), n);
    if n == 16 { interleave::<S, _, 16>(r, n) } else { r }
}

/// The first half of `n` vectors interleaved with the second.
#[inline(always)]
fn interleave<S: Simd, T: SimdBase<S>, const N: usize>(r: [T; N], n: usize) -> [T; N] {
    let half = n / 2;
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
pub(super) unsafe fn to_classes<S: Simd, E: Element>(
    s: S,
    from: &[*const E; 16],
    classes: usize,
    whole: bool,
    out: *mut E,
) {
    let lanes = E::LANES;
    if const { !is_wide::<S>() } {
        // SAFETY: as the caller vouches.
        return unsafe { blocks(s, [lanes, classes], |k| from[k], |i| out.wrapping_add(lanes * i)) };
    }
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

/// Writes `classes` classes of `LANES` rows, which lie class by class, row by row; the first `count` rows of them.
///
/// # Safety
/// `values` has the elements, `out` room for `classes · count + LANES`.
#[inline(always)]
pub(crate) unsafe fn to_rows<S: Simd, E: Element>(s: S, values: *const E, classes: usize, count: usize, out: *mut E) {
    let lanes = E::LANES;
    if const { !is_wide::<S>() } {
        let (from, to) = (|i| values.wrapping_add(lanes * i), |k| out.wrapping_add(classes * k));
        // SAFETY: as the caller vouches.
        return unsafe { blocks(s, [classes, count], from, to) };
    }
    for start in (0..classes).step_by(lanes) {
        let n = (classes - start).min(lanes);
        // Of the last class as many as are missing. SAFETY: class start + min(i, n − 1) has been written.
        let r = square::<S, E>(array(|i| unsafe { load(s, values.add(lanes * (start + i.min(n - 1)))) }));
        for (k, r) in r.iter().enumerate().take(count) {
            // SAFETY: there is room for all rows and a vector.
            let to = unsafe { out.add(classes * k + start) };
            if n == lanes || start == 0 {
                // What spills out of a short row is of the next, which is written after it. SAFETY: as above.
                unsafe { store::<S, E>(*r, to) };
            } else {
                let mut short = [E::ZERO; 16];
                // SAFETY: an array of 16 holds a vector, and n elements of the row have room.
                unsafe {
                    store::<S, E>(*r, short.as_mut_ptr());
                    short.as_ptr().copy_to_nonoverlapping(to, n);
                }
            }
        }
    }
}

/// Element j of the i-th of `m` rows becomes element i of the j-th of `n`.
///
/// # Safety
/// `from(i)` has `n` readable elements for i < m, `to(j)` room for `m` for j < n.
#[inline(always)]
unsafe fn blocks<S: Simd, E: Element>(
    s: S,
    [m, n]: [usize; 2],
    from: impl Fn(usize) -> *const E,
    to: impl Fn(usize) -> *mut E,
) {
    let side = const { Block::<S, E>::LEN };
    if m < side || n < side {
        for j in 0..n {
            for i in 0..m {
                // SAFETY: as the caller vouches.
                unsafe { to(j).add(i).write_unaligned(from(i).add(j).read_unaligned()) };
            }
        }
        return;
    }
    for j in (0..n).step_by(side) {
        for i in (0..m).step_by(side) {
            // The last ones overlap those before rather than fall short.
            let (i, j) = (i.min(m - side), j.min(n - side));
            // SAFETY: i + side ≤ m and j + side ≤ n.
            let r: [Block<S, E>; 4] = array(|k| unsafe { load_block(s, from(i + k % side).add(j)) });
            let r = interleave::<S, _, 4>(r, side);
            let r = if side == 4 { interleave::<S, _, 4>(r, side) } else { r };
            for (k, r) in r.iter().enumerate().take(side) {
                // SAFETY: likewise.
                unsafe { to(j + k).add(i).cast::<<Block<S, E> as SimdBase<S>>::Array>().write_unaligned(r.to_array()) };
            }
        }
    }
}

/// Loads 128 bits.
///
/// # Safety
/// So many elements must be readable at `at`.
#[inline(always)]
unsafe fn load_block<S: Simd, E: Element>(s: S, at: *const E) -> Block<S, E> {
    // SAFETY: as the caller vouches; read by value, as in `load`.
    Block::<S, E>::load_array(s, unsafe { at.cast::<<Block<S, E> as SimdBase<S>>::Array>().read_unaligned() })
}
