//! A call from beginning to end: operands to elements, rows to chunks, results checked, converted and stored.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Mutex;

use smallvec::{SmallVec, smallvec};

use crate::error::{Error, Flaw, Result, invalid_rows, label_out_of_range, short};
use crate::math::{Math, wide};
use crate::measure::Scale;
use crate::parallel;
use crate::reduce::Total;
use crate::rows::{BATCH, Batch, Dtype, GROUP, Input, Lead, Map, Mask, Measure, Offsets, Rows, SHORT, evaluate};
use crate::simd::{Level, SimdBase, W, dispatch, level};

/// One number an axis. Arrays of up to four take no allocation: with eleven of them a call on one row took twice as long.
pub type Axes<T> = SmallVec<[T; 4]>;

/// How a row is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// Masses that sum to 1.
    Probs,
    /// Masses.
    Counts,
    /// Logarithms of masses that sum to 1.
    LogProbs,
    /// Logarithms of masses.
    Logits,
}

impl Given {
    /// All of them by name.
    pub const NAMES: [(&'static str, Given); 4] =
        [("probs", Given::Probs), ("counts", Given::Counts), ("log_probs", Given::LogProbs), ("logits", Given::Logits)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, g)| *g == self).map_or("", |(name, _)| name)
    }

    /// Whether elements are logarithms.
    pub fn is_log(self) -> bool {
        matches!(self, Given::LogProbs | Given::Logits)
    }

    /// Whether rows must be normalised.
    fn is_normalised(self) -> bool {
        matches!(self, Given::Probs | Given::LogProbs)
    }
}

/// Memory of one byte an element.
#[derive(Clone, Debug)]
pub struct Bytes {
    /// The first byte.
    pub data: *const u8,
    /// Bytes from class to class; 0 where there is no class axis.
    pub class_stride: isize,
    /// Bytes from row to row along each leading axis.
    pub lead: Axes<isize>,
}

/// One input of a call.
#[derive(Clone, Debug)]
pub struct Operand {
    /// What messages call it.
    pub name: &'static str,
    /// The first element.
    pub data: *const u8,
    /// How elements are stored.
    pub dtype: Dtype,
    /// Whether in the other byte order.
    pub swapped: bool,
    /// Bytes from class to class.
    pub class_stride: isize,
    /// Bytes from row to row along each leading axis.
    pub lead: Axes<isize>,
    /// The space of its rows.
    pub given: Given,
    /// What its logarithms are divided by.
    pub temperature: f64,
}

impl Operand {
    /// How its elements become logarithms at temperature 1 while they are staged.
    pub fn as_logs(&self) -> Map {
        match self.given.is_log() {
            false => Map::Ln,
            true if self.temperature != 1.0 => Map::Divide(self.temperature),
            true => Map::Keep,
        }
    }

    /// Whether the constants of its temperature leave what single precision holds.
    pub fn is_far(&self) -> bool {
        !(1e-20..1e20).contains(&self.temperature)
    }
}

/// The labels of the rows.
#[derive(Clone, Debug)]
pub struct Labels {
    /// The first label.
    pub data: *const u8,
    /// An integer dtype.
    pub dtype: Dtype,
    /// Whether in the other byte order.
    pub swapped: bool,
    /// Bytes from row to row along each leading axis.
    pub lead: Axes<isize>,
    /// The label of rows that do not count.
    pub ignore: Option<i64>,
}

/// Where results go.
#[derive(Clone, Debug)]
pub struct Out {
    /// The first result.
    pub data: *mut u8,
    /// Whether results are `f32` (else `f64`).
    pub single: bool,
    /// Bytes from row to row along each leading axis.
    pub lead: Axes<isize>,
}

/// Numbers of rows, in their order.
#[derive(Clone, Copy, Debug)]
pub struct Numbers(pub *mut f64);

