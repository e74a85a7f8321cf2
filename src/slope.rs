//! Gradients of the quantities: of each row as it is defined, its normalisation included.
//!
//! With φ the derivative by a normalised row p as if its elements were free, that by a mass v = P·p is (φ − Σ p·φ)/P, and
//! that by a logit is p·(φ − Σ p·φ)/T. A first pass over a row finds its norms, a second Σ p·φ, a third writes.

use std::sync::Mutex;

use crate::elementwise::{Field, group, over_rows, settled};
use crate::error::{Result, label_out_of_range};
use crate::loss::{Upstream, exp_m1};
use crate::math::Math;
use crate::measure::{LogSumExp, Slope, SlopeOf, Total};
use crate::rows::{BATCH, Dtype, Lead, Map, Rows, Target, emit_rows, evaluate};
use crate::score::{Job, ln, nanoseconds_a_row, scale};
use crate::simd::level;

/// Writes the gradient of a quantity of each row by operand 0, of which operand 1 is the other one (or itself): `g` is
/// that of the result, which is in units of `unit` nats. Rows that do not count have 0.
pub fn gradient(job: &Job, of: SlopeOf, g: &Upstream, unit: f64, out: Field) -> Result<()> {
    if Dtype::single(job.operands.iter().map(|x| x.dtype)) && !job.operands.iter().any(|x| x.is_far()) {
        gradient_of::<f32>(job, of, g, unit, out)
    } else {
        gradient_of::<f64>(job, of, g, unit, out)
    }
}

/// What is known of a row of one operand: ln of its norm in the units of its elements, and what a mass is multiplied by.
#[derive(Clone, Copy, Default)]
struct Norm {
    ln: f64,
    inverse: f64,
}

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

fn gradient_of<E: Math>(job: &Job, of: SlopeOf, g: &Upstream, unit: f64, mut out: Field) -> Result<()> {
    let work = 3.0 * nanoseconds_a_row(job.classes, 2);
    let mut g = g.clone();
    let job = settled(job, g.lead().into_iter().chain([&mut out.lead]).collect(), work);
    let (job, lead, level) = (&job, Lead { shape: &job.lead }, level());
    let own = job.inputs::<E, 1>([Map::Keep]);
    let mut swapped = job.clone();
    swapped.operands.swap(0, 1);
    let other = swapped.inputs::<E, 1>([Map::Keep]);
    let both = job.inputs::<E, 2>([Map::Keep; 2]);
    let slope = Slope { of, log: [0, 1].map(|k| job.operands[k].given.is_log()), term: false };
    let mut all = job.clone();
    (all.rows, all.labels) = (None, None);
    let most = group(3 * job.classes, size_of::<E>());
    let wrong = Mutex::new(None);
    over_rows::<0>(&all, work, most, |which, _| {
        let counts: [bool; BATCH] = std::array::from_fn(|k| k < which.len() && job.counts(&lead, which[k]));
        let (Ok(a), Ok(b)) = (norms(job, 0, which, &own), norms(&swapped, 0, which, &other)) else { return };
        let mut at = [[0.0; BATCH]; 9];
        for k in 0..which.len() {
            for (i, norm) in [(0, a[k]), (4, b[k])] {
                let head = E::from_f64(norm.ln).to_f64();
                at[i][k] = head;
                at[i + 1][k] = if head.is_finite() { norm.ln - head } else { 0.0 };
                at[i + 2][k] = norm.inverse;
            }
            at[3][k] = 1.0;
        }
        if of.is_centred() {
            // The terms of these rows, in cache.
            let mut terms = vec![E::ZERO; which.len() * job.classes];
            let size = size_of::<E>() as isize;
            let target = Target {
                data: terms.as_mut_ptr().cast(),
                dtype: if E::LANES == 16 { Dtype::F32 } else { Dtype::F64 },
                class_stride: size,
                lead: &[],
                packed: Some(job.classes as isize * size),
            };
            // SAFETY: there is a term for every class of these rows.
            unsafe { emit_rows::<E, _, 2, 9>(level, Slope { term: true, ..slope }, &both, which, &at, &target) };
            for (k, terms) in terms.chunks(job.classes.max(1)).enumerate() {
                at[7][k] = terms.iter().map(|x| x.to_f64()).sum();
            }
        }
        for (k, row) in which.iter().enumerate() {
            at[8][k] = a[k].inverse * (g.of(&lead, *row) / unit);
        }
        // SAFETY: the field has the job's shape, and these rows are written by this thread only.
        unsafe { emit_rows::<E, _, 2, 9>(level, slope, &both, which, &at, &out.target()) };
        let scaled = at[8];
        for (k, row) in which.iter().enumerate() {
            let at = lead.offset(&out.lead, *row);
            let zero = |class: usize| {
                let to = out.data.wrapping_offset(at + class as isize * out.class_stride);
                // SAFETY: the field has this class of this row.
                unsafe { out.dtype.store(0.0, to) };
            };
            if !counts[k] {
                (0..job.classes).for_each(zero);
                continue;
            }
            if let Some(labels) = &job.labels {
                let x = &job.operands[0];
                let label = labels.get(&lead, *row);
                let Some(class) = usize::try_from(label).ok().filter(|c| *c < job.classes) else {
                    wrong.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert((*row, label));
                    continue;
                };
                let value = job.class(0, *row, class);
                let below = if x.given.is_log() {
                    exp_m1((value - a[k].ln) / x.temperature)
                } else {
                    1.0 - 1.0 / (a[k].inverse * value)
                };
                let to = out.data.wrapping_offset(at + class as isize * out.class_stride);
                // SAFETY: the field has this class of this row.
                unsafe { out.dtype.store(below * scaled[k], to) };
            }
            if let Some(mask) = &job.mask {
                let mask_at = lead.offset(&mask.lead, *row);
                // SAFETY: the mask has a byte for every class of every row.
                let absent =
                    |c: usize| unsafe { mask.data.offset(mask_at + c as isize * mask.class_stride).read() == 0 };
                (0..job.classes).filter(|c| absent(*c)).for_each(zero);
            }
        }
    });
    match wrong.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some((row, label)) => Err(label_out_of_range(label, &job.row_name(row), job.classes)),
        None => Ok(()),
    }
}
