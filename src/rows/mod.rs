//! Rows of distributions: what a measure is, and the two ways of walking over rows that evaluate it.
//!
//! **The order of summation** is a function of the measure and the number of classes C alone. In blocks of [`BLOCK`] classes, class i
//! belongs to lane i mod `LANES`; a lane adds [`Measure::CHAIN`] classes in the element's own precision, then widens and adds
//! chains; the lanes meet on a tree; blocks merge in order within a [`GROUP`], then the groups. `along` evaluates it with
//! lanes = classes of one row, `across` with lanes = rows, and the groups of one vast row may be different threads': all
//! that is a matter of speed and never changes a bit.

mod across;
mod along;
mod cached;
mod emit;
pub(crate) mod source;

pub use cached::{Cached, Same};
pub use emit::{Emit, Target, emit_rows};
pub use source::{Dtype, Input, Lead, Map, Mask};

use std::mem::MaybeUninit;

use crate::math::Math;
use crate::simd::*;

/// Classes that share one frame and one set of lane sums: two `f32` inputs of it fill a third of a 48 KiB L1.
pub const BLOCK: usize = 2048;
const _: () = assert!(BLOCK < 1 << 24, "an `f32` counts the classes of a block");
/// Bytes between the element in work and the line asked for. One block ahead, so that the next look finds it near:
/// 8 KiB gave 28–30 GB/s where no prefetch gave 14 and merely reading takes 37.
const AHEAD: usize = 8192;
/// Classes whose blocks merge before groups of them do: what a thread takes of a row that is split, 20 µs of work or more.
pub const GROUP: usize = 32 * BLOCK;
/// Vectors of classes that a trial sees. By the mean gap of 64 classes in 1000 (logits of deviation 2, gaps of normal noise) four
/// KL in a hundred are passed again; by that of 32, eight.
const TRIAL: usize = 4;
/// Passes after the first that a row may ask for.
const MORE: usize = 2;
/// Rows handed to the sink at once.
pub const BATCH: usize = 128;
/// Fewer rows than this are not worth a tile.
const FEW: usize = 3;
/// Bytes of elements that are made of columns of another dtype at once.
const STAGED: usize = 2 << 20;
/// Rows of at most this many classes may go through lanes-across-rows; the scratch of a tile bounds it.
pub const SHORT: usize = 128;
/// Row-major rows of at most so many classes do, after a transpose in L1.
///
/// Where a register holds a logical vector, across takes for one input 0.5 of along's time at 10 classes, 0.7 to 0.95 at 32 and
/// 0.9 to 1.25 at 40; for more 0.5 to 0.65 at 10, 0.7 to 1.05 at 24 and 0.8 to 1.5 at 32. From memory it takes twice the time at
/// 100. Of `f64` the two meet at 32, of more inputs at 24. Where two registers do (AVX2) it takes for one input 0.7 to 0.9 at 48
/// (`f64`: 0.65 to 0.85 at 24), for more 0.7 at 40 and 0.8 to 1.45 at 48 (`f64`: 0.85 at 20, 1.06 to 1.5 at 24).
const fn across<S: Simd, E: Element>(inputs: usize) -> usize {
    match (is_wide::<S>(), inputs) {
        (true, 1) => E::LANES + 23,
        (true, _) => E::LANES + 15,
        (false, 1) => E::LANES * 3,
        (false, _) => E::LANES * 5 / 2,
    }
}

/// What is known of some classes of 8 rows: the frame that their sums refer to, and the sums.
#[derive(Clone, Copy)]
pub struct Part<S: Simd, const R: usize, const K: usize> {
    /// The frame.
    pub at: [W<S>; R],
    /// The sums.
    pub sum: [Sum<S>; K],
}

/// What became of 8 rows.
#[derive(Clone, Copy)]
pub struct Done<S: Simd, const I: usize, const R: usize, const O: usize> {
    /// The results.
    pub value: [W<S>; O],
    /// Of each input, the quantity that tells whether the row is normalised: its sum, or the log-sum-exp.
    pub mass: [W<S>; I],
    /// Rows that are to be passed over once more; after the third pass nobody asks.
    pub again: <W<S> as SimdBase<S>>::Mask,
    /// What the frame of the second pass is told.
    pub hint: [W<S>; R],
}