// SAFETY: every number is written by one thread only, or only read.
unsafe impl Sync for Numbers {}
// SAFETY: as above.
unsafe impl Send for Numbers {}

impl Numbers {
    /// Those from the i-th on.
    pub fn skip(self, i: usize) -> Self {
        Numbers(self.0.wrapping_add(i))
    }

    /// Stores one.
    pub fn set(self, i: usize, x: f64) {
        // SAFETY: the binding makes room for every row that is asked for.
        unsafe { self.0.add(i).write(x) }
    }

    /// One of them.
    pub fn get(self, i: usize) -> f64 {
        // SAFETY: as above.
        unsafe { self.0.add(i).read() }
    }
}

/// Numbers a row that its gradient needs: the log-sum-exps of both operands and the result in nats.
pub const KNOWN: usize = 3;

/// Everything a call is about.
#[derive(Clone, Debug)]
pub struct Job {
    /// The inputs: one or two.
    pub operands: SmallVec<[Operand; 2]>,
    /// Lengths of the leading axes.
    pub lead: Axes<usize>,
    /// Number of classes.
    pub classes: usize,
    /// Which classes count.
    pub mask: Option<Bytes>,
    /// Which rows count.
    pub rows: Option<Bytes>,
    /// The labels.
    pub labels: Option<Labels>,
    /// What results are divided by.
    pub unit: f64,
    /// The largest result there can be, before the unit.
    pub most: f64,
    /// Whether the root is taken at last.
    pub root: bool,
    /// Whether invalid rows become NaN (else an error).
    pub invalid_is_nan: bool,
    /// Whether rows must be normalised where their space says so.
    pub check_sums: bool,
    /// Threads.
    pub threads: usize,
    /// Where results go; `None` where only the total is wanted.
    pub out: Option<Out>,
    /// Whether a total is wanted.
    pub total: bool,
    /// Where [`KNOWN`] numbers of every row go, if anywhere. Log-sum-exps that are not at hand are infinite.
    pub known: Option<Numbers>,
}

// SAFETY: the pointers are read (and `out` written, each result once) by the threads of one call, during which the
// caller keeps the arrays alive.
unsafe impl Sync for Job {}

/// What became of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// A distribution.
    Right,
    /// Holds a NaN, or has no mass: the result is NaN.
    Nothing,
    /// Not of its space: which operand, and why.
    Wrong(usize, Flaw),
}

