//! torch's cross entropies: of logits (with class indices or probabilities as targets) and of log-probabilities, with
//! class weights and label smoothing, and their gradients. Each reads the logits once.

use smallvec::smallvec;
use std::sync::Mutex;

use crate::elementwise::{Field, Normalised, Wanted, group, over_rows, settled, softmax_frames, zero_or_nan};
use crate::error::{Result, target_out_of_bounds};
use crate::math::{Math, wide};
use crate::measure::{Expected, ExpectedInput, ExpectedTarget, LogSumExp, Softmax};
use crate::reduce::Total;
use crate::rows::{BATCH, Batch, Dtype, Emit, Lead, Map, Measure, emit_rows, evaluate};
use crate::score::{Axes, Invalid, Job, Numbers, Operand, nanoseconds_a_row, scale};
use crate::simd::{Select, SimdBase, W, dispatch, level};

/// What the losses have besides inputs and targets.
#[derive(Clone, Debug)]
pub struct Terms {
    /// A factor for each class.
    pub weight: Option<Vec<f64>>,
    /// The share of a target that is spread over all classes.
    pub smoothing: f64,
    /// Whether elements and the kernels' arithmetic are `f32`.
    pub single: bool,
}

/// The gradient of what a row adds to the result: a number a row, or one for all.
#[derive(Clone, Debug)]
pub enum Upstream {
    /// The same for every row.
    One(f64),
    /// One a row: the first number, how it is stored, and the bytes from row to row along each leading axis.
    Rows(Operand),
}

// SAFETY: the memory is only read, and the caller keeps it alive.
unsafe impl Sync for Upstream {}

impl Upstream {
    /// Its strides along the leading axes, if it has any.
    pub(crate) fn lead(&mut self) -> Option<&mut Axes<isize>> {
        match self {
            Upstream::One(_) => None,
            Upstream::Rows(x) => Some(&mut x.lead),
        }
    }

    pub(crate) fn of(&self, lead: &Lead<'_>, row: usize) -> f64 {
        match self {
            Upstream::One(g) => *g,
            // SAFETY: the operand has a number for every row.
            Upstream::Rows(x) => unsafe {
                x.dtype.number(x.data.wrapping_offset(lead.offset(&x.lead, row)), x.swapped)
            },
        }
    }
}

impl Terms {
    fn weight(&self, class: usize) -> f64 {
        self.weight.as_ref().map_or(1.0, |w| w[class])
    }

    /// The weights of `classes` classes as elements, to be read as an input.
    fn row<E: Math>(&self, classes: usize) -> Vec<E> {
        (0..classes).map(|c| E::from_f64(self.weight(c))).collect()
    }
}

/// A row of elements that repeats.
fn repeated<E: Math>(row: &[E], axes: usize) -> Operand {
    let (data, stride) = (row.as_ptr().cast(), size_of::<E>() as isize);
    Operand::new("weight", data, Dtype::of::<E>(), stride, smallvec![0; axes])
}

/// One element of an operand as it is stored.
fn element(job: &Job, k: usize, lead: &Lead<'_>, row: usize, class: usize) -> f64 {
    let x = &job.operands[k];
    let at = x.data.wrapping_offset(lead.offset(&x.lead, row) + class as isize * x.class_stride);
    // SAFETY: the operand has this class of this row.
    unsafe { x.dtype.number(at, x.swapped) }
}

/// torch's error about the lowest row whose label is no class, if there is one.
fn check_labels(invalid: Mutex<Invalid>) -> Result<()> {
    match invalid.into_inner().unwrap_or_else(|e| e.into_inner()).label() {
        Some((_, label)) => Err(target_out_of_bounds(label)),
        None => Ok(()),
    }
}

/// Stores 0 for the rows that do not count.
fn clear(job: &Job, out: &Field) {
    let lead = Lead { shape: &job.lead };
    job.flags(0..job.len(), |row, counts| {
        if !counts {
            out.store(&lead, &[row], &[0.0]);
        }
    });
}

