//! Lanes along one row.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::source::Scratch;
use super::{AHEAD, BLOCK, Columns, GROUP, Hints, MORE, Measure, Sums, TRIAL, Work, are_told, no_hints, none};
use crate::math::Math;
use crate::parallel;
use crate::simd::*;

/// Rows that are evaluated together: what a row costs by itself (its maxima to a frame, the lanes of its sums to one) is
/// then a vector across rows.
const TOGETHER: usize = 8;

impl<S: Simd, E: Math, M: Measure<E, I, R, K, O>, const I: usize, const R: usize, const K: usize, const O: usize>
    Work<'_, S, E, M, I, R, K, O>
{
    /// Rows of the batch, lanes along each.
    #[inline(always)]
    pub(super) fn along(&self, range: Range<usize>, scratch: &mut Scratch<E, I>, out: &mut Columns<I, O>) {
        if range.is_empty() {
            return;
        }
        let mut sums = Sums::new();
        let n = range.end;
        for first in range.step_by(8) {
            let count = (n - first).min(8);
            let all = (1 << count) - 1;
            let mut hints = no_hints();
            self.passes::<false>(first, all, &hints, scratch, &mut sums);
            let mut again = self.finish(&sums, 0, first, count, None, out, &mut hints);
            for _ in 0..MORE {
                if again == 0 {
                    break;
                }
                self.pass_again(first, again, &hints, scratch, &mut sums);
                again = self.finish(&sums, 0, first, count, Some(again), out, &mut hints);
            }
        }
    }

    /// One pass more over the rows `first` + k whose bit k is set in `which`, about what place k of the hints tells; their sums
    /// go to that place.
    #[inline(never)]
    pub(super) fn pass_again(
        &self,
        first: usize,
        which: u64,
        hints: &Hints<R>,
        scratch: &mut Scratch<E, I>,
        sums: &mut Sums<R, K>,
    ) {
        if M::TWO_PASSES {
            self.passes::<true>(first, which, hints, scratch, sums);
        } else {
            self.passes::<false>(first, which, hints, scratch, sums);
        }
    }

    /// One pass over the rows `first` + k whose bit k is set in `which`; the sums of each go to place k.
    #[inline(always)]
    fn passes<const SECOND: bool>(
        &self,
        first: usize,
        mut which: u64,
        hints: &Hints<R>,
        scratch: &mut Scratch<E, I>,
        sums: &mut Sums<R, K>,
    ) {
        let Work { s, rows, offsets, .. } = *self;
        let classes = rows.classes;
        if classes > BLOCK {
            while which != 0 {
                self.one::<SECOND>(first, next_bit(&mut which), hints, scratch, sums);
            }
            return;
        }
        // As many rows as stay near while they are read twice, and fit the scratch of a block where they are staged.
        let step = classes.next_multiple_of(E::LANES).max(BLOCK / TOGETHER);
        while which != 0 {
            let (mut place, mut count) = ([0; TOGETHER], 0);
            let mut x = [[std::ptr::null(); I]; TOGETHER];
            while which != 0 && count < BLOCK / step {
                let k = next_bit(&mut which);
                x[count] = array(|i| {
                    let room = &mut scratch.tile[i][count * step..];
                    rows.inputs[i].block(s, offsets[i].get(first + k), 0, classes, room)
                });
                place[count] = k;
                count += 1;
            }
            self.block::<SECOND>(&x[..count], classes, &place, hints, sums);
        }
    }

    /// One pass over row `first` + k, of several blocks.
    #[inline(always)]
    fn one<const SECOND: bool>(
        &self,
        first: usize,
        k: usize,
        hints: &Hints<R>,
        scratch: &mut Scratch<E, I>,
        sums: &mut Sums<R, K>,
    ) {
        let Work { s, rows, offsets, .. } = *self;
        let at: [(isize, isize); I] = array(|i| offsets[i].get(first + k));
        let hint = &array(|r| [hints[r][k]; 16]);
        let mut whole = Sums::new();
        if rows.classes <= GROUP {
            self.group::<SECOND>(&at, 0, hint, scratch, &mut whole);
        } else {
            let work = |i: usize, out: &mut [f64]| {
                s.vectorize(
                    #[inline(always)]
                    || {
                        let (mut scratch, mut sums) = (Scratch::<E, I>::new(), Sums::<R, K>::new());
                        self.group::<SECOND>(&at, i * GROUP, hint, &mut scratch, &mut sums);
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
                    self.merge(&mut whole, 0, &next);
                }
            });
        }
        sums.set_row(k, &whole);
    }

    /// The frame and the sums of the group of blocks from class `start` of one row, at the first place of `sums`.
    #[inline(never)]
    fn group<const SECOND: bool>(
        &self,
        at: &[(isize, isize); I],
        start: usize,
        hint: &Hints<R>,
        scratch: &mut Scratch<E, I>,
        sums: &mut Sums<R, K>,
    ) {
        let Work { s, rows, .. } = *self;
        let end = rows.classes.min(start + GROUP);
        let mut next = Sums::new();
        for first in (start..end).step_by(BLOCK) {
            let n = (end - first).min(BLOCK);
            let x = [array(|i| rows.inputs[i].block(s, at[i], first, n, &mut scratch.tile[i]))];
            let into = if first == start { &mut *sums } else { &mut next };
            self.block::<SECOND>(&x, n, &[0; TOGETHER], hint, into);
            if first > start {
                self.merge(sums, 0, &next);
            }
        }
    }

    /// The frames and the sums of one block of each of up to [`TOGETHER`] rows; those of row j go to place `place[j]`, where its
    /// hint is. `x` points to `n` readable elements of each input of every row.
    ///
    /// A function of its own: inlined at each of its places it would multiply what is compiled.
    #[inline(never)]
    fn block<const SECOND: bool>(
        &self,
        x: &[[*const E; I]],
        n: usize,
        place: &[usize; TOGETHER],
        hints: &Hints<R>,
        sums: &mut Sums<R, K>,
    ) {
        self.s.vectorize(
            #[inline(always)]
            || self.block_of::<SECOND>(x, n, place, hints, sums),
        );
    }

    #[inline(always)]
    fn block_of<const SECOND: bool>(
        &self,
        x: &[[*const E; I]],
        n: usize,
        place: &[usize; TOGETHER],
        hints: &Hints<R>,
        sums: &mut Sums<R, K>,
    ) {
        let Work { s, m, .. } = *self;
        let lanes = E::LANES;
        let (full, tail) = (n / lanes, n % lanes);
        // SAFETY: called for elements that are there.
        let at = |x: [*const E; I], from: usize| -> [V<S, E>; I] { array(|i| unsafe { load(s, x[i].add(from)) }) };
        let mut tails = [[const { Tail::<E>::uninit() }; I]; TOGETHER];
        let mut seen = [[E::NEG_INFINITY; 16]; R];
        for (j, x) in x.iter().enumerate() {
            if tail > 0 {
                // SAFETY: the row has n > 0 elements of each input.
                (0..I).for_each(|i| unsafe { tails[j][i].fill::<S>(s, x[i], n) });
            }
            if M::LOOKS {
                let mut four = [[V::<S, E>::splat(s, E::NEG_INFINITY); R]; 4];
                let mut v = 0;
                while v + 4 <= full {
                    for k in 0..4 {
                        four[k] = m.look(four[k], at(*x, lanes * (v + k)));
                    }
                    v += 4;
                }
                while v < full {
                    four[0] = m.look(four[0], at(*x, lanes * v));
                    v += 1;
                }
                if tail > 0 {
                    // Maxima may be of classes that were seen before. SAFETY: the tails have been filled.
                    let last = if full > 0 { at(*x, n - lanes) } else { array(|i| unsafe { tails[j][i].get(s, n) }) };
                    four[0] = m.look(four[0], last);
                }
                for r in 0..R {
                    seen[r][j] = four[0][r].max(four[1][r]).max(four[2][r].max(four[3][r])).reduce_max();
                }
            }
        }
        // Lanes are rows here.
        let hint = array(|r| W::from_fn(s, |j| hints[r][place[j]]));
        let frame = m.frame(s, array(|r| W::from_fn(s, |j| seen[r][j].to_f64())), hint);
        let mut frames = stored::<S, E, R>(frame);
        if M::TRIES && !are_told(hints) {
            frames = stored::<S, E, R>(self.tried_along(x, n, &tails, frame, &frames));
        }
        let mut lane = [[const { MaybeUninit::<E::Acc<S>>::uninit() }; TOGETHER]; K];
        for (j, x) in x.iter().enumerate() {
            let frame = array(|r| V::<S, E>::splat(s, frames[r][j]));
            let zero = [V::<S, E>::splat(s, E::ZERO); K];
            let (mut counts, mut wide) = (zero, [E::acc_zero(s); K]);
            let mut careful = false;
            let mut v = 0;
            while v + M::CHAIN <= full {
                let mut chain = zero;
                if !careful {
                    let mut unusual = none::<S, E>(s);
                    for u in 0..M::CHAIN {
                        ahead(x, lanes * (v + u));
                        let (sums, odd) = m.term::<S, SECOND, false>(s, &frame, at(*x, lanes * (v + u)), chain);
                        (chain, unusual) = (sums, unusual | odd);
                    }
                    careful = unusual.any_true();
                }
                if careful {
                    // Until a chain is usual again, the plain terms are not tried.
                    let mut unusual = none::<S, E>(s);
                    chain = zero;
                    for u in 0..M::CHAIN {
                        let (sums, odd) = m.term::<S, SECOND, true>(s, &frame, at(*x, lanes * (v + u)), chain);
                        (chain, unusual) = (sums, unusual | odd);
                    }
                    careful = unusual.any_true();
                }
                Self::add_chain(chain, &mut counts, &mut wide);
                v += M::CHAIN;
            }
            if v * lanes < n {
                let mut chain = zero;
                while v * lanes < n {
                    ahead(x, lanes * v);
                    let (x, here) = if v < full {
                        (at(*x, lanes * v), lanes)
                    } else {
                        // SAFETY: the tails have been filled where n is no multiple of LANES.
                        (array(|i| unsafe { tails[j][i].get(s, n) }), tail)
                    };
                    let here = first_lanes::<S, E>(s, here);
                    let (mut more, odd) = m.term::<S, SECOND, false>(s, &frame, x, chain);
                    if odd.any_true() {
                        (more, _) = m.term::<S, SECOND, true>(s, &frame, x, chain);
                    }
                    for k in 0..K {
                        chain[k] = here.select(more[k], chain[k]);
                    }
                    v += 1;
                }
                Self::add_chain(chain, &mut counts, &mut wide);
            }
            for k in 0..K {
                lane[k][j].write(if M::EXACT[k] { E::acc_of(s, counts[k]) } else { wide[k] });
            }
        }
        for r in 0..R {
            for (j, place) in place.iter().enumerate().take(x.len()) {
                sums.at[r][*place] = frames[r][j].to_f64();
            }
        }
        for k in 0..K {
            // SAFETY: every row has written its lanes.
            let lane = |j: usize| unsafe { lane[k][j].assume_init() };
            // Of one row a third of the steps are left.
            let folded = if x.len() == 1 {
                E::acc_fold([lane(0); TOGETHER])
            } else {
                E::acc_fold(array(|j| lane(j.min(x.len() - 1))))
            };
            let (hi, lo) = (folded.hi.to_array(), folded.lo.to_array());
            for (j, place) in place.iter().enumerate().take(x.len()) {
                (sums.hi[k][*place], sums.lo[k][*place]) = (hi[j], lo[j]);
            }
        }
    }

    /// Adds a chain to the sums of its lanes: to those that are whole numbers as it is.
    #[inline(always)]
    fn add_chain(chain: [V<S, E>; K], counts: &mut [V<S, E>; K], wide: &mut [E::Acc<S>; K]) {
        for k in 0..K {
            if M::EXACT[k] {
                counts[k] += chain[k];
            } else {
                wide[k] = E::acc_add(wide[k], chain[k]);
            }
        }
    }

    /// The frames of the block of each row that a trial makes of the first.
    #[inline(always)]
    fn tried_along(
        &self,
        x: &[[*const E; I]],
        n: usize,
        tails: &[[Tail<E>; I]; TOGETHER],
        frame: [W<S>; R],
        frames: &[[E; 16]; R],
    ) -> [W<S>; R] {
        let Work { s, m, .. } = *self;
        let (lanes, zero) = (E::LANES, V::<S, E>::splat(s, E::ZERO));
        let (full, tail) = (n / lanes, n % lanes);
        let mut sums = [[zero; TOGETHER]; 2];
        for (j, x) in x.iter().enumerate() {
            let frame = array(|r| V::<S, E>::splat(s, frames[r][j]));
            let mut sum = [zero; 2];
            for v in 0..full.min(TRIAL) {
                // SAFETY: the row has n elements of each input.
                sum = m.trial(s, &frame, array(|i| unsafe { load(s, x[i].add(lanes * v)) }), sum);
            }
            if full < TRIAL && tail > 0 {
                // SAFETY: the tails have been filled.
                let more = m.trial(s, &frame, array(|i| unsafe { tails[j][i].get(s, n) }), sum);
                let here = first_lanes::<S, E>(s, tail);
                sum = array(|k| here.select(more[k], sum[k]));
            }
            (sums[0][j], sums[1][j]) = (sum[0], sum[1]);
        }
        m.tried(s, frame, fold::<S, E>(sums), n <= TRIAL * lanes)
    }
}