impl Job {
    /// The job with adjacent leading axes merged where every operand allows it, and axes of length 1 dropped: itself
    /// where there is nothing to merge, for a copy takes as long as ten classes.
    pub fn collapsed(&self) -> Cow<'_, Job> {
        if self.lead.len() < 2 && !self.lead.contains(&1) {
            return Cow::Borrowed(self);
        }
        let mut job = self.clone();
        let mut all: SmallVec<[&mut Axes<isize>; 6]> = job.operands.iter_mut().map(|x| &mut x.lead).collect();
        all.extend(job.mask.iter_mut().map(|x| &mut x.lead));
        all.extend(job.rows.iter_mut().map(|x| &mut x.lead));
        all.extend(job.labels.iter_mut().map(|x| &mut x.lead));
        all.extend(job.out.iter_mut().map(|x| &mut x.lead));
        collapse(&mut job.lead, &mut all);
        drop(all);
        Cow::Owned(job)
    }

    /// A range of the first leading axis by itself.
    pub fn slice(&self, range: Range<usize>) -> Job {
        let mut job = self.clone();
        let on = |lead: &Axes<isize>| range.start as isize * lead[0];
        job.operands.iter_mut().for_each(|x| x.data = x.data.wrapping_offset(on(&x.lead)));
        job.mask.iter_mut().for_each(|x| x.data = x.data.wrapping_offset(on(&x.lead)));
        job.rows.iter_mut().for_each(|x| x.data = x.data.wrapping_offset(on(&x.lead)));
        job.labels.iter_mut().for_each(|x| x.data = x.data.wrapping_offset(on(&x.lead)));
        job.out.iter_mut().for_each(|x| x.data = x.data.wrapping_offset(on(&x.lead)));
        let before = range.start * job.lead[1..].iter().product::<usize>();
        job.known = job.known.map(|known| known.skip(KNOWN * before));
        job.lead[0] = range.len();
        job
    }

    /// About how many nanoseconds all rows take on one thread.
    pub fn work(&self) -> f64 {
        nanoseconds_a_row(self.classes, self.operands.len()) * self.len() as f64
    }

    /// Rows that are added up one after the other before chunks are.
    fn chunk(&self) -> usize {
        let work = nanoseconds_a_row(self.classes, self.operands.len());
        parallel::chunk_rows(work, grain(self.classes, work))
    }

    /// The total of the results of all rows, in the bits that [`score`] gives it.
    pub fn total_of(&self, values: &[f64]) -> Total {
        let lead = Lead { shape: &self.lead };
        let all = self.all_count();
        let mut sum = Total::default();
        for (i, chunk) in values.chunks(self.chunk()).enumerate() {
            let mut total = Total::default();
            let first = i * self.chunk();
            let counted = chunk.iter().enumerate().filter(|(k, _)| all || self.counts(&lead, first + k));
            counted.for_each(|(_, v)| total.push(*v));
            sum.merge(total);
        }
        sum
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.lead.iter().product()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The largest distance of a row sum from 1 that is accepted: storage rounds every element.
    pub fn tolerance(dtype: Dtype) -> f64 {
        dtype.epsilon().sqrt().max(1e-3)
    }

    /// A row number as the caller counts rows.
    pub fn row_name(&self, row: usize) -> String {
        let shape = &self.lead;
        if shape.len() < 2 {
            return row.to_string();
        }
        let (mut rest, mut index): (usize, Axes<usize>) = (row, smallvec![0; shape.len()]);
        for (i, n) in shape.iter().enumerate().rev() {
            index[i] = rest % n;
            rest /= n;
        }
        let index: Vec<String> = index.iter().map(usize::to_string).collect();
        format!("({})", index.join(", "))
    }

    fn input(&self, k: usize, map: Map) -> Input<'_> {
        let x = &self.operands[k];
        let absent = if x.given.is_log() { f64::NEG_INFINITY } else { 0.0 };
        let mask = |m: &'_ Bytes| -> (*const u8, isize) { (m.data, m.class_stride) };
        Input {
            data: x.data,
            dtype: x.dtype,
            swapped: x.swapped,
            class_stride: x.class_stride,
            lead: &x.lead,
            packed: None,
            mask: self.mask.as_ref().map(|m| {
                let (data, class_stride) = mask(m);
                Mask { data, class_stride, lead: &m.lead, absent }
            }),
            map,
        }
    }

    /// The rows as `I` inputs of elements `E`.
    pub fn inputs<E: Math, const I: usize>(&self, map: [Map; I]) -> Rows<'_, E, I> {
        let inputs = std::array::from_fn(|k| self.input(k, map[k]));
        // SAFETY: the binding derives shapes and strides from arrays that it keeps alive during the call.
        unsafe { Rows::new(inputs, Lead { shape: &self.lead }, self.classes) }
    }

    /// Threads that rows of so much work each are spread over, and those that each row is: a few vast rows are split.
    pub fn spread(&self, nanoseconds: f64) -> [usize; 2] {
        if nanoseconds * self.len() as f64 <= parallel::WORTH_THREADS {
            [1, 1]
        } else if self.len() < 8 * self.threads && self.len() < self.classes.div_ceil(GROUP) {
            [1, self.threads]
        } else {
            [self.threads, 1]
        }
    }

    /// Calls `see` with the rows of a range that count, up to [`BATCH`] at a time.
    pub fn batches(&self, range: Range<usize>, mut see: impl FnMut(&[usize])) {
        let mut which = SmallVec::<[usize; BATCH]>::new();
        if self.all_count() {
            for first in range.clone().step_by(BATCH) {
                which.clear();
                which.extend(first..range.end.min(first + BATCH));
                see(&which);
            }
            return;
        }
        let lead = Lead { shape: &self.lead };
        let mut rows = range.filter(|row| self.counts(&lead, *row));
        loop {
            which.clear();
            which.extend(rows.by_ref().take(BATCH));
            if which.is_empty() {
                return;
            }
            see(&which);
        }
    }

    /// How many rows count.
    pub fn count(&self) -> usize {
        let lead = Lead { shape: &self.lead };
        if self.all_count() { self.len() } else { (0..self.len()).filter(|row| self.counts(&lead, *row)).count() }
    }

    /// Whether every row counts.
    pub fn all_count(&self) -> bool {
        self.rows.is_none() && self.labels.as_ref().is_none_or(|l| l.ignore.is_none())
    }

    /// Whether a row counts.
    #[inline]
    pub fn counts(&self, lead: &Lead<'_>, row: usize) -> bool {
        if let Some(rows) = &self.rows {
            // SAFETY: the array has the shape of the leading axes.
            if unsafe { rows.data.offset(lead.offset(&rows.lead, row)).read() } == 0 {
                return false;
            }
        }
        match &self.labels {
            Some(labels) if labels.ignore.is_some() => Some(labels.get(lead, row)) != labels.ignore.map(i128::from),
            _ => true,
        }
    }

    /// Looks at every element of a row: slow, for rows whose result is NaN or whose sum is off.
    pub fn inspect(&self, row: usize) -> Verdict {
        let mut verdict = Verdict::Right;
        for (k, x) in self.operands.iter().enumerate() {
            let (log, mut flaw, mut sum, mut largest) = (x.given.is_log(), None, 0.0, f64::NEG_INFINITY);
            let mut nan = false;
            self.elements(k, row, |column, value| {
                nan |= value.is_nan();
                let right = if log { value < f64::INFINITY } else { (0.0..f64::INFINITY).contains(&value) };
                if !right && flaw.is_none() {
                    flaw = Some(Flaw::Element { column, value });
                }
                largest = value.max(largest);
                sum += value;
            });
            let empty = if log { largest == f64::NEG_INFINITY } else { largest <= 0.0 };
            if nan || (empty && flaw.is_none()) {
                return Verdict::Nothing;
            }
            if log {
                let mut exps = 0.0;
                self.elements(k, row, |_, value| exps += ((value - largest) / x.temperature).exp());
                sum = largest / x.temperature + exps.ln();
            }
            if flaw.is_none() && self.check_sums && x.given.is_normalised() {
                let off = if log { sum } else { sum - 1.0 };
                if off.abs() > Self::tolerance(x.dtype) {
                    flaw = Some(if log { Flaw::LogSum(sum) } else { Flaw::Sum(sum) });
                }
            }
            if let (Verdict::Right, Some(flaw)) = (verdict, flaw) {
                verdict = Verdict::Wrong(k, flaw);
            }
        }
        verdict
    }

    /// One element of a row as it is stored; no mass where it is excluded.
    pub fn class(&self, k: usize, row: usize, column: usize) -> f64 {
        let lead = Lead { shape: &self.lead };
        let input = self.input(k, Map::Keep);
        // SAFETY: the operand and the mask have this class of this row.
        unsafe {
            input.class((lead.offset(input.lead, row), input.mask.map_or(0, |m| lead.offset(m.lead, row))), column)
        }
    }

    /// What [`Map::Divide`] subtracts from the elements of a row.
    pub fn origin(&self, k: usize, row: usize) -> f64 {
        let lead = Lead { shape: &self.lead };
        let input = self.input(k, Map::Keep);
        // SAFETY: a row with a label in range has a class.
        unsafe { input.origin(lead.offset(input.lead, row)) }
    }

    /// The elements of a row of one operand as they are stored; excluded classes left out.
    pub fn elements(&self, k: usize, row: usize, mut see: impl FnMut(usize, f64)) {
        let lead = Lead { shape: &self.lead };
        let input = self.input(k, Map::Keep);
        let at = lead.offset(input.lead, row);
        let mask = input.mask.map(|m| (m, lead.offset(m.lead, row)));
        for column in 0..self.classes {
            if let Some((m, at)) = mask {
                // SAFETY: the mask has a byte for every class of every row.
                if unsafe { m.data.offset(at + column as isize * m.class_stride).read() } == 0 {
                    continue;
                }
            }
            // SAFETY: the operand has this class of this row.
            see(column, unsafe { input.element(at, column) });
        }
    }
}

