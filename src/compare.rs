//! Two models on the same rows: every column of a comparison from one reading of both matrices.

use std::sync::Mutex;

use crate::error::Result;
use crate::math::{Math, wide};
use crate::measure::{COMPARE, Compare};
use crate::parallel;
use crate::rows::{BATCH, Batch, Dtype, Map, evaluate, first_equal};
use crate::score::{Given, Invalid, Job, Operand, Reach, Verdict, grain, nanoseconds_a_row, scale, to_single};
use crate::simd::{Level, Select, SimdBase, W, dispatch, level};

/// The columns by name, in the order of [`Column`].
pub const COLUMNS: [&str; 11] = [
    "kl",
    "kl_reverse",
    "js",
    "tv",
    "entropy_base",
    "entropy_other",
    "cross_entropy",
    "same_top",
    "nll_base",
    "nll_other",
    "delta_p",
];
/// KL, reverse KL and JS, which come first and vanish with the square of what rows differ by.
const DIVERGENCES: usize = 3;
/// These and total variation.
const APART: usize = 4;
/// Columns from the measure itself; the others need the rows' largest classes or labels.
const MEASURED: usize = 7;
const JS: usize = 2;
const SAME_TOP: usize = 7;
const NLL_BASE: usize = 8;
const NLL_OTHER: usize = 9;
const DELTA_P: usize = 10;

/// What a row counts as.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// A row of the comparison.
    Scored = 0,
    /// Left out: its label or `rows` says so.
    Ignored = 1,
    /// Not two distributions.
    Invalid = 2,
}

/// Where a column goes: contiguous, in C order; `same_top` as bytes.
#[derive(Clone, Copy)]
pub struct Column {
    /// Index into [`COLUMNS`].
    pub which: usize,
    /// The first value.
    pub data: *mut u8,
}

/// The columns of a call.
pub struct Columns {
    /// Where each goes.
    pub columns: Vec<Column>,
    /// Whether values are `f32` (else `f64`).
    pub single: bool,
    /// One [`Status`] a row.
    pub status: *mut u8,
}

// SAFETY: every row is written by one thread only, to arrays that the caller keeps alive.
unsafe impl Sync for Columns {}

/// Fills the columns, and gives what is wrong with the rows.
pub fn compare(job: &Job, columns: &Columns) -> Result<Invalid> {
    let job = job.collapsed();
    let linear = job.operands.iter().any(|x| !x.given.is_log());
    let wide = !Dtype::single(job.operands.iter().map(|x| x.dtype));
    let apart = job.operands[0].temperature != job.operands[1].temperature;
    let far = job.operands.iter().any(Operand::is_far);
    if linear || wide || apart || far { fill::<f64>(&job, columns) } else { fill::<f32>(&job, columns) }
}

/// How each operand becomes logarithms at one temperature, and that temperature.
fn spaces(job: &Job) -> ([Map; 2], f64) {
    let [a, b] = [&job.operands[0], &job.operands[1]];
    if a.given.is_log() && b.given.is_log() && a.temperature == b.temperature {
        return ([Map::Keep; 2], a.temperature);
    }
    ([a.as_logs(), b.as_logs()], 1.0)
}