/// Frames as lanes of rows, for the terms to splat.
#[inline(always)]
fn stored<S: Simd, E: Element, const R: usize>(frame: [W<S>; R]) -> [[E; 16]; R] {
    let mut stored = [[E::ZERO; 16]; R];
    for (to, lanes) in stored.iter_mut().zip(frame) {
        // SAFETY: an array of 16 holds a vector.
        unsafe { store::<S, E>(E::narrow([lanes, lanes]), to.as_mut_ptr()) };
    }
    stored
}

/// The first `n` lanes.
#[inline(always)]
fn first_lanes<S: Simd, E: Element>(s: S, n: usize) -> M<S, E> {
    V::<S, E>::from_fn(s, |j| E::from_f64(j as f64)).simd_lt(E::from_f64(n as f64))
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

/// Takes the lowest bit that is set.
#[inline(always)]
fn next_bit(bits: &mut u64) -> usize {
    let k = bits.trailing_zeros() as usize;
    *bits &= *bits - 1;
    k
}

/// Asks for the lines that lie [`AHEAD`] of an element of each input.
#[inline(always)]
fn ahead<E, const I: usize>(x: &[*const E; I], element: usize) {
    x.iter().for_each(|x| prefetch(x.wrapping_add(element).wrapping_byte_add(AHEAD)));
}

/// The last classes of a row where they fill no vector, and the very last repeated: it cannot change a maximum, and its
/// terms are blended away.
#[derive(Clone, Copy)]
struct Tail<E: Copy>(MaybeUninit<[E; 32]>);

impl<E: Element> Tail<E> {
    const fn uninit() -> Self {
        Tail(MaybeUninit::uninit())
    }

    /// # Safety
    /// `n` > 0 elements must be readable at `x`.
    #[inline(always)]
    unsafe fn fill<S: Simd>(&mut self, s: S, x: *const E, n: usize) {
        let (to, lanes) = (self.0.as_mut_ptr().cast::<E>(), E::LANES);
        // SAFETY: elements up to n − 1 are readable, and there is room for 32.
        unsafe {
            if n < lanes {
                (0..lanes).for_each(|j| to.add(j).write(x.add(j.min(n - 1)).read_unaligned()));
            } else {
                store::<S, E>(load(s, x.add(n - lanes)), to);
                store::<S, E>(V::<S, E>::splat(s, x.add(n - 1).read_unaligned()), to.add(lanes));
            }
        }
    }

    /// The vector of the last `n % LANES` classes of `n`.
    ///
    /// # Safety
    /// It must have been filled.
    #[inline(always)]
    unsafe fn get<S: Simd>(&self, s: S, n: usize) -> V<S, E> {
        let skipped = if n < E::LANES { 0 } else { E::LANES - n % E::LANES };
        // SAFETY: as the caller vouches.
        unsafe { load(s, self.0.as_ptr().cast::<E>().add(skipped)) }
    }
}