impl Labels {
    /// The label of a row.
    #[inline]
    pub fn get(&self, lead: &Lead<'_>, row: usize) -> i128 {
        self.at(lead.offset(&self.lead, row))
    }

    /// The labels of rows, by their place among them.
    fn of(&self, lead: &Lead<'_>, rows: &[usize]) -> impl Fn(usize) -> i128 {
        let (first, step) = (lead.offset(&self.lead, rows[0]), lead.step(&self.lead, rows));
        move |k| match step {
            Some(step) => self.at(first + k as isize * step),
            None => self.get(lead, rows[k]),
        }
    }

    /// The label at an offset.
    #[inline]
    fn at(&self, offset: isize) -> i128 {
        let at = self.data.wrapping_offset(offset);
        // SAFETY: the array has the shape of the leading axes, and offsets are those of its rows.
        unsafe { self.dtype.integer(at, self.swapped) }
    }
}

/// Merges adjacent axes where all strides allow it, and drops axes of length 1.
pub fn collapse(shape: &mut Axes<usize>, strides: &mut [&mut Axes<isize>]) {
    let mut axis = 0;
    while axis < shape.len() {
        if shape[axis] == 1 {
            shape.remove(axis);
            for s in strides.iter_mut() {
                s.remove(axis);
            }
        } else if axis > 0 && strides.iter().all(|s| s[axis - 1] == s[axis] * shape[axis] as isize) {
            shape[axis] *= shape[axis - 1];
            shape.remove(axis - 1);
            for s in strides.iter_mut() {
                s.remove(axis - 1);
            }
        } else {
            axis += 1;
        }
    }
}

