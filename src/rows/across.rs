//! Lanes across rows: one class of `LANES` rows at a time, no horizontal reduction.

use std::mem::MaybeUninit;

use super::source::{Scratch, Tile};
use super::{BLOCK, Columns, GROUP, Hints, MORE, Measure, SHORT, Sums, TRIAL, Work, are_told, no_hints, none};
use crate::math::Math;
use crate::simd::*;

/// Up to so many rows of a tile are passed once more along the rows: at C = 10 a tile took as long as seven or eight by themselves,
/// and of rows that differ by noise one in twelve asks, which is one or two of 16. Long columns are too far apart for that.
const LONE: u32 = 6;

impl<S: Simd, E: Math, M: Measure<E, I, R, K, O>, const I: usize, const R: usize, const K: usize, const O: usize>
    Work<'_, S, E, M, I, R, K, O>
{
    /// The first `n` rows of the batch, in tiles.
    #[inline(always)]
    pub(super) fn across(&self, n: usize, scratch: &mut Scratch<E, I>, out: &mut Columns<I, O>) {
        if n == 0 {
            return;
        }
        let Work { s, rows, which, offsets, .. } = *self;
        let mut sums = Sums::new();
        let mut first = 0;
        while first < n {
            let count = (n - first).min(E::LANES);
            let tiles: [Tile<E>; I] = array(|i| {
                let (tile, rows_of) = scratch.split(i);
                rows.inputs[i].tile(s, &offsets[i], rows.lead, which, first, count, rows.classes, tile, rows_of)
            });
            let mut hints = no_hints();
            self.tile::<false>(&tiles, &hints, &mut sums);
            let mut again = [0; 2];
            for (h, again) in again.iter_mut().enumerate() {
                if 8 * h < count {
                    let len = (count - 8 * h).min(8);
                    *again = self.finish(&sums, h, first + 8 * h, len, None, out, &mut hints);
                }
            }
            for _ in 0..MORE {
                if (again[0] | again[1]) == 0 {
                    break;
                }
                let asked = again[0] | again[1] << 8;
                if rows.classes <= SHORT && asked.count_ones() <= LONE {
                    // Fewer rows ask each time, so that the tile, whose room this takes, is not read again.
                    self.pass_again(first, asked, &hints, scratch, &mut sums);
                } else if M::TWO_PASSES {
                    self.tile::<true>(&tiles, &hints, &mut sums);
                } else {
                    self.tile::<false>(&tiles, &hints, &mut sums);
                }
                hints = no_hints();
                for (h, again) in again.iter_mut().enumerate().filter(|(_, again)| **again != 0) {
                    let second = Some(*again);
                    *again = self.finish(&sums, h, first + 8 * h, 8, second, out, &mut hints);
                }
            }
            first += count;
        }
    }

    /// One pass over `LANES` rows. A function of its own for the sake of what is compiled.
    #[inline(never)]
    fn tile<const SECOND: bool>(&self, x: &[Tile<E>; I], hint: &Hints<R>, sums: &mut Sums<R, K>) {
        self.s.vectorize(
            #[inline(always)]
            || self.tile_of::<SECOND>(x, hint, sums),
        );
    }

    #[inline(always)]
    fn tile_of<const SECOND: bool>(&self, x: &[Tile<E>; I], hint: &Hints<R>, sums: &mut Sums<R, K>) {
        let classes = self.rows.classes;
        let n = classes.min(BLOCK);
        self.tile_block::<SECOND>(x, 0, n, hint, sums);
        if classes == n {
            return;
        }
        let (mut group, mut next) = (Sums::new(), Sums::new());
        let join = |sums: &mut Sums<R, K>, part: &Sums<R, K>| {
            (0..E::LANES / 8).for_each(|half| self.merge(sums, half, part));
        };
        for start in (n..classes).step_by(BLOCK) {
            let n = (classes - start).min(BLOCK);
            let opens = start.is_multiple_of(GROUP);
            let into = if opens { &mut group } else { &mut next };
            self.tile_block::<SECOND>(x, start, n, hint, into);
            if !opens {
                join(if start < GROUP { sums } else { &mut group }, &next);
            }
            let closes = (start + n).is_multiple_of(GROUP) || start + n == classes;
            if closes && start >= GROUP {
                join(sums, &group);
            }
        }
    }

    /// The frames and the sums of `n` classes from `start` of `LANES` rows.
    #[inline(always)]
    fn tile_block<const SECOND: bool>(
        &self,
        x: &[Tile<E>; I],
        start: usize,
        n: usize,
        hint: &Hints<R>,
        sums: &mut Sums<R, K>,
    ) {
        let Work { s, m, .. } = *self;
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
        let mut at: [V<S, E>; R] = array(|r| E::narrow([frames[0][r], frames[1][r]]));
        let present = n.min(lanes);
        if M::TRIES && !are_told(hint) {
            let sums = self.trial_across(&at, n, get);
            for (h, frame) in frames.iter_mut().enumerate().take(halves) {
                *frame = m.tried(s, *frame, each(sums, |sum| sum[h]), n <= TRIAL * lanes);
            }
            at = array(|r| E::narrow([frames[0][r], frames[1][r]]));
        }
        let quarter = lanes / 4;
        let (mut counts, mut part) =
            ([V::<S, E>::splat(s, E::ZERO); K], [[const { MaybeUninit::<E::Acc<S>>::uninit() }; K]; 4]);
        // One lane after the other: by two or four, as chains that do not wait for each other, tiles took 1.0 to 1.25 times as long,
        // for the sums of more lanes than one leave the registers.
        for first in 0..present.min(quarter) {
            // Lanes of different quarters meet before all others do: of the first and the third, of the second and the fourth.
            let mut pairs = [[const { MaybeUninit::<E::Acc<S>>::uninit() }; K]; 2];
            for (place, of) in [0, 2, 1, 3].into_iter().enumerate() {
                let here = of * quarter + first;
                if here >= present {
                    continue;
                }
                let mut lane = [const { MaybeUninit::<E::Acc<S>>::uninit() }; K];
                for start in (0..n).step_by(M::CHAIN * lanes) {
                    let sums = self.chain::<SECOND>(&at, start + here, n, get);
                    for k in 0..K {
                        let lane = &mut lane[k];
                        if M::EXACT[k] {
                            counts[k] += sums[k];
                        } else if start == 0 {
                            lane.write(E::acc_of(s, sums[k]));
                        } else {
                            // SAFETY: the first round has written it.
                            lane.write(E::acc_add(unsafe { lane.assume_init() }, sums[k]));
                        }
                    }
                }
                for k in (0..K).filter(|k| !M::EXACT[*k]) {
                    let pair = &mut pairs[place / 2][k];
                    // SAFETY: a lane that is present has been written, and so has the one that it meets, which is before it.
                    unsafe {
                        let x = lane[k].assume_init();
                        pair.write(if place % 2 == 0 { x } else { E::acc_join(pair.assume_init(), x) });
                    }
                }
            }
            for k in (0..K).filter(|k| !M::EXACT[*k]) {
                // SAFETY: the lane of the first quarter is present, and that of the second where it says so.
                unsafe {
                    let (x, second) = (pairs[0][k].assume_init(), pairs[1][k]);
                    let meets = quarter + first < present;
                    part[first][k].write(if meets { E::acc_join(x, second.assume_init()) } else { x });
                }
            }
        }
        let mut width = quarter / 2;
        while width > 0 {
            for j in 0..width.min(present.saturating_sub(width)) {
                for k in (0..K).filter(|k| !M::EXACT[*k]) {
                    // SAFETY: j < j + width < present, and the parts below that have been written.
                    let (a, b) = unsafe { (part[j][k].assume_init(), part[j + width][k].assume_init()) };
                    part[j][k].write(E::acc_join(a, b));
                }
            }
            width /= 2;
        }
        let whole: [E::Acc<S>; K] = array(|k| {
            if M::EXACT[k] {
                E::acc_of(s, counts[k])
            } else if present > 0 {
                // SAFETY: the first part has been written where there is a class.
                unsafe { part[0][k].assume_init() }
            } else {
                E::acc_zero(s)
            }
        });
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

    /// The chain of a lane of a tile from class `from` of `n` on.
    #[inline(always)]
    fn chain<const SECOND: bool>(
        &self,
        at: &[V<S, E>; R],
        from: usize,
        n: usize,
        get: impl Fn(usize) -> [V<S, E>; I],
    ) -> [V<S, E>; K] {
        let (s, m) = (self.s, self.m);
        let zero = [V::<S, E>::splat(s, E::ZERO); K];
        let (mut sums, mut unusual) = (zero, none::<S, E>(s));
        for i in (from..n).step_by(E::LANES).take(M::CHAIN) {
            let (sum, odd) = m.term::<S, SECOND, false>(s, at, get(i), sums);
            (sums, unusual) = (sum, unusual | odd);
        }
        if unusual.any_true() {
            sums = zero;
            for i in (from..n).step_by(E::LANES).take(M::CHAIN) {
                (sums, _) = m.term::<S, SECOND, true>(s, at, get(i), sums);
            }
        }
        sums
    }

    /// The sums of a trial of `n` classes, in the order of [`fold`].
    #[inline(always)]
    fn trial_across(&self, at: &[V<S, E>; R], n: usize, get: impl Fn(usize) -> [V<S, E>; I]) -> [[W<S>; 2]; 2] {
        let (s, lanes) = (self.s, E::LANES);
        let mut lane = [[V::<S, E>::splat(s, E::ZERO); 2]; 16];
        let present = n.min(lanes);
        for (j, sums) in lane.iter_mut().enumerate().take(present) {
            for i in (j..n).step_by(lanes).take(TRIAL) {
                *sums = self.m.trial(s, at, get(i), *sums);
            }
        }
        let mut width = lanes / 2;
        while width > 0 {
            for j in 0..width.min(present.saturating_sub(width)) {
                lane[j] = array(|k| lane[j][k] + lane[j + width][k]);
            }
            width /= 2;
        }
        each(lane[0], |sum| E::widen(sum))
    }
}