/// Cross entropy of logits (operand 0) and class indices (labels), each weighted: their sum and the sum of their weights.
/// `saved` gets the log-sum-exp of every row that counts.
pub fn cross_entropy(job: &Job, terms: &Terms, out: Option<Field>, saved: Option<Numbers>) -> Result<(f64, f64)> {
    if terms.single {
        cross_entropy_of::<f32>(job, terms, out, saved)
    } else {
        cross_entropy_of::<f64>(job, terms, out, saved)
    }
}

fn cross_entropy_of<E: Math>(
    job: &Job,
    terms: &Terms,
    mut out: Option<Field>,
    saved: Option<Numbers>,
) -> Result<(f64, f64)> {
    let (scale, smoothing) = (scale::<E>(1.0)?, terms.smoothing);
    let work = nanoseconds_a_row(job.classes, 1) + 10.0;
    let mut job = settled(job, out.iter_mut().map(|x| &mut x.lead).collect(), work);
    let row_of_weights = terms.row::<E>(if smoothing > 0.0 { job.classes } else { 0 });
    job.operands.push(repeated(&row_of_weights, job.lead.len()));
    let (job, out) = (&job, &out);
    let (level, lead) = (level(), Lead { shape: &job.lead });
    if let Some(out) = out {
        clear(job, out);
    }
    let invalid = Mutex::default();
    let settle = |which: &[usize], max: &[f64], over: &[f64], spread: Option<&[f64]>, total: &mut [Total; 2]| {
        let classes = job.classes_or_note(which, &invalid);
        let mut values = job.elements_at(0, which, &classes);
        values.iter_mut().zip(max).zip(over).for_each(|((x, max), over)| *x = (max - *x) + over);
        for (k, (row, (value, class))) in which.iter().zip(values.iter_mut().zip(&classes)).enumerate() {
            let Some(class) = *class else { continue };
            let weight = terms.weight(class);
            *value *= weight;
            if let Some(spread) = spread {
                *value = (1.0 - smoothing) * *value + smoothing / job.classes as f64 * spread[k];
            }
            total[0].push(*value);
            total[1].push(weight);
            if let Some(saved) = saved {
                saved.set(*row, max[k] + over[k]);
            }
        }
        if let Some(out) = out {
            out.store(&lead, which, &values);
        }
    };
    let [sum, weights] = if smoothing > 0.0 {
        let (measure, rows) =
            (Expected::<E, 2> { scale, keep: E::from_f64(1.0), spread: E::ZERO }, job.inputs::<E, 2>([Map::Keep; 2]));
        over_rows(job, work, BATCH, |which, total| {
            evaluate::<E, _, 2, 5, 4, 4>(level, measure, &rows, which, &mut |b: Batch<'_, 2, 4>| {
                settle(which, b.value[1], b.value[2], Some(b.value[0]), total);
            });
        })
    } else {
        let rows = job.inputs::<E, 1>([Map::Keep]);
        over_rows(job, work, BATCH, |which, total| {
            evaluate::<E, _, 1, 4, 2, 2>(level, LogSumExp(scale), &rows, which, &mut |b: Batch<'_, 1, 2>| {
                settle(which, b.value[0], b.value[1], None, total);
            });
        })
    };
    check_labels(invalid)?;
    Ok((sum.sum(), weights.sum()))
}

/// The gradient of [`cross_entropy`] by the logits, of what it saved.
pub fn cross_entropy_gradient(job: &Job, terms: &Terms, saved: Numbers, g: &Upstream, out: Field) -> Result<()> {
    if terms.single {
        cross_entropy_gradient_of::<f32>(job, terms, saved, g, out)
    } else {
        cross_entropy_gradient_of::<f64>(job, terms, saved, g, out)
    }
}