/// The rows found invalid so far: the lowest, and how many.
#[derive(Default)]
pub struct Invalid {
    lowest: Option<(usize, usize, Flaw)>,
    count: usize,
    label: Option<(usize, i128)>,
}

impl Invalid {
    /// Notes an invalid row.
    pub fn push(&mut self, row: usize, operand: usize, flaw: Flaw) {
        self.count += 1;
        if self.lowest.is_none_or(|(lowest, ..)| row < lowest) {
            self.lowest = Some((row, operand, flaw));
        }
    }

    /// Notes a label out of range.
    pub fn push_label(&mut self, row: usize, label: i128) {
        if self.label.is_none_or(|(lowest, _)| row < lowest) {
            self.label = Some((row, label));
        }
    }

    /// Adds those of rows of which `first` come before.
    pub fn merge(&mut self, other: Invalid, first: usize) {
        if let Some((row, label)) = other.label {
            self.push_label(first + row, label);
        }
        if let Some((row, operand, flaw)) = other.lowest {
            self.push(first + row, operand, flaw);
            self.count += other.count - 1;
        }
    }

    /// The error they make.
    pub fn check(&self, job: &Job) -> Result<()> {
        if let Some((row, label)) = self.label {
            return Err(label_out_of_range(label, &job.row_name(row), job.classes));
        }
        match self.lowest {
            Some((row, operand, flaw)) => {
                let x = &job.operands[operand];
                let tolerance = Job::tolerance(x.dtype);
                Err(invalid_rows(x.name, x.given.name(), &job.row_name(row), flaw, tolerance, self.count))
            }
            None => Ok(()),
        }
    }
}

