//! Results of the input's own shape and what is summed of them: the softmaxes, torch's pointwise losses, their gradients.

use crate::error::Result;
use crate::math::Math;
use crate::measure::{
    Binary, BinaryInput, BinaryTarget, Exp, Exponentials, Kl, KlInput, KlOfLog, KlOfLogInput, KlOfLogTarget, KlTarget,
    LOG, Largest, LogSoftmax, LogSoftmaxInput, LogSumExp, Logistic, LogisticInput, LogisticTarget, Outside, Product,
    Scale, Softmax, SoftmaxInput, Summed, Times,
};
use crate::parallel;
use crate::reduce::Total;
use crate::rows::{
    BATCH, BLOCK, Batch, Cached, Dtype, Emit, Lead, Map, Rows, SHORT, Same, Target, emit_rows, evaluate,
};
use crate::score::{Axes, Job, Operand, grain, nanoseconds_a_row, scale};
use crate::simd::level;

/// Where results go.
#[derive(Clone, Debug)]
pub struct Field {
    /// The first result.
    pub data: *mut u8,
    /// How results are stored: a floating dtype.
    pub dtype: Dtype,
    /// Bytes from class to class.
    pub class_stride: isize,
    /// Bytes from row to row along each leading axis.
    pub lead: Axes<isize>,
}

// SAFETY: every row is written by one thread only, to an array that the caller keeps alive.
unsafe impl Sync for Field {}

impl Field {
    pub(crate) fn target(&self) -> Target<'_> {
        Target { data: self.data, dtype: self.dtype, class_stride: self.class_stride, lead: &self.lead, packed: None }
    }

    /// Stores the results of rows that have one each.
    pub(crate) fn store(&self, lead: &Lead<'_>, which: &[usize], values: &[f64]) {
        assert!(which.len() <= values.len());
        lead.offsets(&self.lead, which, |k, at| {
            // SAFETY: the field has a place for every row, and one thread alone writes it.
            unsafe { self.dtype.store(values[k], self.data.wrapping_offset(at)) };
        });
    }

    /// Stores the result of a class of a row.
    pub(crate) fn set(&self, lead: &Lead<'_>, row: usize, class: usize, value: f64) {
        self.put(lead.offset(&self.lead, row), class, value);
    }

    /// The same of the row at an offset.
    pub(crate) fn put(&self, row: isize, class: usize, value: f64) {
        let at = self.data.wrapping_offset(row + class as isize * self.class_stride);
        // SAFETY: the field has this class of every row, and one thread alone writes it.
        unsafe { self.dtype.store(value, at) };
    }
}

/// The job with adjacent leading axes merged, as those of `more` are, and the threads that it is worth.
pub(crate) fn settled(job: &Job, more: Vec<&mut Axes<isize>>, nanoseconds: f64) -> Job {
    let mut job = job.clone();
    job.collapse(more);
    if nanoseconds * job.len() as f64 <= parallel::WORTH_THREADS {
        job.threads = 1;
    }
    job
}

/// Rows that are normalised and then written: as many at once as stay in cache.
pub(crate) fn group(classes: usize, size: usize) -> usize {
    (CACHE / (classes * size).max(1)).clamp(1, BATCH)
}

/// What is wanted of [`Normalised`] rows.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Wanted {
    /// The logarithms of probabilities.
    Logarithms,
    /// Probabilities, without the log-sum-exps.
    Probabilities,
    /// Both probabilities and log-sum-exps.
    Both,
}

/// A batch of rows of logarithms, read once from memory: their log-sum-exps, and their probabilities to be written.
///
/// Short rows are kept in cache class by class, and as exponentials unless their logarithms are wanted: they are transposed
/// twice and not three times. Longer ones are read again from cache: an exponential more costs less there than a pass more.
pub(crate) struct Normalised<'a, E> {
    scale: Scale<E>,
    rows: Rows<'a, E, 1>,
    /// The rows as elements, or their exponentials.
    cached: Option<Cached<E>>,
    /// What makes exponentials probabilities, where it is those.
    inverse: Option<[f64; BATCH]>,
    /// The maxima of the rows; NaN where a row has no log-sum-exp.
    pub max: [f64; BATCH],
    /// What the log-sum-exps exceed them by, likewise; 0 where they are not wanted.
    pub over: [f64; BATCH],
}

