//! Which measure a quantity is in each space: a new divergence adds one line to `evaluate`.

use crate::error::Result;
use crate::math::Math;
use crate::measure::{
    CrossEntropyLin, CrossEntropyLog, CrossEntropyMixed, EntropyLin, EntropyLog, Generator, Js, KlLin, KlLog,
    LogSumExp, PairLin, PairLog, Scale, Total as TotalMass,
};
use crate::reduce::Total;
use crate::rows::{Dtype, Map};
use crate::score::{Invalid, Job, Operand, scale, score};

/// What is asked of each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// H(p).
    Entropy,
    /// H(p, q).
    CrossEntropy,
    /// KL(p‖q).
    Kl,
    /// JS(p, q).
    Js,
    /// −ln q of the label.
    Nll,
}

impl Quantity {
    /// The largest value there can be, in nats: results are never rounded above it.
    pub fn most(self) -> f64 {
        match self {
            Quantity::Js => Js::MOST,
            Quantity::Entropy | Quantity::CrossEntropy | Quantity::Kl | Quantity::Nll => f64::INFINITY,
        }
    }
}

/// Evaluates a quantity on all rows of a job: their total, if one is wanted, and what is wrong with them.
pub fn run(quantity: Quantity, job: &Job) -> Result<(Total, Invalid)> {
    let job = job.collapsed();
    let single = Dtype::single(job.operands.iter().map(|x| x.dtype))
        && !job.operands.iter().any(Operand::is_far)
        && !staged(quantity, &job);
    if !single {
        return double(quantity, &job);
    }
    // What leaves the range of single precision is passed once more in double.
    let rescue = |row: usize| one(quantity, &job, row);
    evaluate::<f32>(quantity, &job, [Map::Keep; 2], &rescue)
}

/// A quantity in double precision.
fn double(quantity: Quantity, job: &Job) -> Result<(Total, Invalid)> {
    let rescue = |row: usize| one(quantity, job, row);
    evaluate::<f64>(quantity, job, maps(quantity, job), &rescue)
}

/// The result of one row in double precision, in nats, masses scaled by a power of two that brings each row's largest
/// near 1, logits less the row's first; NaN if it has none. For rows at the ends of their element's range.
fn one(quantity: Quantity, job: &Job, row: usize) -> f64 {
    let lead = crate::rows::Lead { shape: &job.lead };
    let mut single = job.clone();
    for x in &mut single.operands {
        x.data = x.data.wrapping_offset(lead.offset(&x.lead, row));
        x.lead.clear();
    }
    if let Some(mask) = &mut single.mask {
        mask.data = mask.data.wrapping_offset(lead.offset(&mask.lead, row));
        mask.lead.clear();
    }
    if let Some(labels) = &mut single.labels {
        labels.data = labels.data.wrapping_offset(lead.offset(&labels.lead, row));
        labels.lead.clear();
    }
    (single.rows, single.out, single.total, single.root) = (None, None, true, false);
    (single.unit, single.threads, single.check_sums, single.invalid_is_nan) = (1.0, 1, false, true);
    single.lead.clear();
    let mut maps = maps(quantity, &single);
    for (k, map) in maps.iter_mut().enumerate().take(single.operands.len()) {
        if *map != Map::Keep || quantity == Quantity::Nll {
            continue;
        }
        if single.operands[k].given.is_log() {
            *map = Map::Divide(single.operands[k].temperature);
            single.operands[k].temperature = 1.0;
        } else {
            let mut largest: f64 = 0.0;
            single.elements(k, 0, |_, value| largest = largest.max(value));
            // 2^1074 overflows: a subnormal maximum stays below 1, which is near enough.
            *map = Map::Shrink(f64::from_bits(largest.to_bits() >> 52 << 52).max(f64::MIN_POSITIVE));
        }
    }
    let total = evaluate::<f64>(quantity, &single, maps, &|_| f64::NAN);
    total.map_or(f64::NAN, |(t, _)| t.sum())
}

/// Whether the rows of a pair are in spaces that only meet as logarithms in double precision.
fn staged(quantity: Quantity, job: &Job) -> bool {
    let [p, q] = job.operands.as_slice() else { return false };
    match (p.given.is_log(), q.given.is_log()) {
        (false, false) => false,
        (false, true) => quantity != Quantity::CrossEntropy,
        (true, false) => true,
        (true, true) => quantity != Quantity::CrossEntropy && p.temperature != q.temperature,
    }
}

fn maps(quantity: Quantity, job: &Job) -> [Map; 2] {
    let mut maps = [Map::Keep; 2];
    if staged(quantity, job) {
        for (map, x) in maps.iter_mut().zip(&job.operands) {
            *map = x.as_logs();
        }
    }
    maps
}

type Rescue<'a> = &'a (dyn Fn(usize) -> f64 + Sync);

/// The registry.
fn evaluate<E: Math>(quantity: Quantity, job: &Job, map: [Map; 2], rescue: Rescue<'_>) -> Result<(Total, Invalid)> {
    let staged = staged(quantity, job);
    let log = |k: usize| staged || job.operands[k].given.is_log();
    let t = |k: usize| scale::<E>(if staged { 1.0 } else { job.operands[k].temperature });
    let single = [map[0]];
    match (quantity, log(0), log(job.operands.len() - 1)) {
        (Quantity::Entropy, false, _) => score::<E, _, _, _, _, _>(job, EntropyLin, single, rescue),
        (Quantity::Entropy, true, _) => score::<E, _, _, _, _, _>(job, EntropyLog::<E>(t(0)?), single, rescue),
        (Quantity::Nll, false, _) => score::<E, _, _, _, _, _>(job, TotalMass, single, rescue),
        (Quantity::Nll, true, _) => score::<E, _, _, _, _, _>(job, LogSumExp::<E>(t(0)?), single, rescue),
        (Quantity::CrossEntropy, false, false) => score::<E, _, _, _, _, _>(job, CrossEntropyLin, map, rescue),
        (Quantity::CrossEntropy, false, true) => {
            score::<E, _, _, _, _, _>(job, CrossEntropyMixed::<E>(t(1)?), map, rescue)
        }
        (Quantity::CrossEntropy, true, _) => {
            score::<E, _, _, _, _, _>(job, CrossEntropyLog::<E>(t(0)?, t(1)?), map, rescue)
        }
        (Quantity::Kl, false, _) => score::<E, _, _, _, _, _>(job, KlLin, map, rescue),
        (Quantity::Kl, true, _) => score::<E, _, _, _, _, _>(job, KlLog::<E>(t(0)?), map, rescue),
        (Quantity::Js, log, _) => pair(job, Js, log.then(|| t(0)).transpose()?, map, rescue),
    }
}

/// A divergence that is the same both ways, of masses or, given a scale, of logarithms.
fn pair<E: Math, G: Generator>(
    job: &Job,
    g: G,
    scale: Option<Scale<E>>,
    map: [Map; 2],
    rescue: Rescue<'_>,
) -> Result<(Total, Invalid)> {
    match scale {
        None => score::<E, _, _, _, _, _>(job, PairLin(g), map, rescue),
        Some(scale) => score::<E, _, _, _, _, _>(job, PairLog(scale, g), map, rescue),
    }
}