fn cross_entropy_gradient_of<E: Math>(
    job: &Job,
    terms: &Terms,
    saved: Numbers,
    g: &Upstream,
    mut out: Field,
) -> Result<()> {
    let (scale, smoothing) = (scale::<E>(1.0)?, terms.smoothing);
    let work = 2.0 * nanoseconds_a_row(job.classes, 1) + 20.0;
    let mut g = g.clone();
    let mut job = settled(job, g.lead().into_iter().chain([&mut out.lead]).collect(), work);
    let row_of_weights = terms.row::<E>(if smoothing > 0.0 { job.classes } else { 0 });
    job.operands.push(repeated(&row_of_weights, job.lead.len()));
    let (job, out) = (&job, &out);
    let (level, lead) = (level(), Lead { shape: &job.lead });
    let invalid = Mutex::default();
    let share = smoothing / job.classes as f64;
    let all: f64 = (0..job.classes).map(|c| terms.weight(c)).sum();
    let one = job.inputs::<E, 1>([Map::Keep]);
    let two = job.inputs::<E, 2>([Map::Keep; 2]);
    over_rows::<0>(&without_ignoring(job), work, group(job.classes, size_of::<E>()), |which, _| {
        let (mut found, mut below) = ([[0.0; BATCH]; 2], [0.0; BATCH]);
        let (mut factor, mut class) = ([0.0; BATCH], [None; BATCH]);
        let (counted, classes) = (job.counted(which), job.classes_of(which));
        let logits = job.elements_at(0, which, &classes);
        for (k, (row, column)) in which.iter().zip(&classes).enumerate() {
            if !counted[k] {
                continue;
            }
            let Some(column) = *column else {
                job.note_label(*row, &invalid);
                continue;
            };
            let lse = saved.get(*row);
            (found[0][k], found[1][k]) = (lse, zero_or_nan(lse));
            (class[k], factor[k]) = (Some(column), g.of(&lead, *row));
            below[k] = logits[k] - lse;
        }
        let mut at = softmax_frames(Softmax(scale), which.len(), &found);
        for k in 0..which.len() {
            let weight = class[k].map_or(0.0, |c| terms.weight(c));
            at[4][k] *= factor[k] * ((1.0 - smoothing) * weight + share * all);
        }
        // SAFETY: the field has the job's shape, and these rows are written by this thread only.
        unsafe {
            if smoothing > 0.0 {
                let shares = std::array::from_fn(|k| factor[k] * share);
                let at = [at[0], at[1], at[2], at[3], at[4], shares, [0.0; BATCH]];
                emit_rows::<E, _, 2, 7>(level, ExpectedInput(scale), &two, which, &at, &out.target());
            } else {
                emit_rows::<E, _, 1, 5>(level, Softmax(scale), &one, which, &at, &out.target());
            }
        }
        // Of the label p − 1, without cancellation.
        exp_m1_all(&mut below);
        lead.offsets(&out.lead, which, |k, at| {
            let Some(class) = class[k] else {
                return (0..job.classes).for_each(|class| out.put(at, class, 0.0));
            };
            let weight = terms.weight(class);
            let value = (1.0 - smoothing) * weight * below[k] + share * (all * (below[k] + 1.0) - weight);
            out.put(at, class, factor[k] * value);
        });
    });
    check_labels(invalid)
}

/// The sum of the weights of the labels of all rows that count, before the rows are read.
pub fn weights(job: &Job, terms: &Terms) -> f64 {
    let [sum] = over_rows(job, 2.0, BATCH, |which, [sum]| {
        job.classes_of(which).iter().flatten().for_each(|class| sum.push(terms.weight(*class)));
    });
    sum.sum()
}

/// [`cross_entropy`] without smoothing, with its gradient by the logits, times `g`, from one reading of them.
pub fn cross_entropy_and_gradient(job: &Job, terms: &Terms, saved: Numbers, g: f64, out: Field) -> Result<(f64, f64)> {
    if terms.single {
        cross_entropy_and_gradient_of::<f32>(job, terms, saved, g, out)
    } else {
        cross_entropy_and_gradient_of::<f64>(job, terms, saved, g, out)
    }
}

