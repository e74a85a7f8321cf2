//! A call from beginning to end: operands to elements, rows to chunks, results checked, converted and stored.

mod invalid;
mod job;
mod operand;
mod rescue;
mod work;

pub use invalid::{Invalid, Verdict};
pub use job::Job;
pub use operand::{Axes, Bytes, Given, KNOWN, Labels, Numbers, Operand, Out};
pub use rescue::{Reach, Rescue};
pub use work::{grain, nanoseconds_a_row};

use std::sync::Mutex;

use smallvec::{SmallVec, smallvec};

use crate::error::{Error, Result, short};
use crate::math::{Math, wide};
use crate::measure::Scale;
use crate::parallel;
use crate::reduce::Total;
use crate::rows::{BATCH, Batch, Lead, Map, Measure, evaluate};
use crate::simd::{Level, SimdBase, W, dispatch, level};

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
        job.flags(0..job.len(), |row, counts| {
            if !counts {
                store(job, out, &[row], &[f64::NAN]);
            }
        });
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

impl Job {
    /// The total of the results of all rows, in the bits that [`score`] gives it.
    pub fn total_of(&self, values: &[f64]) -> Total {
        let mut sum = Total::default();
        for (i, chunk) in values.chunks(self.chunk()).enumerate() {
            let mut total = Total::default();
            let first = i * self.chunk();
            let push = |which: &[usize]| which.iter().for_each(|row| total.push(chunk[row - first]));
            self.batches(first..first + chunk.len(), push);
            sum.merge(total);
        }
        sum
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
    let beyond =
        |k: usize, value| rescue.reach.is_some_and(|reach| reach.exceeded([mass[0][k], mass[I - 1][k]], value));
    // Without a way out of the loop, which so becomes one over vectors.
    let mut suspect = batch.value[0].iter().fold(false, |any, v| any | v.is_nan());
    suspect |=
        rescue.reach.is_some() && batch.value[0].iter().enumerate().fold(false, |any, (k, v)| any | beyond(k, *v));
    for (k, x) in job.operands.iter().enumerate() {
        if job.check_sums && x.given.is_normalised() {
            let expected = if x.given.is_log() { 0.0 } else { 1.0 };
            // Rounding of the sum itself must not decide. What is not within it is off or NaN.
            let tolerance = Job::tolerance(x.dtype) * (1.0 - 1e-6);
            suspect |= !batch.mass[k].iter().fold(true, |all, m| all & ((m - expected).abs() <= tolerance));
        }
    }
    // A bit a row.
    let mut rescued = 0u128;
    const { assert!(BATCH <= 128) };
    if suspect {
        for (k, (row, value)) in batch.rows.iter().zip(&mut *batch.value[0]).enumerate() {
            match job.inspect(*row) {
                Verdict::Right if value.is_nan() || beyond(k, *value) => {
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
    if job.labels.is_some() {
        let likelihoods = surprise(job, level, batch, invalid);
        if suspect {
            for (k, (value, likelihood)) in batch.value[0].iter_mut().zip(&likelihoods).enumerate() {
                if !value.is_nan() && rescued >> k & 1 == 0 {
                    *value = *likelihood;
                }
            }
        } else {
            batch.value[0].copy_from_slice(&likelihoods);
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
    level: Level,
    batch: &Batch<'_, I, O>,
    invalid: &Mutex<Invalid>,
) -> SmallVec<[f64; BATCH]> {
    let x = &job.operands[I - 1];
    let (log, [max, over]) = (x.given.is_log(), [O - 2, O - 1].map(|o| &*batch.value[o]));
    let classes = job.classes_or_note(batch.rows, invalid);
    let values = job.elements_at(I - 1, batch.rows, &classes);
    let mut result = smallvec![0.0; batch.rows.len()];
    // A zero without its sign.
    let of = result.iter_mut().zip(max).zip(values.iter().map(|value| value + 0.0));
    if log {
        of.zip(over).for_each(|(((result, max), value), over)| *result = (max - value) / x.temperature + over);
        return result;
    }
    // Ratios of a subnormal mass that overflow.
    let mut beyond = Vec::new();
    for (k, ((result, max), value)) in of.enumerate() {
        *result = max / value;
        if *result == f64::INFINITY && value > 0.0 {
            beyond.push((k, ln(*max) - ln(value)));
        }
    }
    ln_all(level, &mut result);
    beyond.into_iter().for_each(|(k, ln)| result[k] = ln);
    result.iter_mut().zip(over).for_each(|(result, over)| *result += over);
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

/// A number rounded, and never above the largest there can be.
pub fn to_single(value: f64, most: f64) -> f32 {
    let rounded = value as f32;
    if f64::from(rounded) > most { rounded.next_down() } else { rounded }
}

/// Stores results, rounded once, and never above the largest there can be.
fn store(job: &Job, out: &Out, rows: &[usize], values: &[f64]) {
    // A base below 1 makes results negative, and none too large.
    let most = if job.unit > 0.0 { job.most / job.unit } else { f64::INFINITY };
    let most = if job.root { most.sqrt() } else { most };
    let single = |value: f64| to_single(value, most);
    let lead = Lead { shape: &job.lead };
    let size = if out.single { 4 } else { 8 };
    if lead.step(&out.lead, rows) == Some(size) {
        let to = out.data.wrapping_offset(lead.offset(&out.lead, rows[0]));
        for (k, value) in values.iter().enumerate() {
            // SAFETY: these are the results of rows whose results follow each other in memory, stored by one thread only.
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
    lead.offsets(&out.lead, rows, |k, at| {
        let to = out.data.wrapping_offset(at);
        // SAFETY: the result array has the shape of the leading axes, and every row is stored by one thread only.
        unsafe {
            if out.single {
                to.cast::<f32>().write_unaligned(single(values[k]));
            } else {
                to.cast::<f64>().write_unaligned(values[k]);
            }
        }
    });
}

/// The scale of an operand's temperature, or the error that says what is accepted.
pub fn scale<E: Math>(temperature: f64) -> Result<Scale<E>> {
    Scale::new(temperature).ok_or_else(|| {
        let got = short(temperature);
        Error::Value(format!("temperature must be a number > 0 between 1e-290 and 1e290, got {got}"))
    })
}