impl<'a, E: Math> Normalised<'a, E> {
    /// Rows at once.
    pub fn group(classes: usize) -> usize {
        group(2 * classes, size_of::<E>())
    }

    /// The given rows.
    pub fn new(scale: Scale<E>, rows: &Rows<'a, E, 1>, which: &[usize], wanted: Wanted) -> Self {
        let short = rows.classes <= SHORT;
        let mut found =
            Normalised { scale, rows: *rows, cached: None, inverse: None, max: [0.0; BATCH], over: [0.0; BATCH] };
        // A single tile is transposed faster than it is staged.
        let pays = if short { which.len() > E::LANES } else { rows.classes * size_of::<E>() <= CACHE };
        if pays && !rows.are_in_place() {
            found.cached = Some(Cached::of(level(), rows, which));
        }
        if short && wanted != Wanted::Logarithms {
            found.exponentiate(which, wanted)
        } else {
            found.sum(which)
        }
        found
    }

    /// The rows, or their exponentials, as they are read.
    fn at_hand<'b>(rows: &Rows<'b, E, 1>, cached: &'b Option<Cached<E>>) -> Rows<'b, E, 1> {
        // SAFETY: what is in cache has been written.
        cached.as_ref().map_or(*rows, |cached| unsafe { cached.rows(rows.lead) })
    }

    /// Finds the log-sum-exps.
    fn sum(&mut self, which: &[usize]) {
        let rows = Self::at_hand(&self.rows, &self.cached);
        evaluate::<E, _, 1, 4, 2, 2>(level(), LogSumExp(self.scale), &rows, which, &mut |batch| {
            self.max[..which.len()].copy_from_slice(batch.value[0]);
            self.over[..which.len()].copy_from_slice(batch.value[1]);
        });
    }

    /// Takes the exponentials, and finds their sums and the log-sum-exps in them.
    fn exponentiate(&mut self, which: &[usize], wanted: Wanted) {
        let (level, n) = (level(), which.len());
        let rows = Self::at_hand(&self.rows, &self.cached);
        let mut at = [[0.0; BATCH]; LOG];
        evaluate::<E, _, 1, 1, 0, { 1 + LOG }>(level, Largest(self.scale), &rows, which, &mut |batch| {
            self.max[..n].copy_from_slice(batch.value[0]);
            at.iter_mut().zip(&batch.value[1..]).for_each(|(at, frame)| at[..n].copy_from_slice(frame));
        });
        let mut found = Cached::like(n, &rows);
        // SAFETY: there is room for these rows, which are written before they are read.
        let exponentials = unsafe {
            emit_rows(level, Exp(self.scale), &rows, which, &at, &found.target());
            found.rows(rows.lead)
        };
        let inverse = self.inverse.insert([0.0; BATCH]);
        let mut see = |batch: Batch<'_, 1, 1>| {
            for (k, (over, mass)) in batch.value[0].iter().zip(batch.mass[0]).enumerate() {
                (self.over[k], inverse[k]) = (*over, 1.0 / mass);
                self.max[k] += over * 0.0;
            }
        };
        if wanted == Wanted::Both {
            evaluate::<E, _, 1, 1, 2, 1>(level, Exponentials::<true>, &exponentials, which, &mut see);
        } else {
            evaluate::<E, _, 1, 1, 2, 1>(level, Exponentials::<false>, &exponentials, which, &mut see);
        }
        self.cached = Some(found);
    }

    /// Writes the logarithms of the probabilities.
    ///
    /// # Safety
    /// As for [`Normalised::write`].
    pub unsafe fn write_logarithms(&self, which: &[usize], target: &Target<'_>) {
        let mut at = [[0.0; BATCH]; 3];
        for k in 0..which.len() {
            let frame = LogSoftmax(self.scale).frame([self.max[k], self.over[k]]);
            (0..3).for_each(|r| at[r][k] = frame[r]);
        }
        // SAFETY: as the caller vouches.
        unsafe {
            emit_rows(level(), LogSoftmax(self.scale), &Self::at_hand(&self.rows, &self.cached), which, &at, target)
        };
    }

    /// Writes the probabilities of each row times its number.
    ///
    /// # Safety
    /// As for [`emit_rows`]; the rows are those that it was made of.
    pub unsafe fn write(&self, which: &[usize], times: &[f64; BATCH], target: &Target<'_>) {
        let product = |a: &[f64; BATCH]| std::array::from_fn(|k| a[k] * times[k]);
        let rows = Self::at_hand(&self.rows, &self.cached);
        // SAFETY: as the caller vouches.
        unsafe {
            if let Some(inverse) = &self.inverse {
                return emit_rows(level(), Times, &rows, which, &[product(inverse)], target);
            }
            let mut at = softmax_frames(Softmax(self.scale), which.len(), &[self.max, self.over]);
            at[4] = product(&at[4]);
            emit_rows(level(), Softmax(self.scale), &rows, which, &at, target);
        }
    }
}