fn cross_entropy_and_gradient_of<E: Math>(
    job: &Job,
    terms: &Terms,
    saved: Numbers,
    g: f64,
    mut out: Field,
) -> Result<(f64, f64)> {
    let scale = scale::<E>(1.0)?;
    let work = 2.0 * nanoseconds_a_row(job.classes, 1) + 20.0;
    let (job, out) = (&settled(job, vec![&mut out.lead], work), &out);
    let lead = Lead { shape: &job.lead };
    let invalid = Mutex::default();
    let rows = job.inputs::<E, 1>([Map::Keep]);
    let most = Normalised::<E>::group(job.classes);
    let [sum, weights] = over_rows(&without_ignoring(job), work, most, |which, [sum, weights]| {
        let found = Normalised::new(scale, &rows, which, Wanted::Both);
        let (mut class, mut below, mut times) = ([None; BATCH], [0.0; BATCH], [0.0; BATCH]);
        let (counted, classes) = (job.counted(which), job.classes_of(which));
        let logits = job.elements_at(0, which, &classes);
        for (k, (row, column)) in which.iter().zip(&classes).enumerate() {
            if !counted[k] {
                continue;
            }
            let Some(column) = *column else {
                job.note_label(*row, &invalid);
                continue;
            };
            let weight = terms.weight(column);
            let value = (found.max[k] - logits[k]) + found.over[k];
            sum.push(weight * value);
            weights.push(weight);
            saved.set(*row, found.max[k] + found.over[k]);
            (class[k], below[k], times[k]) = (Some((column, weight)), -value, g * weight);
        }
        // SAFETY: the field has the job's shape, and these rows are written by this thread only.
        unsafe { found.write(which, &times, &out.target()) };
        // Of the label p − 1, without cancellation.
        exp_m1_all(&mut below);
        lead.offsets(&out.lead, which, |k, at| match class[k] {
            Some((class, weight)) => out.put(at, class, g * weight * below[k]),
            None => (0..job.classes).for_each(|class| out.put(at, class, 0.0)),
        });
    });
    check_labels(invalid)?;
    Ok((sum.sum(), weights.sum()))
}

/// The job with rows that do not count among its rows.
fn without_ignoring(job: &Job) -> Job {
    let mut all = job.clone();
    if let Some(labels) = &mut all.labels {
        labels.ignore = None;
    }
    all
}

/// e^x − 1 of a batch, in the same bits on every machine.
fn exp_m1_all(values: &mut [f64; BATCH]) {
    dispatch!(level(), s => {
        for chunk in values.as_chunks_mut::<8>().0 {
            let x = W::load_array(s, *chunk);
            // Below, −1 is all there is, and at −∞ the sum would be NaN.
            let least = W::splat(s, -64.0);
            let x = x.simd_lt(least).select(least, x);
            *chunk = (wide::exp_m1_minus(s, x) + x).to_array();
        }
    });
}

/// e^x − 1 of one number.
pub(crate) fn exp_m1(x: f64) -> f64 {
    let mut values = [x; BATCH];
    exp_m1_all(&mut values);
    values[0]
}

/// Negative log-likelihood of log-probabilities (operand 0) and class indices, each weighted: their sum and the sum of
/// their weights.
pub fn nll(job: &Job, terms: &Terms, mut out: Option<Field>) -> Result<(f64, f64)> {
    let work = 10.0;
    let job = &settled(job, out.iter_mut().map(|x| &mut x.lead).collect(), work);
    let lead = Lead { shape: &job.lead };
    if let Some(out) = &out {
        clear(job, out);
    }
    let invalid = Mutex::default();
    let [sum, weights] = over_rows(job, work, BATCH, |which, [sum, weights]| {
        let classes = job.classes_or_note(which, &invalid);
        let mut values = job.elements_at(0, which, &classes);
        for (value, class) in values.iter_mut().zip(&classes) {
            let Some(class) = *class else { continue };
            let weight = terms.weight(class);
            *value *= -weight;
            sum.push(*value);
            weights.push(weight);
        }
        if let Some(out) = &out {
            out.store(&lead, which, &values);
        }
    });
    check_labels(invalid)?;
    Ok((sum.sum(), weights.sum()))
}