fn fill<E: Math>(job: &Job, columns: &Columns) -> Result<Invalid> {
    let (map, t) = spaces(job);
    let measure = Compare::<E>(scale(t)?);
    let reach = Reach::between::<E>(map);
    let mut rows = job.inputs::<E, 2>(map);
    let level = level();
    let work = 3.0 * nanoseconds_a_row(job.classes, 2);
    let [threads, within] = job.spread(work);
    rows.threads = within;
    let (invalid, limits) = (Mutex::new(Invalid::default()), limits(job));
    parallel::chunks(job.len(), parallel::chunk_rows(work, grain(job.classes, work)), threads, |_, range| {
        if !job.all_count() {
            for row in range.clone() {
                columns.set_status(row, Status::Ignored);
                columns.columns.iter().for_each(|c| columns.store(c, row, f64::NAN));
            }
        }
        job.batches(range, |which| {
            evaluate::<E, _, 2, 12, 7, COMPARE>(level, measure, &rows, which, &mut |mut batch| {
                let (mut scored, mut largest) = ([false; BATCH], [[f64::NAN; 2]; BATCH]);
                for (k, row) in which.iter().enumerate() {
                    let status = settle(job, &batch, &limits, k, *row, &invalid);
                    columns.set_status(*row, status);
                    scored[k] = status == Status::Scored;
                    let [p, q] = [batch.mass[0][k], batch.mass[1][k]];
                    if scored[k] && (0..DIVERGENCES).any(|i| reach.exceeded([p, q], batch.value[i][k])) {
                        largest[k] = again(job, level, *row, map, &mut batch, k);
                    }
                }
                let extra = likelihoods(job, t, level, &batch, map, &largest, &invalid);
                for column in &columns.columns {
                    let top = |i: usize, k: usize| {
                        if largest[k][i].is_nan() {
                            return first_equal(level, &rows, i, which[k], batch.value[MEASURED + 2 * i][k]);
                        }
                        let mut first = None;
                        job.elements(i, which[k], |class, x| {
                            first = first.or((x == largest[k][i]).then_some(class));
                        });
                        first
                    };
                    for (k, row) in which.iter().enumerate() {
                        let value = match column.which {
                            _ if !scored[k] => f64::NAN,
                            i if i < MEASURED => batch.value[i][k],
                            SAME_TOP => f64::from(u8::from(top(0, k) == top(1, k))),
                            i => extra[i - NLL_BASE][k],
                        };
                        columns.store(column, *row, value);
                    }
                }
            });
        });
    });
    Ok(invalid.into_inner().unwrap_or_else(|e| e.into_inner()))
}

/// Passes row k of the batch once more, by itself, in double precision and each of its logarithms less its largest. Gives the
/// largest elements where the row's own were not at hand: then all columns refer to those, else the divergences alone are new.
#[inline(never)]
fn again(job: &Job, level: Level, row: usize, map: [Map; 2], batch: &mut Batch<'_, 2, COMPARE>, k: usize) -> [f64; 2] {
    let mut largest = [f64::NAN; 2];
    let mut centred = map;
    for i in 0..2 {
        if matches!(map[i], Map::Keep | Map::Divide(_)) {
            let mut most = f64::MIN;
            job.elements(i, row, |_, x| most = most.max(x));
            (largest[i], centred[i]) = (most, Map::Centre(most, job.operands[i].temperature));
        }
    }
    let whole =
        map.iter().any(|map| matches!(map, Map::Divide(_))) || batch.value[MEASURED..].iter().any(|v| v[k].is_nan());
    let Ok(unit) = scale(1.0) else { return [f64::NAN; 2] };
    let rows = job.inputs::<f64, 2>(centred);
    evaluate::<f64, _, 2, 12, 7, COMPARE>(level, Compare::<f64>(unit), &rows, &[row], &mut |found| {
        let new = if whole { COMPARE } else { APART };
        batch.value.iter_mut().zip(found.value).take(new).for_each(|(value, found)| value[k] = found[0]);
    });
    if whole { largest } else { [f64::NAN; 2] }
}

/// How far the logarithm of each operand's mass may be from 0. For probabilities it is that of a sum.
fn limits(job: &Job) -> [f64; 2] {
    [0, 1].map(|i| match job.operands[i].given {
        Given::LogProbs if job.check_sums => Job::tolerance(job.operands[i].dtype),
        Given::Probs if job.check_sums => 0.5 * Job::tolerance(job.operands[i].dtype),
        _ => f64::MAX,
    })
}

/// Whether a row is two distributions; what is wrong is noted.
fn settle(
    job: &Job,
    batch: &Batch<'_, 2, COMPARE>,
    limits: &[f64; 2],
    k: usize,
    row: usize,
    invalid: &Mutex<Invalid>,
) -> Status {
    let right = batch.mass.iter().zip(limits).all(|(mass, limit)| mass[k].abs() <= *limit);
    if right && !batch.value[4][k].is_nan() {
        return Status::Scored;
    }
    match job.inspect(row) {
        Verdict::Right => Status::Scored,
        Verdict::Nothing => Status::Invalid,
        Verdict::Wrong(operand, flaw) => {
            if !job.invalid_is_nan {
                invalid.lock().unwrap_or_else(|e| e.into_inner()).push(row, operand, flaw);
            }
            Status::Invalid
        }
    }
}