/// How rows are passed once more.
pub struct Rescue<'a> {
    /// The result of a row, in nats.
    pub one: &'a (dyn Fn(usize) -> f64 + Sync),
    /// Beyond which rows need it although they have a result.
    pub reach: Option<Reach>,
}

/// The log-sum-exps up to which two rows of logarithms are exact enough for one pass.
#[derive(Clone, Copy)]
pub struct Reach {
    /// From each other, in units of the temperature.
    apart: f64,
    /// Of each row, from its origin.
    from: [f64; 2],
}

impl Reach {
    /// That of elements `E`, if there is one. Head and tail of the gap that a `difference` of two rows takes, `f32` each,
    /// hold 2^24 to 2^−24, `f64` more. A class less a far origin is rounded: to 2^−33 at 2^20.
    pub fn new<E: Math>(difference: bool, map: [Map; 2]) -> Option<Self> {
        let divided = map.map(|map| matches!(map, Map::Divide(_)));
        let digits = if E::LANES == 16 { 24 } else { 52 };
        (difference || divided != [false; 2]).then(|| Reach {
            apart: if difference { 2f64.powi(digits) } else { f64::INFINITY },
            from: divided.map(|divided| if divided { 2f64.powi(20) } else { f64::INFINITY }),
        })
    }

    /// Whether rows with these log-sum-exps are beyond it.
    fn exceeded(&self, [p, q]: [f64; 2]) -> bool {
        let inside = (p - q).abs() <= self.apart && p.abs() <= self.from[0] && q.abs() <= self.from[1];
        !inside
    }
}

/// Evaluates a measure on the rows of a job: their total, if one is wanted, and what is wrong with them.
pub fn score<E: Math, M: Measure<E, I, R, K, O>, const I: usize, const R: usize, const K: usize, const O: usize>(
    job: &Job,
    m: M,
    map: [Map; I],
    rescue: &Rescue<'_>,
) -> Result<(Total, Invalid)> {
    let mut rows = job.inputs::<E, I>(map);
    let level = level();
    let work = nanoseconds_a_row(job.classes, I);
    let size = job.chunk();
    let [threads, within] = job.spread(work);
    rows.threads = within;
    let invalid = Mutex::new(Invalid::default());
    if let (Some(out), false) = (&job.out, job.all_count()) {
        (0..job.len()).for_each(|row| store(job, out, &[row], &[f64::NAN]));
    }
    let some = |range| {
        let mut total = Total::default();
        job.batches(range, |which| {
            evaluate::<E, M, I, R, K, O>(level, m, &rows, which, &mut |mut batch| {
                settle(job, level, &mut batch, &map, rescue, &invalid);
                let value = &*batch.value[0];
                if let Some(out) = &job.out {
                    store(job, out, which, value);
                }
                if job.total {
                    value.iter().for_each(|v| total.push(*v));
                }
            });
        });
        total
    };
    let mut all = Total::default();
    if job.total {
        parallel::in_order(job.len(), size, threads, some, |total| all.merge(total));
    } else {
        parallel::chunks(job.len(), size, threads, |_, range| {
            some(range);
        });
    }
    Ok((all, invalid.into_inner().unwrap_or_else(|e| e.into_inner())))
}

/// What a row takes on one thread, to decide about threads and chunks: the slowest kernels take about 1 ns an element.
pub fn nanoseconds_a_row(classes: usize, inputs: usize) -> f64 {
    10.0 + 0.5 * (classes * inputs) as f64
}