/// The gradient of [`nll`] by the log-probabilities, into a field of zeros.
pub fn nll_gradient(job: &Job, terms: &Terms, g: &Upstream, out: &Field) -> Result<()> {
    let lead = Lead { shape: &job.lead };
    let invalid = Mutex::default();
    over_rows::<0>(job, 10.0, BATCH, |which, _| {
        for (row, class) in which.iter().zip(&job.classes_or_note(which, &invalid)) {
            let Some(class) = *class else { continue };
            out.set(&lead, *row, class, -terms.weight(class) * g.of(&lead, *row));
        }
    });
    check_labels(invalid)
}

/// Cross entropy of logits (operand 0) and probabilities (operand 1): the sum over rows. `saved` gets the log-sum-exp and
/// the weight of every row.
pub fn expected(job: &Job, terms: &Terms, out: Option<Field>, saved: Option<[Numbers; 2]>) -> Result<f64> {
    match (terms.single, terms.weight.is_some()) {
        (true, false) => expected_of::<f32, 2>(job, terms, out, saved),
        (true, true) => expected_of::<f32, 3>(job, terms, out, saved),
        (false, false) => expected_of::<f64, 2>(job, terms, out, saved),
        (false, true) => expected_of::<f64, 3>(job, terms, out, saved),
    }
}

fn expected_of<E: Math, const I: usize>(
    job: &Job,
    terms: &Terms,
    mut out: Option<Field>,
    saved: Option<[Numbers; 2]>,
) -> Result<f64>
where
    Expected<E, I>: Measure<E, I, 5, 4, 4>,
{
    let work = nanoseconds_a_row(job.classes, I);
    let mut job = settled(job, out.iter_mut().map(|x| &mut x.lead).collect(), work);
    let row_of_weights = terms.row::<E>(job.classes);
    job.operands.push(repeated(&row_of_weights, job.lead.len()));
    let (job, level, lead) = (&job, level(), Lead { shape: &job.lead });
    let measure = Expected::<E, I> {
        scale: scale(1.0)?,
        keep: E::from_f64(1.0 - terms.smoothing),
        spread: E::from_f64(terms.smoothing / job.classes as f64),
    };
    let rows = job.inputs::<E, I>([Map::Keep; I]);
    let [sum] = over_rows(job, work, BATCH, |which, [sum]| {
        evaluate::<E, _, I, 5, 4, 4>(level, measure, &rows, which, &mut |batch| {
            for (k, row) in which.iter().enumerate() {
                let [value, max, over, weight] = [0, 1, 2, 3].map(|i| batch.value[i][k]);
                let value = if job.classes == 0 { 0.0 } else { value };
                batch.value[0][k] = value;
                sum.push(value);
                if let Some([lse, weights]) = saved {
                    lse.set(*row, max + over);
                    weights.set(*row, weight);
                }
            }
            if let Some(out) = &out {
                out.store(&lead, which, batch.value[0]);
            }
        });
    });
    Ok(sum.sum())
}

/// The gradients of [`expected`] by the logits and by the target, of what it saved, each where it is wanted.
pub fn expected_gradient(
    job: &Job,
    terms: &Terms,
    saved: [Numbers; 2],
    g: &Upstream,
    of_input: Option<Field>,
    of_target: Option<Field>,
) -> Result<()> {
    match (terms.single, terms.weight.is_some()) {
        (true, false) => expected_gradient_of::<f32, 2, 1>(job, terms, saved, g, of_input, of_target),
        (true, true) => expected_gradient_of::<f32, 3, 2>(job, terms, saved, g, of_input, of_target),
        (false, false) => expected_gradient_of::<f64, 2, 1>(job, terms, saved, g, of_input, of_target),
        (false, true) => expected_gradient_of::<f64, 3, 2>(job, terms, saved, g, of_input, of_target),
    }
}

