//! Lanes along one row.

use std::ops::Range;

use super::source::Scratch;
use super::{
    AHEAD, BLOCK, CHAIN, Columns, GROUP, Hints, MORE, Measure, Offsets, Rows, Sums, finish, merge, no_hints, none,
};
use crate::math::Math;
use crate::parallel;
use crate::simd::*;

#[inline(always)]
pub(super) fn rows<
    S: Simd,
    E: Math,
    M: Measure<E, I, R, K, O>,
    const I: usize,
    const R: usize,
    const K: usize,
    const O: usize,
>(
    s: S,
    m: M,
    rows: &Rows<'_, E, I>,
    range: Range<usize>,
    offsets: &[Offsets; I],
    scratch: &mut Scratch<E, I>,
    out: &mut Columns<I, O>,
) {
    if range.is_empty() {
        return;
    }
    let mut sums = Sums::new();
    let n = range.end;
    for first in range.step_by(8) {
        let count = (n - first).min(8);
        for k in 0..count {
            row::<S, E, M, I, R, K, O, false>(s, m, rows, offsets, first + k, &[f64::NAN; R], scratch, k, &mut sums);
        }
        let mut hints = no_hints();
        let mut again = finish::<S, E, M, I, R, K, O>(s, m, &sums, 0, first, count, None, out, &mut hints);
        for _ in 0..MORE {
            if again == 0 {
                break;
            }
            for k in (0..count).filter(|k| again >> k & 1 == 1) {
                row_again::<S, E, M, I, R, K, O>(s, m, rows, offsets, first + k, &hints, scratch, k, &mut sums);
            }
            again = finish::<S, E, M, I, R, K, O>(s, m, &sums, 0, first, count, Some(again), out, &mut hints);
        }
    }
}

/// One pass more over one row, about what place `k` of the hints tells; its sums go to that place.
#[inline(never)]
pub(super) fn row_again<
    S: Simd,
    E: Math,
    M: Measure<E, I, R, K, O>,
    const I: usize,
    const R: usize,
    const K: usize,
    const O: usize,
>(
    s: S,
    m: M,
    rows: &Rows<'_, E, I>,
    offsets: &[Offsets; I],
    index: usize,
    hints: &Hints<R>,
    scratch: &mut Scratch<E, I>,
    k: usize,
    sums: &mut Sums<R, K>,
) {
    let hint = array(|r| hints[r][k]);
    if M::TWO_PASSES {
        row::<S, E, M, I, R, K, O, true>(s, m, rows, offsets, index, &hint, scratch, k, sums);
    } else {
        row::<S, E, M, I, R, K, O, false>(s, m, rows, offsets, index, &hint, scratch, k, sums);
    }
}

/// One pass over one row; its sums go to place `k`.
#[inline(always)]
fn row<
    S: Simd,
    E: Math,
    M: Measure<E, I, R, K, O>,
    const I: usize,
    const R: usize,
    const K: usize,
    const O: usize,
    const SECOND: bool,
>(
    s: S,
    m: M,
    rows: &Rows<'_, E, I>,
    offsets: &[Offsets; I],
    index: usize,
    hint: &[f64; R],
    scratch: &mut Scratch<E, I>,
    k: usize,
    sums: &mut Sums<R, K>,
) {
    let at: [(isize, isize); I] = array(|i| offsets[i].get(index));
    if rows.classes <= BLOCK {
        let x = array(|i| rows.inputs[i].block(s, at[i], 0, rows.classes, &mut scratch.tile[i]));
        return block::<S, E, M, I, R, K, O, SECOND>(s, m, x, rows.classes, hint, k, sums);
    }
    let mut whole = Sums::new();
    if rows.classes <= GROUP {
        group::<S, E, M, I, R, K, O, SECOND>(s, m, rows, &at, 0, hint, scratch, &mut whole);
    } else {
        let work = |i: usize, out: &mut [f64]| {
            s.vectorize(
                #[inline(always)]
                || {
                    let (mut scratch, mut sums) = (Scratch::<E, I>::new(), Sums::<R, K>::new());
                    group::<S, E, M, I, R, K, O, SECOND>(s, m, rows, &at, i * GROUP, hint, &mut scratch, &mut sums);
                    sums.write_first(out);
                },
            );
        };
        let (mut next, mut is_first) = (Sums::new(), true);
        in_order_of_groups(rows.classes.div_ceil(GROUP), R + 2 * K, rows.threads, &work, &mut |numbers| {
            if std::mem::take(&mut is_first) {
                whole.read_first(numbers);
            } else {
                next.read_first(numbers);
                merge::<S, E, M, I, R, K, O>(s, m, &mut whole, 0, &next);
            }
        });
    }
    sums.set_row(k, &whole);
}

/// Calls `work` with every group's index and room for so many numbers, on up to `threads` threads, and `take` with what it
/// writes there, in order. Not generic, so as to be compiled once.
#[inline(never)]
fn in_order_of_groups(
    groups: usize,
    numbers: usize,
    threads: usize,
    work: &(dyn Fn(usize, &mut [f64]) + Sync),
    take: &mut dyn FnMut(&[f64]),
) {
    let one = |range: Range<usize>| {
        let mut found = vec![0.0; numbers];
        work(range.start, &mut found);
        found
    };
    parallel::in_order(groups, 1, threads, one, |found: Vec<f64>| take(&found));
}