/// Rows that are handed to a thread together: a batch of short rows, of longer ones a tile of columns, and single rows where
/// one is much work. With whole batches 200 rows of 128 256 classes made two chunks, one nearly twice the other.
pub fn grain(classes: usize, nanoseconds: f64) -> usize {
    match nanoseconds {
        _ if classes <= SHORT => BATCH,
        ..20_000.0 => 16,
        _ => 1,
    }
}

/// Makes of the first values of a batch its results, in the caller's units; rows that are not distributions are noted.
fn settle<const I: usize, const O: usize>(
    job: &Job,
    level: Level,
    batch: &mut Batch<'_, I, O>,
    map: &[Map; I],
    rescue: &Rescue<'_>,
    invalid: &Mutex<Invalid>,
) {
    let mass = batch.mass;
    let beyond = |k: usize| rescue.reach.is_some_and(|reach| reach.exceeded([mass[0][k], mass[I - 1][k]]));
    let mut suspect = batch.value[0].iter().any(|v| v.is_nan()) || (0..batch.rows.len()).any(beyond);
    for (k, x) in job.operands.iter().enumerate() {
        if job.check_sums && x.given.is_normalised() {
            let (expected, tolerance) = (if x.given.is_log() { 0.0 } else { 1.0 }, Job::tolerance(x.dtype));
            // Rounding of the sum itself must not decide.
            suspect |= batch.mass[k].iter().any(|m| m.is_nan() || (m - expected).abs() > tolerance * (1.0 - 1e-6));
        }
    }
    // A bit a row.
    let mut rescued = 0u128;
    const { assert!(BATCH <= 128) };
    if suspect {
        for (k, (row, value)) in batch.rows.iter().zip(&mut *batch.value[0]).enumerate() {
            match job.inspect(*row) {
                Verdict::Right if value.is_nan() || beyond(k) => {
                    *value = (rescue.one)(*row);
                    rescued |= 1 << k;
                }
                Verdict::Right => {}
                Verdict::Nothing => *value = f64::NAN,
                Verdict::Wrong(operand, flaw) => {
                    *value = f64::NAN;
                    if !job.invalid_is_nan {
                        invalid.lock().unwrap_or_else(|e| e.into_inner()).push(*row, operand, flaw);
                    }
                }
            }
        }
    }
    if let Some(labels) = &job.labels {
        let likelihoods = surprise(job, labels, level, batch, invalid);
        for (k, (value, likelihood)) in batch.value[0].iter_mut().zip(likelihoods).enumerate() {
            if !value.is_nan() && rescued >> k & 1 == 0 {
                *value = likelihood;
            }
        }
    }
    if let Some(known) = job.known {
        // A normaliser is that of the elements as they stand, of a row that the kernel had a result for.
        let all = map.iter().all(|map| *map == Map::Keep) && job.operands.iter().all(|x| x.given.is_log());
        for (k, (row, value)) in batch.rows.iter().zip(&*batch.value[0]).enumerate() {
            let here = all && rescued >> k & 1 == 0 && !value.is_nan();
            let of = |i: usize| if here { mass[i][k] } else { f64::INFINITY };
            [of(0), of(I - 1), *value].into_iter().enumerate().for_each(|(i, x)| known.set(KNOWN * row + i, x));
        }
    }
    if job.unit != 1.0 {
        batch.value[0].iter_mut().for_each(|v| *v /= job.unit);
    }
    if job.root {
        batch.value[0].iter_mut().for_each(|v| *v = v.sqrt());
    }
}

