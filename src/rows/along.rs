//! Lanes along one row.

use super::source::Scratch;
use super::{BLOCK, CHAIN, Columns, Done, Measure, Offsets, Part, Rows, finish, merge};
use crate::math::Math;
use crate::simd::*;

/// Bytes between the vector in work and the line asked for. One block ahead, so that the next look finds it near:
/// 8 KiB gave 28–30 GB/s where no prefetch gave 14 and merely reading takes 37.
const AHEAD: usize = 8192;

/// Sums of one row on the way to `finish`, which takes 8 rows at a time.
struct Eight<const R: usize, const K: usize> {
    at: [[f64; 8]; R],
    hi: [[f64; 8]; K],
    lo: [[f64; 8]; K],
}

impl<const R: usize, const K: usize> Eight<R, K> {
    #[inline(always)]
    fn part<S: Simd>(&self, s: S) -> Part<S, R, K> {
        Part {
            at: std::array::from_fn(|r| W::load_array(s, self.at[r])),
            sum: std::array::from_fn(|k| Sum { hi: W::load_array(s, self.hi[k]), lo: W::load_array(s, self.lo[k]) }),
        }
    }
}

#[inline(always)]
pub(super) fn rows<S: Simd, E: Math, M: Measure<E, I, R, K, O>, const I: usize, const R: usize, const K: usize, const O: usize>(
    s: S,
    m: M,
    rows: &Rows<'_, E, I>,
    n: usize,
    offsets: &[Offsets; I],
    scratch: &mut Scratch<E, I>,
    out: &mut Columns<I, O>,
) {
    let nan = [W::splat(s, f64::NAN); R];
    let none = [W::splat(s, 0.0); O];
    let mut first = 0;
    while first < n {
        let count = (n - first).min(8);
        let mut eight = Eight { at: [[0.0; 8]; R], hi: [[0.0; 8]; K], lo: [[0.0; 8]; K] };
        for k in 0..count {
            row::<S, E, M, I, R, K, O, false>(s, m, rows, offsets, first + k, nan, scratch, k, &mut eight);
        }
        let mut done: Done<S, I, R, O> = finish::<S, E, M, I, R, K, O>(s, m, eight.part(s), false, none);
        let mut again = done.again.to_bitmask() & ((1 << count) - 1);
        if again != 0 {
            let hint = done.hint.map(|h| h.to_array());
            let todo = done.again;
            while again != 0 {
                let k = again.trailing_zeros() as usize;
                again &= again - 1;
                let hint = hint.map(|h| W::splat(s, h[k]));
                if M::TWO_PASSES {
                    row::<S, E, M, I, R, K, O, true>(s, m, rows, offsets, first + k, hint, scratch, k, &mut eight);
                } else {
                    row::<S, E, M, I, R, K, O, false>(s, m, rows, offsets, first + k, hint, scratch, k, &mut eight);
                }
            }
            let second: Done<S, I, R, O> = finish::<S, E, M, I, R, K, O>(s, m, eight.part(s), true, done.value);
            for k in 0..O {
                done.value[k] = todo.select(second.value[k], done.value[k]);
            }
        }
        for k in 0..O {
            out.value[k][first..first + count].copy_from_slice(&done.value[k].to_array()[..count]);
        }
        for k in 0..I {
            out.mass[k][first..first + count].copy_from_slice(&done.mass[k].to_array()[..count]);
        }
        first += count;
    }
}

/// One pass over one row; its sums go to place `k`.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
fn row<S: Simd, E: Math, M: Measure<E, I, R, K, O>, const I: usize, const R: usize, const K: usize, const O: usize, const SECOND: bool>(
    s: S,
    m: M,
    rows: &Rows<'_, E, I>,
    offsets: &[Offsets; I],
    index: usize,
    hint: [W<S>; R],
    scratch: &mut Scratch<E, I>,
    k: usize,
    eight: &mut Eight<R, K>,
) {
    let classes = rows.classes;
    let mut start = (classes.saturating_sub(1) / BLOCK) * BLOCK;
    if start == 0 {
        let x = std::array::from_fn(|i| rows.inputs[i].block(s, offsets[i].get(index), 0, classes, &mut scratch.tile[i]));
        let (at, sum) = block::<S, E, M, I, R, K, O, SECOND>(s, m, x, classes, hint);
        for r in 0..R {
            eight.at[r][k] = E::widen(at[r])[0].to_array()[0];
        }
        for j in 0..K {
            (eight.hi[j][k], eight.lo[j][k]) = sum[j];
        }
        return;
    }
    start = 0;
    let mut whole: Option<Part<S, R, K>> = None;
    while start < classes {
        let n = (classes - start).min(BLOCK);
        let x = std::array::from_fn(|i| rows.inputs[i].block(s, offsets[i].get(index), start, n, &mut scratch.tile[i]));
        let (at, sum) = block::<S, E, M, I, R, K, O, SECOND>(s, m, x, n, hint);
        let part = Part {
            at: std::array::from_fn(|r| E::widen(at[r])[0]),
            sum: std::array::from_fn(|j| Sum { hi: W::splat(s, sum[j].0), lo: W::splat(s, sum[j].1) }),
        };
        whole = Some(match whole {
            None => part,
            Some(whole) => merge::<S, E, M, I, R, K, O>(s, m, whole, part),
        });
        start += n;
    }
    if let Some(whole) = whole {
        for r in 0..R {
            eight.at[r][k] = whole.at[r].to_array()[0];
        }
        for j in 0..K {
            eight.hi[j][k] = whole.sum[j].hi.to_array()[0];
            eight.lo[j][k] = whole.sum[j].lo.to_array()[0];
        }
    }
}