/// Bytes of L2 that are taken for the rows in work, a share of 1 MiB.
const CACHE: usize = 1 << 20;

/// The sums of a chunk.
#[derive(Clone)]
struct Sums<const N: usize>([Total; N]);

impl<const N: usize> Default for Sums<N> {
    fn default() -> Self {
        Sums([Total::default(); N])
    }
}

/// Calls `see` with up to [`BATCH`] rows at a time, as many as [`group`] says, and gives the sums of what it pushes on
/// the tree that reductions keep.
pub(crate) fn over_rows<const N: usize>(
    job: &Job,
    nanoseconds: f64,
    group: usize,
    see: impl Fn(&[usize], &mut [Total; N]) + Sync,
) -> [Total; N] {
    let size = parallel::chunk_rows(nanoseconds, group.min(grain(job.classes, nanoseconds)));
    let some = |range| {
        let mut total = Sums::default();
        job.batches(range, |which| which.chunks(group).for_each(|which| see(which, &mut total.0)));
        total
    };
    let mut all = [Total::default(); N];
    parallel::in_order(job.len(), size, job.threads, some, |Sums(found)| {
        all.iter_mut().zip(found).for_each(|(all, total)| all.merge(total));
    });
    all
}

/// Which of the softmaxes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Normal {
    /// e^x/Σ e^x.
    Softmax,
    /// Its logarithm.
    LogSoftmax,
    /// The softmax of −x.
    Softmin,
}

/// Writes a softmax of every row.
pub fn softmax(job: &Job, single: bool, field: &Field, normal: Normal) -> Result<()> {
    if single { softmax_of::<f32>(job, field, normal) } else { softmax_of::<f64>(job, field, normal) }
}

fn softmax_of<E: Math>(job: &Job, field: &Field, normal: Normal) -> Result<()> {
    let scale = scale::<E>(1.0)?;
    let work = 2.0 * nanoseconds_a_row(job.classes, 1);
    let mut field = field.clone();
    let job = &settled(job, vec![&mut field.lead], work);
    let rows = job.inputs::<E, 1>([if normal == Normal::Softmin { Map::Negate } else { Map::Keep }]);
    over_rows::<0>(job, work, Normalised::<E>::group(job.classes), |which, _| {
        let logarithms = normal == Normal::LogSoftmax;
        let wanted = if logarithms { Wanted::Logarithms } else { Wanted::Probabilities };
        let found = Normalised::new(scale, &rows, which, wanted);
        // SAFETY: the field has the job's shape, and these rows are written by this thread only.
        unsafe {
            match normal {
                Normal::LogSoftmax => found.write_logarithms(which, &field.target()),
                Normal::Softmax | Normal::Softmin => found.write(which, &[1.0; BATCH], &field.target()),
            }
        }
    });
    Ok(())
}

/// The frames of `n` rows from their maxima and what their log-sum-exps exceed them by.
pub(crate) fn softmax_frames<E: Math>(softmax: Softmax<E>, n: usize, found: &[[f64; BATCH]; 2]) -> [[f64; BATCH]; 5] {
    by_eights(n, found.each_ref(), |[max, over]| softmax.frames(level(), max, over))
}

/// Numbers of `n` rows from others of theirs, 8 rows at a time.
fn by_eights<const I: usize, const R: usize>(
    n: usize,
    found: [&[f64; BATCH]; I],
    make: impl Fn([[f64; 8]; I]) -> [[f64; 8]; R],
) -> [[f64; BATCH]; R] {
    let mut made = [[0.0; BATCH]; R];
    for k in (0..n).step_by(8) {
        let eight = make(found.map(|x| std::array::from_fn(|i| x[k + i])));
        (0..R).for_each(|r| made[r][k..k + 8].copy_from_slice(&eight[r]));
    }
    made
}