/// −ln q[label] from the maximum of a row and what its (log-)sum exceeds it by.
fn surprise<const I: usize, const O: usize>(
    job: &Job,
    labels: &Labels,
    level: Level,
    batch: &Batch<'_, I, O>,
    invalid: &Mutex<Invalid>,
) -> SmallVec<[f64; BATCH]> {
    let (lead, x) = (Lead { shape: &job.lead }, &job.operands[I - 1]);
    let input = job.input(I - 1, Map::Keep);
    let (offsets, label_of) = (Offsets::new(&input, &lead, batch.rows), labels.of(&lead, batch.rows));
    let (log, [max, over]) = (x.given.is_log(), [O - 2, O - 1].map(|o| &*batch.value[o]));
    let mut result = smallvec![0.0; batch.rows.len()];
    // Ratios of a subnormal mass that overflow.
    let mut beyond = Vec::new();
    for (k, result) in result.iter_mut().enumerate() {
        let label = label_of(k);
        let Some(column) = usize::try_from(label).ok().filter(|c| *c < job.classes) else {
            invalid.lock().unwrap_or_else(|e| e.into_inner()).push_label(batch.rows[k], label);
            continue;
        };
        // SAFETY: the operand and the mask have this class of this row. A zero without its sign.
        let value = unsafe { input.class(offsets.get(k), column) } + 0.0;
        if log {
            *result = (max[k] - value) / x.temperature + over[k];
        } else {
            *result = max[k] / value;
            if *result == f64::INFINITY && value > 0.0 {
                beyond.push((k, ln(max[k]) - ln(value)));
            }
        }
    }
    if !log {
        ln_all(level, &mut result);
        beyond.into_iter().for_each(|(k, ln)| result[k] = ln);
        result.iter_mut().zip(over).for_each(|(result, over)| *result += over);
    }
    result
}

/// The logarithms of numbers, in the same bits on every machine.
pub fn ln_all(level: Level, values: &mut [f64]) {
    dispatch!(level, s => {
        for chunk in values.chunks_mut(8) {
            let ln = wide::ln(s, W::from_fn(s, |i| *chunk.get(i).unwrap_or(&1.0))).to_array();
            chunk.copy_from_slice(&ln[..chunk.len()]);
        }
    });
}

/// The logarithm of one number, in the same bits on every machine.
pub fn ln(x: f64) -> f64 {
    let mut values = [x];
    ln_all(level(), &mut values);
    values[0]
}

/// Stores results, rounded once, and never above the largest there can be.
fn store(job: &Job, out: &Out, rows: &[usize], values: &[f64]) {
    // A base below 1 makes results negative, and none too large.
    let most = if job.unit > 0.0 { job.most / job.unit } else { f64::INFINITY };
    let most = if job.root { most.sqrt() } else { most };
    let single = |value: f64| {
        let rounded = value as f32;
        if f64::from(rounded) > most { rounded.next_down() } else { rounded }
    };
    let lead = Lead { shape: &job.lead };
    let size = if out.single { 4 } else { 8 };
    let consecutive = rows[rows.len() - 1] - rows[0] == rows.len() - 1;
    if consecutive && matches!(out.lead.as_slice(), [stride] if *stride == size) {
        let to = out.data.wrapping_offset(rows[0] as isize * size);
        for (k, value) in values.iter().enumerate() {
            // SAFETY: these are the results of consecutive rows of a contiguous array, stored by one thread only.
            unsafe {
                if out.single {
                    to.cast::<f32>().add(k).write_unaligned(single(*value));
                } else {
                    to.cast::<f64>().add(k).write_unaligned(*value);
                }
            }
        }
        return;
    }
    for (row, value) in rows.iter().zip(values) {
        let at = out.data.wrapping_offset(lead.offset(&out.lead, *row));
        // SAFETY: the result array has the shape of the leading axes, and every row is stored by one thread only.
        unsafe {
            if out.single {
                at.cast::<f32>().write_unaligned(single(*value));
            } else {
                at.cast::<f64>().write_unaligned(*value);
            }
        }
    }
}

/// The scale of an operand's temperature, or the error that says what is accepted.
pub fn scale<E: Math>(temperature: f64) -> Result<Scale<E>> {
    Scale::new(temperature).ok_or_else(|| {
        let got = short(temperature);
        Error::Value(format!("temperature must be a number > 0 between 1e-290 and 1e290, got {got}"))
    })
}