impl Columns {
    /// The columns from a row on.
    pub fn from(&self, row: usize) -> Columns {
        let size = |which: usize| {
            if which == SAME_TOP {
                1
            } else if self.single {
                4
            } else {
                8
            }
        };
        let moved = |c: &Column| Column { which: c.which, data: c.data.wrapping_add(row * size(c.which)) };
        Columns {
            columns: self.columns.iter().map(moved).collect(),
            single: self.single,
            status: self.status.wrapping_add(row),
        }
    }

    fn set_status(&self, row: usize, status: Status) {
        // SAFETY: the array has a byte for every row.
        unsafe { self.status.add(row).write(status as u8) };
    }

    fn store(&self, column: &Column, row: usize, value: f64) {
        // SAFETY: the array has an element for every row, a byte for `same_top`.
        unsafe {
            if column.which == SAME_TOP {
                column.data.add(row).write(u8::from(value == 1.0));
            } else if self.single {
                let most = if column.which == JS { std::f64::consts::LN_2 } else { f64::INFINITY };
                column.data.cast::<f32>().add(row).write(to_single(value, most));
            } else {
                column.data.cast::<f64>().add(row).write(value);
            }
        }
    }
}

/// Negative log-likelihoods of the labels under both models, and the difference of their probabilities. `largest` has the maxima of
/// rows that were passed [`again`].
fn likelihoods(
    job: &Job,
    t: f64,
    level: Level,
    batch: &Batch<'_, 2, COMPARE>,
    map: [Map; 2],
    largest: &[[f64; 2]; BATCH],
    invalid: &Mutex<Invalid>,
) -> [[f64; BATCH]; 3] {
    let mut result = [[f64::NAN; BATCH]; 3];
    if job.labels.is_none() {
        return result;
    }
    let classes = job.classes_or_note(batch.rows, invalid);
    for i in 0..2 {
        let elements = job.elements_at(i, batch.rows, &classes);
        let mut logs = elements.clone();
        if let Map::Divide(t) = map[i] {
            for (x, (row, class)) in logs.iter_mut().zip(batch.rows.iter().zip(&classes)) {
                if class.is_some() {
                    *x = (*x - job.origin(i, *row)) / t;
                }
            }
        }
        if matches!(map[i], Map::Ln(_)) {
            crate::score::ln_all(level, &mut logs);
        }
        for k in 0..batch.rows.len() {
            let (max, over) = (batch.value[MEASURED + 2 * i][k], batch.value[MEASURED + 2 * i + 1][k]);
            let below = if largest[k][i].is_nan() {
                (max - logs[k]) / t
            } else {
                (largest[k][i] - elements[k]) / job.operands[i].temperature
            };
            result[i][k] = below + over;
        }
    }
    let [base, other, delta] = &mut result;
    dispatch!(level, s => {
        for ((base, other), delta) in base.as_chunks::<8>().0.iter().zip(other.as_chunks::<8>().0).zip(delta.as_chunks_mut::<8>().0) {
            let (a, b) = (W::load_array(s, *base), W::load_array(s, *other));
            // p_other − p_base = p_base·(e^x − 1), x the gap of their logarithms, without cancellation.
            let x = a - b;
            let rise = wide::exp_m1_minus(s, x) + x;
            let p = wide::exp(s, -a);
            let near = x.abs().simd_lt(1.0);
            *delta = near.select(p * rise, wide::exp(s, -b) - p).to_array();
        }
    });
    result
}

impl Column {
    /// A column by name.
    pub fn find(name: &str) -> Option<usize> {
        COLUMNS.iter().position(|c| *c == name)
    }

    /// Whether a column needs labels.
    pub fn needs_labels(which: usize) -> bool {
        matches!(which, NLL_BASE | NLL_OTHER | DELTA_P)
    }

    /// Whether a column is boolean.
    pub fn is_bool(which: usize) -> bool {
        which == SAME_TOP
    }
}