/// What a log-sum-exp exceeds itself by: NaN where it is not finite, as that of the row is.
pub(crate) fn zero_or_nan(lse: f64) -> f64 {
    if lse.is_finite() { 0.0 } else { f64::NAN }
}

/// Writes the log-sum-exp of every row.
pub fn log_sum_exp(job: &Job, single: bool, field: &Field) -> Result<()> {
    if single { log_sum_exp_of::<f32>(job, field) } else { log_sum_exp_of::<f64>(job, field) }
}

fn log_sum_exp_of<E: Math>(job: &Job, field: &Field) -> Result<()> {
    let scale = scale::<E>(1.0)?;
    let work = nanoseconds_a_row(job.classes, 1);
    let mut field = field.clone();
    let job = &settled(job, vec![&mut field.lead], work);
    let rows = job.inputs::<E, 1>([Map::Keep]);
    let (level, lead) = (level(), Lead { shape: &job.lead });
    over_rows::<0>(job, work, BATCH, |which, _| {
        evaluate::<E, _, 1, 4, 2, 2>(level, LogSumExp(scale), &rows, which, &mut |mut batch| {
            let [values, over] = &mut batch.value;
            for (row, (value, over)) in which.iter().zip(values.iter_mut().zip(&**over)) {
                // Of a row whose maximum is infinite, the maximum.
                *value = if over.is_nan() { largest(job, *row) } else { *value + over };
            }
            field.store(&lead, which, values);
        });
    });
    Ok(())
}

/// The largest element of a row, NaN if it holds one.
fn largest(job: &Job, row: usize) -> f64 {
    let mut largest = f64::NEG_INFINITY;
    job.elements(0, row, |_, x| largest = if x.is_nan() || largest.is_nan() { f64::NAN } else { largest.max(x) });
    largest
}

/// Writes the gradient of the log-sum-exp: e^{x − lse}·g, of operands x (all classes), g and lse (a number a row).
pub fn log_sum_exp_gradient(job: &Job, single: bool, field: &Field) -> Result<()> {
    if single { log_sum_exp_gradient_of::<f32>(job, field) } else { log_sum_exp_gradient_of::<f64>(job, field) }
}

fn log_sum_exp_gradient_of<E: Math>(job: &Job, field: &Field) -> Result<()> {
    let softmax = Softmax(scale::<E>(1.0)?);
    let work = nanoseconds_a_row(job.classes, 1);
    let mut field = field.clone();
    let job = &settled(job, vec![&mut field.lead], work);
    let rows = job.inputs::<E, 1>([Map::Keep]);
    let level = level();
    over_rows::<0>(job, work, BATCH, |which, _| {
        let mut found = [[0.0; BATCH]; 2];
        for (k, row) in which.iter().enumerate() {
            let lse = job.class(2, *row, 0);
            (found[0][k], found[1][k]) = (lse, zero_or_nan(lse));
        }
        let mut at = softmax_frames(softmax, which.len(), &found);
        for (k, row) in which.iter().enumerate() {
            at[4][k] *= job.class(1, *row, 0);
        }
        // SAFETY: the field has the job's shape, and these rows are written by this thread only.
        unsafe { emit_rows(level, softmax, &rows, which, &at, &field.target()) };
    });
    Ok(())
}

/// Writes the gradient of a softmax, from the gradient g of its result y and from y.
pub fn softmax_gradient(job: &Job, single: bool, field: &Field, normal: Normal) {
    if single { softmax_gradient_of::<f32>(job, field, normal) } else { softmax_gradient_of::<f64>(job, field, normal) }
}