/// Sums after a term, and the lanes in which it was unusual.
pub type Terms<S, E, const K: usize> = ([V<S, E>; K], M<S, E>);

/// No lane.
#[inline(always)]
pub fn none<S: Simd, E: Element>(s: S) -> M<S, E> {
    M::<S, E>::splat(s, false)
}

/// A quantity of a row, from `I` inputs, in a frame of `R` numbers, with `K` sums and `O` results.
///
/// A measure is a formula: it has no loop, no pointer and no idea whether its lanes are classes or rows.
/// A row is seen block by block: [`look`](Measure::look) runs over the block and keeps maxima, [`frame`](Measure::frame)
/// turns them into the numbers that the terms refer to, [`term`](Measure::term) adds one vector of classes,
/// [`merge`](Measure::merge) joins two blocks, [`finish`](Measure::finish) makes the value, or asks for a second pass
/// with a hint.
pub trait Measure<E: Math, const I: usize, const R: usize, const K: usize, const O: usize>: Copy + Sync {
    /// Whether `frame` needs `look`.
    const LOOKS: bool;
    /// Whether a second pass has terms of its own (else it is the first with another frame).
    const TWO_PASSES: bool = false;
    /// Whether the first classes of a block are tried for a better frame before the first pass.
    const TRIES: bool = false;
    /// Classes that a lane adds before it widens. On uniform `f32` rows chains of 4 give 1.2 ulp, chains of 32 give 7.4; on rows
    /// that are searched for each addition costs most of an ulp.
    const CHAIN: usize = 4;
    /// Which sums are numbers of classes: in a block exact in any order and in the element's precision.
    const EXACT: [bool; K] = [false; K];

    /// Running maxima, the first numbers of `seen`; exact, so their order does not matter.
    #[inline(always)]
    fn look<S: Simd>(self, seen: [V<S, E>; R], _x: [V<S, E>; I]) -> [V<S, E>; R] {
        seen
    }

    /// The frame of 8 rows from the maxima of a block and the hint (NaN in the first pass).
    fn frame<S: Simd>(self, s: S, seen: [W<S>; R], hint: [W<S>; R]) -> [W<S>; R];

    /// One class of `LANES` rows, or `LANES` classes of one row, added to the sums of a trial.
    #[inline(always)]
    fn trial<S: Simd>(self, _: S, _at: &[V<S, E>; R], _x: [V<S, E>; I], sums: [V<S, E>; 2]) -> [V<S, E>; 2] {
        sums
    }

    /// The frame that a trial makes of the first one; it has seen the `whole` block or its first vectors of classes.
    #[inline(always)]
    fn tried<S: Simd>(self, _: S, at: [W<S>; R], _sums: [W<S>; 2], _whole: bool) -> [W<S>; R] {
        at
    }

    /// One class of `LANES` rows, or `LANES` classes of one row, added to the sums.
    ///
    /// The plain term may be wrong in lanes that it reports as unusual (zeros, far classes, overflow): the driver then
    /// throws its sums away and asks for the `CAREFUL` one, which is right everywhere and equal in the other lanes. So
    /// there is no branch in the hot loop.
    fn term<S: Simd, const SECOND: bool, const CAREFUL: bool>(
        self,
        s: S,
        at: &[V<S, E>; R],
        x: [V<S, E>; I],
        sums: [V<S, E>; K],
    ) -> Terms<S, E, K>;

    /// Two parts of the same rows as one.
    fn merge<S: Simd>(self, s: S, a: Part<S, R, K>, b: Part<S, R, K>) -> Part<S, R, K>;

    /// Sums to values. `before` holds the values of the first pass.
    fn finish<S: Simd>(self, s: S, part: Part<S, R, K>, second: bool, before: [W<S>; O]) -> Done<S, I, R, O>;
}

/// Adds sums that share a frame: the merge of measures whose frame does not depend on the block.
#[inline(always)]
pub fn add_parts<S: Simd, const R: usize, const K: usize>(a: Part<S, R, K>, b: Part<S, R, K>) -> Part<S, R, K> {
    Part { at: a.at, sum: array(|k| a.sum[k].plus(b.sum[k])) }
}