/// The frame and the sums of one block of one row. `x` points to `n` readable elements of each input.
///
/// A function of its own: inlined at its four places it would quadruple what is compiled.
#[inline(never)]
fn block<S: Simd, E: Math, M: Measure<E, I, R, K, O>, const I: usize, const R: usize, const K: usize, const O: usize, const SECOND: bool>(
    s: S,
    m: M,
    x: [*const E; I],
    n: usize,
    hint: [W<S>; R],
) -> ([V<S, E>; R], [(f64, f64); K]) {
    s.vectorize(
        #[inline(always)]
        || block_of::<S, E, M, I, R, K, O, SECOND>(s, m, x, n, hint),
    )
}

#[inline(always)]
fn block_of<S: Simd, E: Math, M: Measure<E, I, R, K, O>, const I: usize, const R: usize, const K: usize, const O: usize, const SECOND: bool>(
    s: S,
    m: M,
    x: [*const E; I],
    n: usize,
    hint: [W<S>; R],
) -> ([V<S, E>; R], [(f64, f64); K]) {
    let lanes = E::LANES;
    let (full, tail) = (n / lanes, n % lanes);
    // SAFETY: v < full, so that lanes·(v + 1) ≤ n elements are readable.
    let get = |v: usize| -> [V<S, E>; I] { std::array::from_fn(|i| unsafe { load(s, x[i].add(lanes * v)) }) };
    let rest = || -> [V<S, E>; I] {
        std::array::from_fn(|i| {
            // SAFETY: called where tail > 0, so that elements lanes·full … n − 1 are readable and n − 1 is one of them.
            unsafe {
                let from = x[i].add(lanes * full);
                let last = from.add(tail - 1).read_unaligned();
                V::<S, E>::from_fn(s, |j| if j < tail { from.add(j).read_unaligned() } else { last })
            }
        })
    };
    let mut seen = [V::<S, E>::splat(s, E::NEG_INFINITY); R];
    if M::LOOKS {
        let mut four = [seen; 4];
        let mut v = 0;
        while v + 4 <= full {
            for k in 0..4 {
                four[k] = m.look(four[k], get(v + k));
            }
            v += 4;
        }
        while v < full {
            four[0] = m.look(four[0], get(v));
            v += 1;
        }
        if tail > 0 {
            four[0] = m.look(four[0], rest());
        }
        for r in 0..R {
            let all = four[0][r].max(four[1][r]).max(four[2][r].max(four[3][r]));
            seen[r] = V::<S, E>::splat(s, all.reduce_max());
        }
    }
    let frame = m.frame(s, seen.map(|v| E::widen(v)[0]), hint);
    let at = frame.map(|w| E::narrow([w, w]));
    let zero = [V::<S, E>::splat(s, E::from_f64(0.0)); K];
    let mut wide = [E::acc_zero(s); K];
    let mut v = 0;
    while v + CHAIN <= full {
        let mut sums = zero;
        for k in 0..CHAIN {
            for from in x {
                prefetch(from.wrapping_add(lanes * (v + k)).wrapping_byte_add(AHEAD));
            }
            sums = m.term::<S, SECOND>(s, &at, get(v + k), sums);
        }
        for k in 0..K {
            wide[k] = E::acc_add(wide[k], sums[k]);
        }
        v += CHAIN;
    }
    if v < full || tail > 0 {
        let mut sums = zero;
        while v * lanes < n {
            // The last class is repeated to fill a vector: it cannot change a maximum, and its sums are blended away.
            let (x, here) = if v < full { (get(v), lanes) } else { (rest(), tail) };
            let here = V::<S, E>::from_fn(s, |j| E::from_f64(j as f64)).simd_lt(E::from_f64(here as f64));
            let more = m.term::<S, SECOND>(s, &at, x, sums);
            for k in 0..K {
                sums[k] = here.select(more[k], sums[k]);
            }
            v += 1;
        }
        for k in 0..K {
            wide[k] = E::acc_add(wide[k], sums[k]);
        }
    }
    (at, wide.map(E::acc_fold))
}