fn softmax_gradient_of<E: Math>(job: &Job, field: &Field, normal: Normal) {
    let work = 2.0 * nanoseconds_a_row(job.classes, 2);
    let mut field = field.clone();
    let job = &settled(job, vec![&mut field.lead], work);
    let rows = job.inputs::<E, 2>([Map::Keep; 2]);
    let g: Rows<'_, E, 1> = job.inputs([Map::Keep]);
    let level = level();
    over_rows::<0>(job, work, group(2 * job.classes, size_of::<E>()), |which, _| {
        let mut at = [[0.0; BATCH]; 2];
        at[1] = [if normal == Normal::Softmin { -1.0 } else { 1.0 }; BATCH];
        let n = which.len();
        // SAFETY: the field has the job's shape, and these rows are written by this thread only.
        unsafe {
            if normal == Normal::LogSoftmax {
                evaluate::<E, _, 1, 0, 1, 1>(level, Summed(Same), &g, which, &mut |batch| {
                    at[0][..n].copy_from_slice(batch.value[0]);
                });
                emit_rows(level, LogSoftmaxInput, &rows, which, &[at[0]], &field.target());
            } else {
                evaluate::<E, _, 2, 0, 1, 1>(level, Summed(Product), &rows, which, &mut |batch| {
                    at[0][..n].copy_from_slice(batch.value[0]);
                });
                emit_rows(level, SoftmaxInput, &rows, which, &at, &field.target());
            }
        }
    });
}

/// A value a class: of which inputs, in the order of the operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pointwise {
    /// torch's KL term of (input, target).
    Kl,
    /// The same of a target given as logarithms.
    KlOfLog,
    /// Its gradient by the input, of (target, gradient).
    KlInput,
    /// The same of a target given as logarithms.
    KlOfLogInput,
    /// Its gradient by the target, of (input, target, gradient).
    KlTarget,
    /// The same of a target given as logarithms.
    KlOfLogTarget,
    /// Binary cross entropy of (input, target, weight).
    Binary,
    /// Its gradient by the input, of (input, target, weight, gradient).
    BinaryInput,
    /// Its gradient by the target, of the same.
    BinaryTarget,
    /// Binary cross entropy with logits, of (input, target, weight, weight of the positives).
    Logistic,
    /// Its gradient by the input, of (input, target, weight, weight of the positives, gradient).
    LogisticInput,
    /// Its gradient by the target, of the same.
    LogisticTarget,
}

/// Calls a generic function with the loss that a [`Pointwise`] is and its number of inputs, unless it is a gradient. Those
/// are only ever written, and what is not called is not compiled.
macro_rules! of_value {
    ($value:expr, $function:ident::<$e:ty>($($argument:expr),*), else $otherwise:expr) => {
        match $value {
            Pointwise::Kl => $function::<$e, _, 2>(Kl, $($argument),*),
            Pointwise::KlOfLog => $function::<$e, _, 2>(KlOfLog, $($argument),*),
            Pointwise::Binary => $function::<$e, _, 3>(Binary, $($argument),*),
            Pointwise::Logistic => $function::<$e, _, 4>(Logistic, $($argument),*),
            _ => $otherwise,
        }
    };
}

/// The same for the gradients.
macro_rules! of_gradient {
    ($value:expr, $function:ident::<$e:ty>($($argument:expr),*)) => {
        match $value {
            Pointwise::KlInput => $function::<$e, _, 2>(KlInput, $($argument),*),
            Pointwise::KlOfLogInput => $function::<$e, _, 2>(KlOfLogInput, $($argument),*),
            Pointwise::KlTarget => $function::<$e, _, 3>(KlTarget, $($argument),*),
            Pointwise::KlOfLogTarget => $function::<$e, _, 3>(KlOfLogTarget, $($argument),*),
            Pointwise::BinaryInput => $function::<$e, _, 4>(BinaryInput, $($argument),*),
            Pointwise::BinaryTarget => $function::<$e, _, 4>(BinaryTarget, $($argument),*),
            Pointwise::LogisticInput => $function::<$e, _, 5>(LogisticInput, $($argument),*),
            Pointwise::LogisticTarget => $function::<$e, _, 5>(LogisticTarget, $($argument),*),
            _ => {}
        }
    };
}

/// The elements of arrays that broadcast to one shape, as rows; and where results go, if anywhere.
pub struct Elements {
    parts: Vec<(Job, Option<Field>)>,
}