/// The results of up to [`BATCH`] rows.
pub struct Batch<'a, const I: usize, const O: usize> {
    /// Which rows.
    pub rows: &'a [usize],
    /// Results, each with as many values as there are rows, to be used up.
    pub value: [&'a mut [f64]; O],
    /// The normalisers of each input.
    pub mass: [&'a [f64]; I],
}

/// The rows of one call: `I` inputs of `classes` classes with the same leading axes.
#[derive(Clone, Copy)]
pub struct Rows<'a, E, const I: usize> {
    /// The inputs.
    pub inputs: [Input<'a>; I],
    /// The leading axes.
    pub lead: Lead<'a>,
    /// Number of classes C.
    pub classes: usize,
    /// Threads that the groups of one row are spread over.
    pub threads: usize,
    element: std::marker::PhantomData<E>,
}

// SAFETY: the pointers of the inputs are only read, and `Rows::new` vouches for what they point to.
unsafe impl<E, const I: usize> Sync for Rows<'_, E, I> {}

impl<'a, E: Math, const I: usize> Rows<'a, E, I> {
    /// Rows whose classes and leading axes are described by the inputs.
    ///
    /// # Safety
    /// Every element that the shape and the strides of an input address must stay readable while the value is used.
    pub unsafe fn new(inputs: [Input<'a>; I], lead: Lead<'a>, classes: usize) -> Self {
        Rows { inputs, lead, classes, threads: 1, element: std::marker::PhantomData }
    }

    /// Whether the drivers read these rows where they are: else each step stages them anew.
    pub fn are_in_place(&self) -> bool {
        if self.classes <= SHORT {
            self.are_columns() && self.inputs.iter().all(|x| x.is_native::<E>())
        } else {
            self.inputs.iter().all(|x| x.is_run::<E>())
        }
    }

    /// Whether neighbouring rows are neighbours in memory.
    fn are_columns(&self) -> bool {
        self.inputs.iter().all(|x| x.is_columns(&self.lead, self.classes))
    }

    /// Room for the given rows where columns of other dtypes are to be read as elements that a tile of all classes can be of.
    fn as_elements(&self, level: Level, which: &[usize]) -> Option<[Option<Cached<E>>; I]> {
        let foreign = |x: &Input<'_>| !x.is_native::<E>();
        let pays =
            self.classes > SHORT && which.len() >= E::LANES && which.len() * self.classes * size_of::<E>() <= STAGED;
        let across = |x: &Input<'_>| x.is_run_across(x.packed.or_else(|| self.lead.step(x.lead, which)));
        if !pays || !self.inputs.iter().any(foreign) || !self.inputs.iter().all(across) || !goes_across(level) {
            return None;
        }
        // SAFETY: the input is one of these rows.
        let rows = |x| unsafe { Rows::new([x], self.lead, self.classes) };
        Some(self.inputs.map(|x| foreign(&x).then(|| Cached::of(level, &rows(x), which))))
    }
}

/// Evaluates a measure on the given rows, up to [`BATCH`] of them, and hands the results to `sink`.
pub fn evaluate<E: Math, M: Measure<E, I, R, K, O>, const I: usize, const R: usize, const K: usize, const O: usize>(
    level: Level,
    m: M,
    rows: &Rows<'_, E, I>,
    which: &[usize],
    sink: &mut dyn FnMut(Batch<'_, I, O>),
) {
    let (staged, mut rows) = (rows.as_elements(level, which), *rows);
    for (i, room) in staged.iter().flatten().enumerate().filter_map(|(i, room)| Some((i, room.as_ref()?))) {
        // SAFETY: all classes of the rows have been written.
        [rows.inputs[i]] = unsafe { room.rows(rows.lead) }.inputs;
    }
    dispatch!(level, s => batches::<_, E, M, I, R, K, O>(s, m, &rows, which, sink))
}

/// The first class of a row whose element in one input is `value`.
pub fn first_equal<E: Math, const I: usize>(
    level: Level,
    rows: &Rows<'_, E, I>,
    input: usize,
    row: usize,
    value: f64,
) -> Option<usize> {
    dispatch!(level, s => {
        let mut scratch = source::Scratch::<E, 1>::new();
        let input = &rows.inputs[input];
        let offsets = Offsets::new(input, &rows.lead, &[row]);
        let wanted = E::from_f64(value);
        let mut found = None;
        for start in (0..rows.classes).step_by(BLOCK) {
            let n = (rows.classes - start).min(BLOCK);
            let x = input.block(s, offsets.get(0), start, n, &mut scratch.tile[0]);
            let mut i = 0;
            while i < n && found.is_none() {
                // SAFETY: elements i … i + LANES − 1 of the block are readable, or element i is.
                unsafe {
                    if i + E::LANES <= n {
                        let equal = load(s, x.add(i)).simd_eq(V::<_, E>::splat(s, wanted));
                        found = equal.any_true().then(|| start + i + equal.to_bitmask().trailing_zeros() as usize);
                        i += E::LANES;
                    } else {
                        found = (x.add(i).read_unaligned() == wanted).then_some(start + i);
                        i += 1;
                    }
                }
            }
            if found.is_some() {
                break;
            }
        }
        found
    })
}

#[inline(always)]
fn batches<
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
    sink: &mut dyn FnMut(Batch<'_, I, O>),
) {
    let mut scratch = source::Scratch::<E, I>::new();
    let mut out = Columns::<I, O>::new();
    for which in which.chunks(BATCH) {
        let offsets: [Offsets; I] = std::array::from_fn(|i| Offsets::new(&rows.inputs[i], &rows.lead, which));
        let (work, n) = (Work { s, m, rows, which, offsets: &offsets }, which.len());
        let tiled = if const { is_portable::<S>() } {
            0
        } else {
            let n = tiled::<E>(&rows.inputs, rows.classes, which, &offsets, across::<S, E>(I), false);
            work.across(n, &mut scratch, &mut out);
            n
        };
        work.along(tiled..n, &mut scratch, &mut out);
        // SAFETY: the two drivers between them have finished rows 0 … n − 1.
        let (value, mass) = unsafe {
            (
                out.value.each_mut().map(|column| column[..n].assume_init_mut()),
                out.mass.each_ref().map(|column| column[..n].assume_init_ref()),
            )
        };
        sink(Batch { rows: which, value, mass });
    }
}

/// How many rows of a batch, the first ones, go through tiles: none of row-major ones of more than `across` classes. Of
/// others, those that fill none go along where there are too many classes to stage one, or too few rows to pay; and so do
/// all rows of more classes unless they are neighbours, for only then is a tile of them where they are, or may be staged in
/// parts.
#[inline(always)]
fn tiled<E: Math>(
    inputs: &[Input<'_>],
    classes: usize,
    which: &[usize],
    offsets: &[Offsets],
    across: usize,
    parts: bool,
) -> usize {
    let (n, left) = (which.len(), which.len() % E::LANES);
    let row_major = inputs.iter().all(|x| x.class_stride == x.dtype.size() as isize);
    if classes > across && row_major {
        return 0;
    }
    if classes <= SHORT {
        return if left < FEW { n - left } else { n };
    }
    let neighbours = inputs.iter().zip(offsets).all(|(x, offsets)| {
        let run = x.is_run_across(offsets.step);
        if parts { run || (offsets.step == Some(0) && x.is_native::<E>()) } else { run && x.is_native::<E>() }
    });
    if neighbours { n - left } else { 0 }
}

/// Frames and sums of up to 16 rows on their way to `finish`, which takes 8 at a time.
#[repr(align(64))]
pub(crate) struct Sums<const R: usize, const K: usize> {
    at: [[f64; 16]; R],
    hi: [[f64; 16]; K],
    lo: [[f64; 16]; K],
}

impl<const R: usize, const K: usize> Sums<R, K> {
    #[inline(always)]
    fn new() -> Self {
        Sums { at: [[0.0; 16]; R], hi: [[0.0; 16]; K], lo: [[0.0; 16]; K] }
    }

    /// The part of rows 8·half … 8·half + 7.
    #[inline(always)]
    fn part<S: Simd>(&self, s: S, half: usize) -> Part<S, R, K> {
        let load = |x: &[f64; 16]| W::from_slice(s, &x[8 * half..8 * half + 8]);
        Part { at: array(|r| load(&self.at[r])), sum: array(|k| Sum { hi: load(&self.hi[k]), lo: load(&self.lo[k]) }) }
    }

    /// The frame and the sums of the first row as so many numbers, which another thread hands on.
    #[inline(always)]
    fn write_first(&self, numbers: &mut [f64]) {
        let all = self.at.iter().chain(&self.hi).chain(&self.lo);
        numbers.iter_mut().zip(all).for_each(|(number, x)| *number = x[0]);
    }

    /// Those of the first row again.
    #[inline(always)]
    fn read_first(&mut self, numbers: &[f64]) {
        let all = self.at.iter_mut().chain(&mut self.hi).chain(&mut self.lo);
        all.zip(numbers).for_each(|(x, number)| x[0] = *number);
    }

    /// Row `k` becomes the first of others.
    #[inline(always)]
    fn set_row(&mut self, k: usize, first: &Self) {
        let to = self.at.iter_mut().chain(&mut self.hi).chain(&mut self.lo);
        let from = first.at.iter().chain(&first.hi).chain(&first.lo);
        to.zip(from).for_each(|(to, from)| to[k] = from[0]);
    }

    /// Stores a part as those rows.
    #[inline(always)]
    fn set<S: Simd>(&mut self, half: usize, part: &Part<S, R, K>) {
        let rows = 8 * half..8 * half + 8;
        for r in 0..R {
            part.at[r].store_slice(&mut self.at[r][rows.clone()]);
        }
        for k in 0..K {
            part.sum[k].hi.store_slice(&mut self.hi[k][rows.clone()]);
            part.sum[k].lo.store_slice(&mut self.lo[k][rows.clone()]);
        }
    }
}

/// Hints for up to 16 rows; NaN where none is told.
pub(crate) type Hints<const R: usize> = [[f64; 16]; R];

/// Whether any row is told something: in a pass that is not the first.
pub(crate) fn are_told<const R: usize>(hints: &Hints<R>) -> bool {
    hints[0].iter().any(|hint| !hint.is_nan())
}

/// No hint.
pub(crate) const fn no_hints<const R: usize>() -> Hints<R> {
    [[f64::NAN; 16]; R]
}

/// A measure of the rows of one batch, in the vectors of one level: what both drivers work on.
struct Work<'a, S, E, M, const I: usize, const R: usize, const K: usize, const O: usize> {
    s: S,
    m: M,
    rows: &'a Rows<'a, E, I>,
    which: &'a [usize],
    offsets: &'a [Offsets; I],
}

impl<S: Simd, E: Math, M: Measure<E, I, R, K, O>, const I: usize, const R: usize, const K: usize, const O: usize>
    Work<'_, S, E, M, I, R, K, O>
{
    /// [`Measure::finish`] of rows 8·half … of the sums, which are rows `first …` of the batch, `count ≤ 8` of them. In the
    /// second pass only `rows` (a bit each) are stored. Gives the rows that are to be passed over once more, their hints in
    /// `hints`. A function of its own, compiled once for all places.
    #[inline(never)]
    fn finish(
        &self,
        sums: &Sums<R, K>,
        half: usize,
        first: usize,
        count: usize,
        second: Option<u64>,
        out: &mut Columns<I, O>,
        hints: &mut Hints<R>,
    ) -> u64 {
        let s = self.s;
        s.vectorize(
            #[inline(always)]
            || {
                // Groups of 8 lie within the batch; what is stored behind its last row is nobody's.
                let at = first..first + 8;
                let zero = W::splat(s, 0.0);
                let before: [W<S>; O] = array(|k| match second {
                    // SAFETY: the first pass has stored these eight.
                    Some(_) => W::from_slice(s, unsafe { out.value[k][at.clone()].assume_init_ref() }),
                    None => zero,
                });
                let done: Done<S, I, R, O> = self.m.finish(s, sums.part(s, half), second.is_some(), before);
                let rows = second.unwrap_or(u64::MAX) & ((1 << count) - 1);
                let told = <W<S> as SimdBase<S>>::Mask::from_bitmask(s, rows);
                for k in 0..O {
                    let value = if second.is_some() { told.select(done.value[k], before[k]) } else { done.value[k] };
                    out.value[k][at.clone()].write_copy_of_slice(&value.to_array());
                }
                if second.is_none() {
                    for k in 0..I {
                        out.mass[k][at.clone()].write_copy_of_slice(&done.mass[k].to_array());
                    }
                }
                let again = done.again.to_bitmask() & rows;
                if again != 0 {
                    let again = <W<S> as SimdBase<S>>::Mask::from_bitmask(s, again);
                    for (hints, hint) in hints.iter_mut().zip(done.hint) {
                        let hint = again.select(hint, W::splat(s, f64::NAN));
                        hint.store_slice(&mut hints[8 * half..8 * half + 8]);
                    }
                }
                again
            },
        )
    }

    /// [`Measure::merge`] of the rows that `part` holds onto those of the sums, likewise a function of its own.
    #[inline(never)]
    fn merge(&self, sums: &mut Sums<R, K>, half: usize, part: &Sums<R, K>) {
        let s = self.s;
        s.vectorize(
            #[inline(always)]
            || sums.set(half, &self.m.merge(s, sums.part(s, half), part.part(s, half))),
        );
    }
}

/// Byte offsets of the rows of a batch in one input and in its mask.
pub(crate) struct Offsets {
    first: isize,
    /// The common difference of the rows, where there is one.
    step: Option<isize>,
    /// All offsets, where there is none or the input has a mask.
    each: Option<Box<[(isize, isize); BATCH]>>,
}

impl Offsets {
    #[inline(always)]
    pub(crate) fn new(input: &Input<'_>, lead: &Lead<'_>, which: &[usize]) -> Self {
        Self::of(input.lead, input.packed, input.mask.map(|mask| mask.lead), lead, which)
    }

    /// Those of memory with these strides along the leading axes, or of packed rows.
    #[inline(always)]
    fn of(strides: &[isize], packed: Option<isize>, mask: Option<&[isize]>, lead: &Lead<'_>, which: &[usize]) -> Self {
        if let Some(step) = packed {
            return Offsets { first: 0, step: Some(step), each: None };
        }
        let (first, step) = (lead.offset(strides, which[0]), lead.step(strides, which));
        let each = (step.is_none() || mask.is_some()).then(|| {
            let mut each = Box::new([(0, 0); BATCH]);
            lead.offsets(strides, which, |k, at| each[k].0 = at);
            if let Some(mask) = mask {
                lead.offsets(mask, which, |k, at| each[k].1 = at);
            }
            each
        });
        Offsets { first, step, each }
    }

    /// The common difference of some rows of the batch, where there is one.
    #[inline(always)]
    fn step_of(&self, first: usize, count: usize) -> Option<isize> {
        self.step.or_else(|| {
            let each = &self.each.as_ref()?[first..first + count];
            let step = each.get(1)?.0 - each[0].0;
            each.windows(2).all(|pair| pair[1].0 - pair[0].0 == step).then_some(step)
        })
    }

    /// Offsets of row `k` of the batch in the input and in its mask.
    #[inline(always)]
    pub(crate) fn get(&self, k: usize) -> (isize, isize) {
        match &self.each {
            Some(each) => each[k],
            None => (self.first + k as isize * self.step.unwrap_or(0), 0),
        }
    }
}

/// Results of a batch, column by column.
#[repr(align(64))]
pub(crate) struct Columns<const I: usize, const O: usize> {
    value: [[MaybeUninit<f64>; BATCH]; O],
    mass: [[MaybeUninit<f64>; BATCH]; I],
}

impl<const I: usize, const O: usize> Columns<I, O> {
    #[inline(always)]
    fn new() -> Self {
        Columns { value: [[MaybeUninit::uninit(); BATCH]; O], mass: [[MaybeUninit::uninit(); BATCH]; I] }
    }
}