/// The frame and the sums of the group of blocks from class `start` of one row, at the first place of `sums`.
#[inline(never)]
fn group<
    S: Simd,
    E: Math,
    M: Measure<E, I, R, K, O>,
    const I: usize,
    const R: usize,
    const K: usize,
    const O: usize,
    const SECOND: bool,
>(
    s: S,
    m: M,
    rows: &Rows<'_, E, I>,
    at: &[(isize, isize); I],
    start: usize,
    hint: &[f64; R],
    scratch: &mut Scratch<E, I>,
    sums: &mut Sums<R, K>,
) {
    let end = rows.classes.min(start + GROUP);
    let mut next = Sums::new();
    for first in (start..end).step_by(BLOCK) {
        let n = (end - first).min(BLOCK);
        let x = array(|i| rows.inputs[i].block(s, at[i], first, n, &mut scratch.tile[i]));
        if first == start {
            block::<S, E, M, I, R, K, O, SECOND>(s, m, x, n, hint, 0, sums);
        } else {
            block::<S, E, M, I, R, K, O, SECOND>(s, m, x, n, hint, 0, &mut next);
            merge::<S, E, M, I, R, K, O>(s, m, sums, 0, &next);
        }
    }
}

/// The frame and the sums of one block of one row. `x` points to `n` readable elements of each input.
///
/// A function of its own: inlined at its four places it would quadruple what is compiled.
#[inline(never)]
fn block<
    S: Simd,
    E: Math,
    M: Measure<E, I, R, K, O>,
    const I: usize,
    const R: usize,
    const K: usize,
    const O: usize,
    const SECOND: bool,
>(
    s: S,
    m: M,
    x: [*const E; I],
    n: usize,
    hint: &[f64; R],
    k: usize,
    sums: &mut Sums<R, K>,
) {
    s.vectorize(
        #[inline(always)]
        || block_of::<S, E, M, I, R, K, O, SECOND>(s, m, x, n, hint, k, sums),
    );
}

#[inline(always)]
fn block_of<
    S: Simd,
    E: Math,
    M: Measure<E, I, R, K, O>,
    const I: usize,
    const R: usize,
    const K: usize,
    const O: usize,
    const SECOND: bool,
>(
    s: S,
    m: M,
    x: [*const E; I],
    n: usize,
    hint: &[f64; R],
    k: usize,
    sums: &mut Sums<R, K>,
) {
    let lanes = E::LANES;
    let (full, tail) = (n / lanes, n % lanes);
    // SAFETY: v < full, so that lanes·(v + 1) ≤ n elements are readable.
    let get = |v: usize| -> [V<S, E>; I] { array(|i| unsafe { load(s, x[i].add(lanes * v)) }) };
    let rest = || -> [V<S, E>; I] {
        array(|i| {
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
    let frame = m.frame(s, each(seen, |v| E::widen(v)[0]), each(*hint, |h| W::splat(s, h)));
    let at = each(frame, |w| E::narrow([w, w]));
    let zero = [V::<S, E>::splat(s, E::ZERO); K];
    let mut wide = [E::acc_zero(s); K];
    let mut careful = false;
    let mut v = 0;
    while v + CHAIN <= full {
        let mut chain = zero;
        if !careful {
            let mut unusual = none::<S, E>(s);
            for u in 0..CHAIN {
                for from in x {
                    prefetch(from.wrapping_add(lanes * (v + u)).wrapping_byte_add(AHEAD));
                }
                let (sums, odd) = m.term::<S, SECOND, false>(s, &at, get(v + u), chain);
                (chain, unusual) = (sums, unusual | odd);
            }
            careful = unusual.any_true();
        }
        if careful {
            // Until a chain is usual again, the plain terms are not tried.
            let mut unusual = none::<S, E>(s);
            chain = zero;
            for u in 0..CHAIN {
                let (sums, odd) = m.term::<S, SECOND, true>(s, &at, get(v + u), chain);
                (chain, unusual) = (sums, unusual | odd);
            }
            careful = unusual.any_true();
        }
        for j in 0..K {
            wide[j] = E::acc_add(wide[j], chain[j]);
        }
        v += CHAIN;
    }
    if v * lanes < n {
        let mut chain = zero;
        while v * lanes < n {
            // The last class is repeated to fill a vector: it cannot change a maximum, and its sums are blended away.
            let (x, here) = if v < full { (get(v), lanes) } else { (rest(), tail) };
            let here = V::<S, E>::from_fn(s, |j| E::from_f64(j as f64)).simd_lt(E::from_f64(here as f64));
            let (mut more, odd) = m.term::<S, SECOND, false>(s, &at, x, chain);
            if odd.any_true() {
                (more, _) = m.term::<S, SECOND, true>(s, &at, x, chain);
            }
            for j in 0..K {
                chain[j] = here.select(more[j], chain[j]);
            }
            v += 1;
        }
        for j in 0..K {
            wide[j] = E::acc_add(wide[j], chain[j]);
        }
    }
    for r in 0..R {
        sums.at[r][k] = E::widen(at[r])[0].to_array()[0];
    }
    for j in 0..K {
        (sums.hi[j][k], sums.lo[j][k]) = E::acc_fold(wide[j]);
    }
}
