//! Results of the input's own shape: softmax, log-softmax, and torch's KL terms.

use crate::error::Result;
use crate::math::Math;
use crate::measure::{
    CrossEntropyMixed, LogSoftmax, LogSumExp, PointwiseTarget, Softmax, TargetLog, TargetSum, TargetSumLog,
};
use crate::parallel;
use crate::reduce::Total;
use crate::rows::{BATCH, Dtype, Emit, Lead, Map, Measure, Rows, Target, emit_rows, evaluate};
use crate::score::{Job, nanoseconds_a_row, scale};
use crate::simd::level;

/// Where results go.
#[derive(Clone, Debug)]
pub struct Field {
    /// The first result.
    pub data: *mut u8,
    /// Bytes from class to class.
    pub class_stride: isize,
    /// Bytes from row to row along each leading axis.
    pub lead: Vec<isize>,
}

// SAFETY: every row is written by one thread only, to an array that the caller keeps alive.
unsafe impl Sync for Field {}

impl Field {
    fn target(&self) -> Target<'_> {
        Target { data: self.data, class_stride: self.class_stride, lead: &self.lead }
    }
}

/// The job and the field with adjacent leading axes merged.
fn collapsed(job: &Job, field: &Field) -> (Job, Field) {
    let (mut job, mut field) = (job.clone(), field.clone());
    let mut all: Vec<&mut Vec<isize>> = job.operands.iter_mut().map(|x| &mut x.lead).collect();
    all.push(&mut field.lead);
    crate::score::collapse(&mut job.lead, &mut all);
    (job, field)
}

/// Whether every operand is computed in single precision.
fn is_single(job: &Job) -> bool {
    Dtype::single(job.operands.iter().map(|x| x.dtype))
}

/// Rows that are normalised and then written: as many at once as stay in a 1 MiB share of L2.
fn group(classes: usize, size: usize) -> usize {
    ((1 << 20) / (classes * size).max(1)).clamp(1, BATCH)
}

/// Writes the softmax, or its logarithm, of every row.
pub fn softmax(job: &Job, field: &Field, logarithm: bool) -> Result<()> {
    let (job, field) = collapsed(job, field);
    if is_single(&job) {
        softmax_of::<f32>(&job, &field, logarithm)
    } else {
        softmax_of::<f64>(&job, &field, logarithm)
    }
}

fn softmax_of<E: Math>(job: &Job, field: &Field, logarithm: bool) -> Result<()> {
    let scale = scale::<E>(job.operands[0].temperature)?;
    let rows = job.inputs::<E, 1>([Map::Keep]);
    let level = level();
    let work = 2.0 * nanoseconds_a_row(job.classes, 1);
    let threads = if work * job.len() as f64 > parallel::WORTH_THREADS { job.threads } else { 1 };
    let group = group(job.classes, size_of::<E>());
    parallel::chunks(job.len(), parallel::chunk_rows(work, 1), threads, |_, range| {
        job.batches(range, |which| {
            for which in which.chunks(group) {
                let mut found = [[0.0; BATCH]; 2];
                evaluate::<E, _, 1, 4, 2, 2>(level, LogSumExp(scale), &rows, which, &mut |batch| {
                    for (found, value) in found.iter_mut().zip(batch.value) {
                        found[..value.len()].copy_from_slice(value);
                    }
                });
                // SAFETY: the field has the job's shape, and these rows are written by this thread only.
                unsafe {
                    if logarithm {
                        let mut at = [[0.0; BATCH]; 3];
                        for k in 0..which.len() {
                            let frame = LogSoftmax(scale).frame([found[0][k], found[1][k]]);
                            (0..3).for_each(|r| at[r][k] = frame[r]);
                        }
                        emit_rows(level, LogSoftmax(scale), &rows, which, &at, &field.target());
                    } else {
                        let mut at = [[0.0; BATCH]; 5];
                        for k in (0..which.len()).step_by(8) {
                            let eight = |x: &[f64; BATCH]| std::array::from_fn(|i| x[k + i]);
                            let frames = Softmax(scale).frames(level, eight(&found[0]), eight(&found[1]));
                            (0..5).for_each(|r| at[r][k..k + 8].copy_from_slice(&frames[r]));
                        }
                        emit_rows(level, Softmax(scale), &rows, which, &at, &field.target());
                    }
                }
            }
        });
    });
    Ok(())
}

