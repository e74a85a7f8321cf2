//! Gradients of the quantities: of each row as it is defined, its normalisation included.
//!
//! With φ the derivative by a normalised row p as if its elements were free, that by a mass v = P·p is (φ − Σ p·φ)/P, and
//! that by a logit is p·(φ − Σ p·φ)/T. The norms of both rows are what the forward pass has kept or a first pass finds;
//! where Σ p·φ is not the quantity itself a second finds it; the last one writes. Rows stay in cache meanwhile.

use std::sync::Mutex;

use crate::elementwise::{Field, group, over_rows, settled};
use crate::error::Result;
use crate::loss::{Upstream, exp_m1};
use crate::math::Math;
use crate::measure::{LogSumExp, Slope, SlopeOf, Summed, Total};
use crate::rows::{BATCH, Cached, Dtype, Lead, Map, Rows, Same, emit_rows, evaluate};
use crate::score::{Job, KNOWN, Numbers, ln, nanoseconds_a_row, scale};
use crate::simd::level;

/// Writes the gradients of a quantity by its operands, each of them that has a field and what it is by it: `g` is the
/// gradient of the result, which is in units of `unit` nats. Rows that do not count have 0. `known` is what the forward
/// pass kept.
pub fn gradient(job: &Job, known: Numbers, g: &Upstream, unit: f64, by: [Option<(SlopeOf, Field)>; 2]) -> Result<()> {
    if Dtype::single(job.operands.iter().map(|x| x.dtype)) && !job.operands.iter().any(|x| x.is_far()) {
        gradient_of::<f32>(job, known, g, unit, by)
    } else {
        gradient_of::<f64>(job, known, g, unit, by)
    }
}

/// What is known of a row of one operand: ln of its norm in the units of its elements, and what a mass is multiplied by.
#[derive(Clone, Copy, Default)]
struct Norm {
    ln: f64,
    inverse: f64,
}

/// What is known of a batch of rows: the norms of both operands, and the quantity where it has been kept.
struct Known {
    norms: [[Norm; BATCH]; 2],
    value: Option<[f64; BATCH]>,
}

/// What the forward pass has kept of these rows, unless it has not of one that has a value.
fn kept(job: &Job, numbers: Numbers, which: &[usize]) -> Option<Known> {
    let (mut norms, mut values) = ([[Norm::default(); BATCH]; 2], [0.0; BATCH]);
    for (k, row) in which.iter().enumerate() {
        let [p, q, value] = [0, 1, 2].map(|i| numbers.get(KNOWN * row + i));
        if !value.is_nan() && (p == f64::INFINITY || q == f64::INFINITY) {
            return None;
        }
        for (i, lse) in [p, q].into_iter().enumerate() {
            // A row without a value has no gradient.
            let (t, lse) = (job.operands[i].temperature, if value.is_nan() { value } else { lse });
            norms[i][k] = Norm { ln: lse * t, inverse: 1.0 / t };
        }
        values[k] = value;
    }
    Some(Known { norms, value: Some(values) })
}

/// The norms of rows of operand `k`, which `rows` are.
fn norms<E: Math>(job: &Job, k: usize, which: &[usize], rows: &Rows<'_, E, 1>) -> Result<[Norm; BATCH]> {
    let x = &job.operands[k];
    let mut found = [Norm::default(); BATCH];
    if x.given.is_log() {
        let scale = scale::<E>(x.temperature)?;
        evaluate::<E, _, 1, 4, 2, 2>(level(), LogSumExp(scale), rows, which, &mut |batch| {
            for k in 0..which.len() {
                let ln = batch.value[0][k] + x.temperature * batch.value[1][k];
                found[k] = Norm { ln, inverse: 1.0 / x.temperature };
            }
        });
    } else {
        evaluate::<E, _, 1, 2, 3, 2>(level(), Total, rows, which, &mut |batch| {
            for k in 0..which.len() {
                let mass = if batch.value[1][k].is_nan() { f64::NAN } else { batch.mass[0][k] };
                found[k] = Norm { ln: ln(mass), inverse: 1.0 / mass };
            }
        });
    }
    Ok(found)
}

