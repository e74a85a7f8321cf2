//! Lanes across rows: one class of `LANES` rows at a time, no horizontal reduction.

use super::source::{Scratch, Tile};
use super::{BLOCK, CHAIN, Columns, Measure, Offsets, Part, Rows, finish, merge};
use crate::math::Math;
use crate::simd::*;

#[inline(always)]
pub(super) fn rows<S: Simd, E: Math, M: Measure<E, I, R, K, O>, const I: usize, const R: usize, const K: usize, const O: usize>(
    s: S,
    m: M,
    rows: &Rows<'_, E, I>,
    which: &[usize],
    offsets: &[Offsets; I],
    scratch: &mut Scratch<E, I>,
    out: &mut Columns<I, O>,
) {
    let halves = E::LANES / 8;
    let n = which.len();
    let mut first = 0;
    while first < n {
        let count = (n - first).min(E::LANES);
        let tiles: [Tile<E>; I] = std::array::from_fn(|i| {
            let (tile, rows_of) = scratch.split(i);
            rows.inputs[i].tile(s, &offsets[i], rows.lead, which, first, count, rows.classes, tile, rows_of)
        });
        let nan = [V::<S, E>::splat(s, E::from_f64(f64::NAN)); R].map(|v| E::widen(v));
        let none = [W::splat(s, 0.0); O];
        let parts = tile::<S, E, M, I, R, K, O, false>(s, m, &tiles, rows.classes, nan);
        let mut done = [finish::<S, E, M, I, R, K, O>(s, m, parts[0], false, none), finish::<S, E, M, I, R, K, O>(s, m, parts[halves - 1], false, none)];
        let live = |h: usize| (1u64 << count.saturating_sub(8 * h).min(8)) - 1;
        let again = |h: usize| done[h].again.to_bitmask() & live(h);
        if again(0) | (again(1) * (halves as u64 - 1)) != 0 {
            let hint: [[W<S>; 2]; R] = std::array::from_fn(|r| {
                let pick = |h: usize| done[h].again.select(done[h].hint[r], W::splat(s, f64::NAN));
                [pick(0), pick(1)]
            });
            let parts = if M::TWO_PASSES {
                tile::<S, E, M, I, R, K, O, true>(s, m, &tiles, rows.classes, hint)
            } else {
                tile::<S, E, M, I, R, K, O, false>(s, m, &tiles, rows.classes, hint)
            };
            for h in 0..halves {
                let second = finish::<S, E, M, I, R, K, O>(s, m, parts[h], true, done[h].value);
                for k in 0..O {
                    done[h].value[k] = done[h].again.select(second.value[k], done[h].value[k]);
                }
            }
        }
        for h in 0..halves {
            let (from, len) = (first + 8 * h, count.saturating_sub(8 * h).min(8));
            for k in 0..O {
                out.value[k][from..from + len].copy_from_slice(&done[h].value[k].to_array()[..len]);
            }
            for k in 0..I {
                out.mass[k][from..from + len].copy_from_slice(&done[h].mass[k].to_array()[..len]);
            }
        }
        first += count;
    }
}

/// One pass over `LANES` rows: their parts, 8 rows each. A function of its own for the sake of what is compiled.
#[inline(never)]
fn tile<S: Simd, E: Math, M: Measure<E, I, R, K, O>, const I: usize, const R: usize, const K: usize, const O: usize, const SECOND: bool>(
    s: S,
    m: M,
    x: &[Tile<E>; I],
    classes: usize,
    hint: [[W<S>; 2]; R],
) -> [Part<S, R, K>; 2] {
    s.vectorize(
        #[inline(always)]
        || tile_of::<S, E, M, I, R, K, O, SECOND>(s, m, x, classes, hint),
    )
}

#[inline(always)]
fn tile_of<S: Simd, E: Math, M: Measure<E, I, R, K, O>, const I: usize, const R: usize, const K: usize, const O: usize, const SECOND: bool>(
    s: S,
    m: M,
    x: &[Tile<E>; I],
    classes: usize,
    hint: [[W<S>; 2]; R],
) -> [Part<S, R, K>; 2] {
    let lanes = E::LANES;
    let zero = [V::<S, E>::splat(s, E::from_f64(0.0)); K];
    let mut whole: Option<[Part<S, R, K>; 2]> = None;
    let mut start = 0;
    while start < classes || whole.is_none() {
        let n = (classes - start).min(BLOCK);
        // SAFETY: a tile holds LANES elements of every class, and start + i < classes.
        let get = |i: usize| -> [V<S, E>; I] { std::array::from_fn(|k| unsafe { load(s, x[k].class(start + i)) }) };
        let mut seen = [V::<S, E>::splat(s, E::NEG_INFINITY); R];
        if M::LOOKS {
            for i in 0..n {
                seen = m.look(seen, get(i));
            }
        }
        let seen = seen.map(|v| E::widen(v));
        let frames: [[W<S>; R]; 2] =
            std::array::from_fn(|h| m.frame(s, std::array::from_fn(|r| seen[r][h]), std::array::from_fn(|r| hint[r][h])));
        let at: [V<S, E>; R] = std::array::from_fn(|r| E::narrow([frames[0][r], frames[1][r]]));
        let mut lane = [[E::acc_zero(s); K]; 16];
        for (j, wide) in lane.iter_mut().enumerate().take(n.min(lanes)) {
            let mut i = j;
            while i < n {
                let mut sums = zero;
                let mut k = 0;
                while k < CHAIN && i < n {
                    sums = m.term::<S, SECOND>(s, &at, get(i), sums);
                    i += lanes;
                    k += 1;
                }
                for k in 0..K {
                    wide[k] = E::acc_add(wide[k], sums[k]);
                }
            }
        }
        let mut w = lanes / 2;
        while w > 0 {
            for j in 0..w.min(n.saturating_sub(w)) {
                for k in 0..K {
                    lane[j][k] = E::acc_join(lane[j][k], lane[j + w][k]);
                }
            }
            w /= 2;
        }
        let at = at.map(|v| E::widen(v));
        let sum = lane[0].map(|acc| E::acc_rows(s, acc));
        let parts: [Part<S, R, K>; 2] = std::array::from_fn(|h| Part {
            at: std::array::from_fn(|r| at[r][h]),
            sum: std::array::from_fn(|k| sum[k][h]),
        });
        whole = Some(match whole {
            None => parts,
            Some([a, b]) => [
                merge::<S, E, M, I, R, K, O>(s, m, a, parts[0]),
                if lanes == 16 { merge::<S, E, M, I, R, K, O>(s, m, b, parts[1]) } else { parts[1] },
            ],
        });
        start += n.max(1);
    }
    // The loop runs at least once.
    whole.unwrap_or_else(|| unreachable!())
}