/// Writes torch's KL term of every class of an input (logarithms) and a target.
pub fn kl_terms(job: &Job, field: &Field, log_target: bool) -> Result<()> {
    let (job, field) = collapsed(job, field);
    match (is_single(&job), log_target) {
        (true, false) => terms::<f32, _>(&job, &field, PointwiseTarget),
        (true, true) => terms::<f32, _>(&job, &field, TargetLog),
        (false, false) => terms::<f64, _>(&job, &field, PointwiseTarget),
        (false, true) => terms::<f64, _>(&job, &field, TargetLog),
    }
    Ok(())
}

fn terms<E: Math, T: Emit<E, 2, 0>>(job: &Job, field: &Field, term: T) {
    let rows = job.inputs::<E, 2>([Map::Keep; 2]);
    let (level, work) = (level(), nanoseconds_a_row(job.classes, 2));
    let threads = if work * job.len() as f64 > parallel::WORTH_THREADS { job.threads } else { 1 };
    parallel::chunks(job.len(), parallel::chunk_rows(work, 1), threads, |_, range| {
        job.batches(range, |which| {
            // SAFETY: the field has the job's shape, and these rows are written by this thread only.
            unsafe { emit_rows::<E, T, 2, 0>(level, term, &rows, which, &[], &field.target()) };
        });
    });
}

/// The sum of torch's KL terms.
pub fn kl_total(job: &Job, log_target: bool) -> Total {
    let job = job.collapsed();
    match (is_single(&job), log_target) {
        (true, false) => total::<f32, _>(&job, TargetSum),
        (true, true) => total::<f32, _>(&job, TargetSumLog),
        (false, false) => total::<f64, _>(&job, TargetSum),
        (false, true) => total::<f64, _>(&job, TargetSumLog),
    }
}

fn total<E: Math, M: Measure<E, 2, 0, 1, 1>>(job: &Job, m: M) -> Total {
    let rows: Rows<'_, E, 2> = job.inputs([Map::Keep; 2]);
    sum_rows(job, |which, push| {
        evaluate::<E, M, 2, 0, 1, 1>(level(), m, &rows, which, &mut |batch| {
            batch.value[0].iter().for_each(|v| push(*v))
        });
    })
}

/// The sum over rows of what `see` pushes, on the tree that reductions keep.
fn sum_rows(job: &Job, see: impl Fn(&[usize], &mut dyn FnMut(f64)) + Sync) -> Total {
    let work = nanoseconds_a_row(job.classes, job.operands.len());
    let size = parallel::chunk_rows(work, BATCH);
    let threads = if work * job.len() as f64 > parallel::WORTH_THREADS { job.threads } else { 1 };
    let totals = std::sync::Mutex::new(vec![Total::default(); job.len().div_ceil(size)]);
    parallel::chunks(job.len(), size, threads, |chunk, range| {
        let mut total = Total::default();
        job.batches(range, |which| see(which, &mut |v| total.push(v)));
        totals.lock().unwrap_or_else(|e| e.into_inner())[chunk] = total;
    });
    let mut all = Total::default();
    totals.into_inner().unwrap_or_else(|e| e.into_inner()).into_iter().for_each(|t| all.merge(t));
    all
}

/// Writes Σ_c w_c·(lse(y) − y_c) of every row of weights w and logits y, whatever the sign or the sum of the weights:
/// torch's cross entropy with targets given as probabilities.
pub fn soft_cross_entropy(job: &Job, field: &Field) -> Result<()> {
    let (job, field) = collapsed(job, field);
    if is_single(&job) { soft::<f32>(&job, &field) } else { soft::<f64>(&job, &field) }
}

fn soft<E: Math>(job: &Job, field: &Field) -> Result<()> {
    let measure = CrossEntropyMixed::<E, true>(scale::<E>(1.0)?);
    let rows = job.inputs::<E, 2>([Map::Keep; 2]);
    let (level, work) = (level(), nanoseconds_a_row(job.classes, 2));
    let threads = if work * job.len() as f64 > parallel::WORTH_THREADS { job.threads } else { 1 };
    let lead = Lead { shape: &job.lead };
    parallel::chunks(job.len(), parallel::chunk_rows(work, BATCH), threads, |_, range| {
        job.batches(range, |which| {
            evaluate::<E, _, 2, 5, 4, 1>(level, measure, &rows, which, &mut |batch| {
                for (row, value) in which.iter().zip(batch.value[0]) {
                    let at = field.data.wrapping_offset(lead.offset(&field.lead, *row));
                    // SAFETY: the field has an element for every row, and this thread alone writes this one.
                    unsafe { at.cast::<E>().write_unaligned(E::from_f64(*value)) };
                }
            });
        });
    });
    Ok(())
}