fn gradient_of<E: Math>(
    job: &Job,
    numbers: Numbers,
    g: &Upstream,
    unit: f64,
    mut by: [Option<(SlopeOf, Field)>; 2],
) -> Result<()> {
    let work = 3.0 * nanoseconds_a_row(job.classes, 2);
    let mut g = g.clone();
    let fields = by.iter_mut().flatten().map(|(_, field)| &mut field.lead);
    let job = settled(job, g.lead().into_iter().chain(fields).collect(), work);
    let (job, lead, level) = (&job, Lead { shape: &job.lead }, level());
    let mut swapped = job.clone();
    swapped.operands.swap(0, 1);
    // By either operand: it itself, and it with the other one.
    let jobs = [job, &swapped];
    let own = jobs.map(|job| job.inputs::<E, 1>([Map::Keep]));
    let both = jobs.map(|job| job.inputs::<E, 2>([Map::Keep; 2]));
    let mut all = job.clone();
    (all.rows, all.labels) = (None, None);
    let most = group(3 * job.classes, size_of::<E>());
    let invalid = Mutex::default();
    over_rows::<0>(&all, work, most, |which, _| {
        let known = match kept(job, numbers, which) {
            Some(known) => known,
            None => {
                let (Ok(p), Ok(q)) = (norms(job, 0, which, &own[0]), norms(job, 1, which, &own[1])) else { return };
                Known { norms: [p, q], value: None }
            }
        };
        for (i, by) in by.iter().enumerate() {
            let Some((of, out)) = by else { continue };
            let (a, b) = (&known.norms[i], &known.norms[1 - i]);
            let slope = Slope { of: *of, log: [i, 1 - i].map(|k| job.operands[k].given.is_log()), term: false };
            let mut at = [[0.0; BATCH]; 8];
            for k in 0..which.len() {
                for (i, norm) in [(0, a[k]), (3, b[k])] {
                    let head = E::from_f64(norm.ln).to_f64();
                    at[i][k] = head;
                    at[i + 1][k] = if head.is_finite() { norm.ln - head } else { 0.0 };
                    at[i + 2][k] = norm.inverse;
                }
                at[7][k] = a[k].inverse * (g.of(&lead, which[k]) / unit);
            }
            match known.value {
                _ if !of.is_centred() => {}
                Some(value) if *of != SlopeOf::Js => at[6] = value,
                _ => {
                    // The terms of these rows, in cache.
                    let mut terms = Cached::<E>::like(which.len(), &both[i]);
                    // SAFETY: there is room for these rows, which are written before they are read.
                    let terms = unsafe {
                        let (slope, target) = (Slope { term: true, ..slope }, terms.target());
                        emit_rows::<E, _, 2, 8>(level, slope, &both[i], which, &at, &target);
                        terms.rows(lead)
                    };
                    evaluate::<E, _, 1, 0, 1, 1>(level, Summed(Same), &terms, which, &mut |batch| {
                        at[6][..which.len()].copy_from_slice(batch.value[0]);
                    });
                }
            }
            // SAFETY: the field has the job's shape, and these rows are written by this thread only.
            unsafe { emit_rows::<E, _, 2, 8>(level, slope, &both[i], which, &at, &out.target()) };
            let (counted, classes) = (job.counted(which), job.classes_of(which));
            let values = jobs[i].elements_at(0, which, &classes);
            for (k, row) in which.iter().enumerate() {
                if counted[k] && job.labels.is_some() && classes[k].is_none() {
                    job.note_label(*row, &invalid);
                } else if counted[k] {
                    mend(jobs[i], &lead, *row, out, (a[k], at[7][k]), classes[k].map(|class| (class, values[k])));
                } else {
                    (0..job.classes).for_each(|class| out.set(&lead, *row, class, 0.0));
                }
            }
        }
    });
    invalid.into_inner().unwrap_or_else(|e| e.into_inner()).check(job)
}

/// Writes what the formula does not say of a row: the class of its label, and 0 where a class does not count.
fn mend(job: &Job, lead: &Lead<'_>, row: usize, out: &Field, (norm, k): (Norm, f64), labelled: Option<(usize, f64)>) {
    let set = |class, value| out.set(lead, row, class, value);
    if let Some((class, value)) = labelled {
        let x = &job.operands[0];
        let below = if x.given.is_log() {
            exp_m1((value - norm.ln) / x.temperature)
        } else {
            1.0 - 1.0 / (norm.inverse * value)
        };
        set(class, below * k);
    }
    if let Some(mask) = &job.mask {
        let mask_at = lead.offset(&mask.lead, row);
        // SAFETY: the mask has a byte for every class of every row.
        let absent = |c: usize| unsafe { mask.data.offset(mask_at + c as isize * mask.class_stride).read() == 0 };
        (0..job.classes).filter(|c| absent(*c)).for_each(|class| set(class, 0.0));
    }
}