impl Elements {
    /// Elements of arrays: each a first element, a dtype, whether it is swapped, and its strides along `shape`.
    ///
    /// Rows are the last axis that is longer than 1, cut into blocks where it is long, so that the order of summation is
    /// a function of the shape alone and one row is not one thread's.
    pub fn new(
        shape: &[usize],
        operands: &[(*const u8, Dtype, bool, Axes<isize>)],
        field: Option<(*mut u8, Dtype, Axes<isize>)>,
        threads: usize,
    ) -> Self {
        let last = shape.iter().rposition(|n| *n != 1);
        let classes = last.map_or(1, |i| shape[i]);
        let mut lead = shape.to_vec();
        last.map(|i| lead.remove(i));
        let whole = classes / BLOCK;
        let mut parts = Vec::new();
        for (start, rows, classes) in [(0, whole, BLOCK), (whole * BLOCK, 1, classes % BLOCK)] {
            let blocks = classes == BLOCK && start == 0 && rows > 0;
            if (start == 0 && rows == 0) || (classes == 0 && whole > 0) {
                continue;
            }
            let split = |strides: &[isize]| -> (isize, Axes<isize>) {
                let mut lead = Axes::from(strides);
                let stride = last.map_or(0, |i| lead.remove(i));
                if blocks {
                    lead.push(stride * BLOCK as isize);
                }
                (stride, lead)
            };
            let mut lengths = lead.clone();
            if blocks {
                lengths.push(rows);
            }
            let inputs = operands.iter().map(|(data, dtype, swapped, strides)| {
                let (class_stride, lead) = split(strides);
                let data = data.wrapping_offset(start as isize * class_stride);
                Operand { swapped: *swapped, ..Operand::new("input", data, *dtype, class_stride, lead) }
            });
            let job = Job::new(inputs, lengths, classes, threads);
            let field = field.as_ref().map(|(data, dtype, strides)| {
                let (class_stride, lead) = split(strides);
                Field { data: data.wrapping_offset(start as isize * class_stride), dtype: *dtype, class_stride, lead }
            });
            parts.push((job, field));
        }
        Elements { parts }
    }

    /// About how many nanoseconds it takes to see them all.
    pub fn work(&self) -> f64 {
        self.parts.iter().map(|(job, _)| job.work()).sum()
    }

    /// Writes a value of every element.
    pub fn write(&self, value: Pointwise, single: bool) {
        for (job, field) in &self.parts {
            let Some(field) = field else { continue };
            if single {
                of_value!(value, write::<f32>(job, field), else of_gradient!(value, write::<f32>(job, field)));
            } else {
                of_value!(value, write::<f64>(job, field), else of_gradient!(value, write::<f64>(job, field)));
            }
        }
    }

    /// The sum of a loss of every element; of a gradient NaN, for nobody asks.
    pub fn sum(&self, value: Pointwise, single: bool) -> f64 {
        let mut all = Total::default();
        for (job, _) in &self.parts {
            all.merge(if single {
                of_value!(value, sum::<f32>(job), else return f64::NAN)
            } else {
                of_value!(value, sum::<f64>(job), else return f64::NAN)
            });
        }
        all.sum()
    }

    /// How many elements of two arrays are such that one is not between 0 and 1.
    pub fn outside(&self, single: bool) -> f64 {
        let mut all = Total::default();
        for (job, _) in &self.parts {
            all.merge(if single { sum::<f32, _, 2>(Outside, job) } else { sum::<f64, _, 2>(Outside, job) });
        }
        all.sum()
    }
}

fn write<E: Math, T: Emit<E, I, 0>, const I: usize>(value: T, job: &Job, field: &Field) {
    let work = nanoseconds_a_row(job.classes, I);
    let mut field = field.clone();
    let job = &settled(job, vec![&mut field.lead], work);
    let rows = job.inputs::<E, I>([Map::Keep; I]);
    let level = level();
    over_rows::<0>(job, work, BATCH, |which, _| {
        // SAFETY: the field has the job's shape, and these rows are written by this thread only.
        unsafe { emit_rows::<E, T, I, 0>(level, value, &rows, which, &[], &field.target()) };
    });
}

fn sum<E: Math, T: Emit<E, I, 0>, const I: usize>(value: T, job: &Job) -> Total {
    let work = nanoseconds_a_row(job.classes, I);
    let job = &settled(job, vec![], work);
    let rows = job.inputs::<E, I>([Map::Keep; I]);
    let level = level();
    let [total] = over_rows::<1>(job, work, BATCH, |which, [total]| {
        evaluate::<E, _, I, 0, 1, 1>(level, Summed(value), &rows, which, &mut |batch| {
            batch.value[0].iter().for_each(|v| total.push(*v));
        });
    });
    total
}
