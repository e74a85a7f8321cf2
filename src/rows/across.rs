//! Lanes across rows: one class of `LANES` rows at a time, no horizontal reduction.

use std::mem::MaybeUninit;

use super::source::{Scratch, Tile};
use super::{Again, BLOCK, CHAIN, Columns, MORE, Measure, Offsets, Rows, Sums, finish, merge, none};
use crate::math::Math;
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
    which: &[usize],
    n: usize,
    offsets: &[Offsets; I],
    scratch: &mut Scratch<E, I>,
    out: &mut Columns<I, O>,
) {
    let mut sums = Sums::new();
    let mut first = 0;
    while first < n {
        let count = (n - first).min(E::LANES);
        let tiles: [Tile<E>; I] = array(|i| {
            let (tile, rows_of) = scratch.split(i);
            rows.inputs[i].tile(s, &offsets[i], rows.lead, which, first, count, rows.classes, tile, rows_of)
        });
        let again = |h: usize, sums: &Sums<R, K>, second: Option<u64>, out: &mut Columns<I, O>| {
            let len = count.saturating_sub(8 * h).min(8);
            finish::<S, E, M, I, R, K, O>(s, m, sums, h, first + 8 * h, len, second, out)
        };
        tile::<S, E, M, I, R, K, O, false>(s, m, &tiles, rows.classes, &[[f64::NAN; 16]; R], &mut sums);
        let mut todo: [Again<R>; 2] = std::array::from_fn(|h| {
            if 8 * h < count { again(h, &sums, None, out) } else { Again { rows: 0, hint: [[0.0; 8]; R] } }
        });
        for _ in 0..MORE {
            if (todo[0].rows | todo[1].rows) == 0 {
                break;
            }
            let mut hint = [[f64::NAN; 16]; R];
            for (h, todo) in todo.iter().enumerate() {
                for (hint, told) in hint.iter_mut().zip(&todo.hint) {
                    for k in (0..8).filter(|k| todo.rows >> k & 1 == 1) {
                        hint[8 * h + k] = told[k];
                    }
                }
            }
            if M::TWO_PASSES {
                tile::<S, E, M, I, R, K, O, true>(s, m, &tiles, rows.classes, &hint, &mut sums);
            } else {
                tile::<S, E, M, I, R, K, O, false>(s, m, &tiles, rows.classes, &hint, &mut sums);
            }
            for (h, todo) in todo.iter_mut().enumerate().filter(|(_, todo)| todo.rows != 0) {
                *todo = again(h, &sums, Some(todo.rows), out);
            }
        }
        first += count;
    }
}

/// Lanes evaluated side by side.
const ABREAST: usize = 4;

/// One pass over `LANES` rows. A function of its own for the sake of what is compiled.
#[inline(never)]
fn tile<
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
    x: &[Tile<E>; I],
    classes: usize,
    hint: &[[f64; 16]; R],
    sums: &mut Sums<R, K>,
) {
    s.vectorize(
        #[inline(always)]
        || {
            let n = classes.min(BLOCK);
            block::<S, E, M, I, R, K, O, SECOND>(s, m, x, 0, n, hint, sums);
            let mut start = n;
            while start < classes {
                let n = (classes - start).min(BLOCK);
                let mut next = Sums::new();
                block::<S, E, M, I, R, K, O, SECOND>(s, m, x, start, n, hint, &mut next);
                for half in 0..E::LANES / 8 {
                    merge::<S, E, M, I, R, K, O>(s, m, sums, half, &next);
                }
                start += n;
            }
        },
    );
}