fn expected_gradient_of<E: Math, const I: usize, const J: usize>(
    job: &Job,
    terms: &Terms,
    [lse, weights]: [Numbers; 2],
    g: &Upstream,
    mut of_input: Option<Field>,
    mut of_target: Option<Field>,
) -> Result<()>
where
    ExpectedInput<E>: Emit<E, I, 7>,
    ExpectedTarget: Emit<E, J, 3>,
{
    let scale = scale::<E>(1.0)?;
    let work = nanoseconds_a_row(job.classes, I);
    let mut g = g.clone();
    let fields = of_input.iter_mut().chain(&mut of_target).map(|x| &mut x.lead);
    let mut job = settled(job, g.lead().into_iter().chain(fields).collect(), work);
    let row_of_weights = terms.row::<E>(job.classes);
    job.operands.push(repeated(&row_of_weights, job.lead.len()));
    let lead = Lead { shape: &job.lead };
    let level = level();
    let (keep, spread) = (1.0 - terms.smoothing, terms.smoothing / job.classes as f64);
    let all = job.inputs::<E, I>([Map::Keep; I]);
    // The logits, and the weights where there are any.
    let mut fewer = job.clone();
    fewer.operands.remove(1);
    let logits = fewer.inputs::<E, J>([Map::Keep; J]);
    over_rows::<0>(&job, work, group(2 * job.classes, size_of::<E>()), |which, _| {
        let mut found = [[0.0; BATCH]; 2];
        let mut factor = [0.0; BATCH];
        for (k, row) in which.iter().enumerate() {
            let lse = lse.get(*row);
            (found[0][k], found[1][k], factor[k]) = (lse, zero_or_nan(lse), g.of(&lead, *row));
        }
        if let Some(out) = &of_input {
            let mut at = softmax_frames(Softmax(scale), which.len(), &found);
            for (k, row) in which.iter().enumerate() {
                at[4][k] *= factor[k] * weights.get(*row);
            }
            let [a, b] = [keep, spread].map(|x| std::array::from_fn(|k| x * factor[k]));
            let at = [at[0], at[1], at[2], at[3], at[4], a, b];
            // SAFETY: the field has the job's shape, and these rows are written by this thread only.
            unsafe { emit_rows::<E, _, I, 7>(level, ExpectedInput(scale), &all, which, &at, &out.target()) };
        }
        if let Some(out) = &of_target {
            let head: [f64; BATCH] = std::array::from_fn(|k| E::from_f64(found[0][k]).to_f64());
            let tail = std::array::from_fn(|k| if head[k].is_finite() { found[0][k] - head[k] } else { 0.0 });
            let at = [head, tail, std::array::from_fn(|k| keep * factor[k])];
            // SAFETY: as above.
            unsafe { emit_rows::<E, _, J, 3>(level, ExpectedTarget, &logits, which, &at, &out.target()) };
        }
    });
    Ok(())
}

/// The gradient of [`expected`] by the weights of the classes: Σ g·t·(lse − y) of each.
pub fn expected_gradient_of_weight(job: &Job, smoothing: f64, lse: Numbers, g: &Upstream, out: &mut [Total]) {
    let lead = Lead { shape: &job.lead };
    let (keep, spread) = (1.0 - smoothing, smoothing / job.classes as f64);
    for row in 0..job.len() {
        let (g, lse) = (g.of(&lead, row), lse.get(row));
        for (class, out) in out.iter_mut().enumerate() {
            let target = keep * element(job, 1, &lead, row, class) + spread;
            out.push(g * target * (lse - element(job, 0, &lead, row, class)));
        }
    }
}