/// The frames and the sums of `n` classes from `start` of `LANES` rows.
#[inline(always)]
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
    x: &[Tile<E>; I],
    start: usize,
    n: usize,
    hint: &[[f64; 16]; R],
    sums: &mut Sums<R, K>,
) {
    let (lanes, halves) = (E::LANES, E::LANES / 8);
    // SAFETY: a tile holds LANES elements of every class, and start + i < classes.
    let get = |i: usize| -> [V<S, E>; I] { array(|k| unsafe { load(s, x[k].class(start + i)) }) };
    let mut seen = [V::<S, E>::splat(s, E::NEG_INFINITY); R];
    if M::LOOKS {
        for i in 0..n {
            seen = m.look(seen, get(i));
        }
    }
    let seen = each(seen, |v| E::widen(v));
    let mut frames = [[W::splat(s, 0.0); R]; 2];
    for (h, frame) in frames.iter_mut().enumerate().take(halves) {
        *frame = m.frame(s, array(|r| seen[r][h]), array(|r| W::from_slice(s, &hint[r][8 * h..8 * h + 8])));
    }
    let at: [V<S, E>; R] = array(|r| E::narrow([frames[0][r], frames[1][r]]));
    let zero = [V::<S, E>::splat(s, E::ZERO); K];
    let mut lane = [const { MaybeUninit::<[E::Acc<S>; K]>::uninit() }; 16];
    let present = n.min(lanes);
    let mut first = 0;
    while first < present {
        // Independent lanes side by side: a chain of terms is one long dependency.
        let abreast = if first + ABREAST <= present { ABREAST } else { 1 };
        let mut acc = [[E::acc_zero(s); K]; ABREAST];
        let mut start = first;
        while start < n {
            let mut chain = [zero; ABREAST];
            let whole = start + (CHAIN - 1) * lanes + abreast <= n;
            let mut unusual = none::<S, E>(s);
            for step in 0..CHAIN {
                let from = start + step * lanes;
                if abreast == ABREAST && from + ABREAST <= n {
                    for u in 0..ABREAST {
                        let (sums, odd) = m.term::<S, SECOND, false>(s, &at, get(from + u), chain[u]);
                        (chain[u], unusual) = (sums, unusual | odd);
                    }
                } else {
                    for u in 0..abreast.min(n.saturating_sub(from)) {
                        let (sums, odd) = m.term::<S, SECOND, false>(s, &at, get(from + u), chain[u]);
                        (chain[u], unusual) = (sums, unusual | odd);
                    }
                }
                if !whole && from + lanes >= n {
                    break;
                }
            }
            if unusual.any_true() {
                chain = [zero; ABREAST];
                for step in 0..CHAIN {
                    let from = start + step * lanes;
                    for u in 0..abreast.min(n.saturating_sub(from)) {
                        (chain[u], _) = m.term::<S, SECOND, true>(s, &at, get(from + u), chain[u]);
                    }
                }
            }
            // A lane whose classes have run out adds 0, which changes no bit.
            for u in 0..abreast {
                for k in 0..K {
                    acc[u][k] = E::acc_add(acc[u][k], chain[u][k]);
                }
            }
            start += CHAIN * lanes;
        }
        for u in 0..abreast {
            lane[first + u].write(acc[u]);
        }
        first += abreast;
    }
    let mut width = lanes / 2;
    while width > 0 {
        for j in 0..width.min(present.saturating_sub(width)) {
            // SAFETY: j < j + width < present, and the lanes below that have been written.
            let (mut a, b) = unsafe { (lane[j].assume_init(), lane[j + width].assume_init()) };
            for k in 0..K {
                a[k] = E::acc_join(a[k], b[k]);
            }
            lane[j].write(a);
        }
        width /= 2;
    }
    let mut whole = [E::acc_zero(s); K];
    if present > 0 {
        // SAFETY: lane 0 has been written where there is a class.
        whole = unsafe { lane[0].assume_init() };
    }
    for r in 0..R {
        let wide = E::widen(at[r]);
        for h in 0..halves {
            wide[h].store_slice(&mut sums.at[r][8 * h..8 * h + 8]);
        }
    }
    for k in 0..K {
        let rows = E::acc_rows(s, whole[k]);
        for h in 0..halves {
            rows[h].hi.store_slice(&mut sums.hi[k][8 * h..8 * h + 8]);
            rows[h].lo.store_slice(&mut sums.lo[k][8 * h..8 * h + 8]);
        }
    }
}
