//! Which measure a quantity is in each space. A new divergence that is the same both ways is one line of `symmetric!`.

use crate::error::Result;
use crate::math::Math;
use crate::measure::{
    self, CrossEntropyLin, CrossEntropyLog, CrossEntropyLogLin, CrossEntropyMixed, EntropyLin, EntropyLog, Generator,
    KlLin, KlLog, LogSumExp, PairLin, PairLog, Scale, SlopeOf, Total as TotalMass,
};
use crate::reduce::Total;
use crate::rows::{Dtype, Map};
use crate::score::{Invalid, Job, Operand, Reach, Rescue, scale, score};

/// What is asked of each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// H(p).
    Entropy,
    /// H(p, q).
    CrossEntropy,
    /// KL(p‖q).
    Kl,
    /// −ln q of the label.
    Nll,
    /// D(p, q) = D(q, p).
    Symmetric(Symmetric),
}

impl Quantity {
    /// The largest value there can be, in nats: results are never rounded above it.
    pub fn most(self) -> f64 {
        match self {
            Quantity::Symmetric(divergence) => divergence.most(),
            Quantity::Entropy | Quantity::CrossEntropy | Quantity::Kl | Quantity::Nll => f64::INFINITY,
        }
    }
}

/// Names divergences by the files and generators in `measure`.
macro_rules! symmetric {
    ($($(#[$doc:meta])* $file:ident::$generator:ident,)+) => {
        /// A divergence that is the same both ways.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Symmetric {
            $($(#[$doc])* $generator,)+
        }

        impl Symmetric {
            /// All there are.
            pub const ALL: &[Self] = &[$(Symmetric::$generator),+];

            fn most(self) -> f64 {
                match self {
                    $(Symmetric::$generator => measure::$file::$generator::MOST,)+
                }
            }

            /// Its gradient, if it has one.
            pub fn slope(self) -> Option<SlopeOf> {
                match self {
                    $(Symmetric::$generator => measure::$file::$generator::SLOPE,)+
                }
            }

            /// Evaluates it on masses or, given a scale, on logarithms.
            fn evaluate<E: Math>(
                self,
                job: &Job,
                scale: Option<Scale<E>>,
                map: [Map; 2],
                rescue: &Rescue<'_>,
            ) -> Result<(Total, Invalid)> {
                match self {
                    $(Symmetric::$generator => pair(job, measure::$file::$generator, scale, map, rescue),)+
                }
            }
        }
    };
}

symmetric! {
    /// JS(p, q).
    js::Js,
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
    evaluate::<f32>(quantity, &job, [Map::Keep; 2], true)
}

/// A quantity in double precision.
fn double(quantity: Quantity, job: &Job) -> Result<(Total, Invalid)> {
    evaluate::<f64>(quantity, job, maps(quantity, job), true)
}

/// The result of one row in double precision, in nats, each row's largest brought near 1, or to 0 if it is a logarithm;
/// NaN if it has none. For rows at the ends of their element's range, and for logarithms far from one another.
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
    (single.rows, single.out, single.known, single.total, single.root) = (None, None, None, true, false);
    (single.unit, single.threads, single.check_sums, single.invalid_is_nan) = (1.0, 1, false, true);
    single.lead.clear();
    let mut maps = maps(quantity, &single);
    if quantity != Quantity::Nll {
        // Classes that the scale of one row cannot hold and that of the other can: those of neither count as 0 in both.
        let mut lost = vec![false; single.classes];
        for (k, map) in maps.iter_mut().enumerate().take(single.operands.len()) {
            let x = &single.operands[k];
            let mut largest = if x.given.is_log() { f64::MIN } else { 0.0 };
            single.elements(k, 0, |_, value| largest = largest.max(value));
            if x.given.is_log() {
                *map = Map::Centre(largest, x.temperature);
            } else if *map == Map::Keep {
                let by = power_of_two(largest.max(f64::from_bits(1)));
                single.elements(k, 0, |class, value| lost[class] ^= value > 0.0 && value / by < f64::MIN_POSITIVE);
                *map = Map::Shrink(by);
            }
        }
        // Such masses meet as logarithms.
        if lost.contains(&true) && single.operands.len() == 2 {
            for map in &mut maps {
                *map = if let Map::Shrink(by) = *map { Map::Ln(by) } else { *map };
            }
        }
    }
    evaluate::<f64>(quantity, &single, maps, false).map_or(f64::NAN, |(t, _)| t.sum())
}

/// The power of two at or below a positive number, subnormal ones included.
fn power_of_two(x: f64) -> f64 {
    let bits = x.to_bits();
    f64::from_bits(if x < f64::MIN_POSITIVE { 1 << bits.ilog2() } else { bits >> 52 << 52 })
}

/// Whether the rows of a pair are in spaces that only meet as logarithms in double precision.
fn staged(quantity: Quantity, job: &Job) -> bool {
    let [p, q] = job.operands.as_slice() else { return false };
    match (p.given.is_log(), q.given.is_log()) {
        (false, false) => false,
        (false, true) | (true, false) => quantity != Quantity::CrossEntropy,
        (true, true) => quantity != Quantity::CrossEntropy && p.temperature != q.temperature,
    }
}

fn maps(quantity: Quantity, job: &Job) -> [Map; 2] {
    let mut maps = [Map::Keep; 2];
    for (map, x) in maps.iter_mut().zip(&job.operands) {
        if staged(quantity, job) {
            *map = x.as_logs();
        } else if x.given.is_log() && x.is_far() && quantity != Quantity::Nll {
            // Logits and temperature alike, so that masses times logits stay in range.
            *map = Map::Shrink(power_of_two(x.temperature));
        }
    }
    maps
}

/// The registry; `again` if rows that leave what the elements hold are passed [once more](one).
fn evaluate<E: Math>(quantity: Quantity, job: &Job, map: [Map; 2], again: bool) -> Result<(Total, Invalid)> {
    let log = |k: usize| matches!(map[k], Map::Ln(_)) || job.operands[k].given.is_log();
    let last = job.operands.len() - 1;
    let t = |k: usize| {
        let t = job.operands[k].temperature;
        match map[k] {
            Map::Keep => scale::<E>(t),
            Map::Shrink(by) => scale::<E>(t).and_then(|_| scale(t / by)),
            _ => scale(1.0),
        }
    };
    let difference = matches!(quantity, Quantity::Kl | Quantity::Symmetric(_)) && log(0) && log(1);
    let reach = Reach::new::<E>(difference, map);
    let rescue =
        Rescue { one: &|row| if again { one(quantity, job, row) } else { f64::NAN }, reach: reach.filter(|_| again) };
    let (single, rescue) = ([map[0]], &rescue);
    match (quantity, log(0), log(last)) {
        (Quantity::Entropy, false, _) => score::<E, _, _, _, _, _>(job, EntropyLin, single, rescue),
        (Quantity::Entropy, true, _) => score::<E, _, _, _, _, _>(job, EntropyLog::<E>(t(0)?), single, rescue),
        (Quantity::Nll, false, _) => score::<E, _, _, _, _, _>(job, TotalMass, single, rescue),
        (Quantity::Nll, true, _) => score::<E, _, _, _, _, _>(job, LogSumExp::<E>(t(0)?), single, rescue),
        (Quantity::CrossEntropy, false, false) => score::<E, _, _, _, _, _>(job, CrossEntropyLin, map, rescue),
        (Quantity::CrossEntropy, false, true) => {
            score::<E, _, _, _, _, _>(job, CrossEntropyMixed::<E>(t(1)?), map, rescue)
        }
        (Quantity::CrossEntropy, true, false) => {
            score::<E, _, _, _, _, _>(job, CrossEntropyLogLin::<E>(t(0)?), map, rescue)
        }
        (Quantity::CrossEntropy, true, true) => {
            score::<E, _, _, _, _, _>(job, CrossEntropyLog::<E>(t(0)?, t(1)?), map, rescue)
        }
        (Quantity::Kl, false, _) => score::<E, _, _, _, _, _>(job, KlLin, map, rescue),
        (Quantity::Kl, true, _) => score::<E, _, _, _, _, _>(job, KlLog::<E>(t(0)?), map, rescue),
        (Quantity::Symmetric(divergence), log, _) => {
            divergence.evaluate::<E>(job, log.then(|| t(0)).transpose()?, map, rescue)
        }
    }
}

fn pair<E: Math, G: Generator>(
    job: &Job,
    g: G,
    scale: Option<Scale<E>>,
    map: [Map; 2],
    rescue: &Rescue<'_>,
) -> Result<(Total, Invalid)> {
    match scale {
        None => score::<E, _, _, _, _, _>(job, PairLin(g), map, rescue),
        Some(scale) => score::<E, _, _, _, _, _>(job, PairLog(scale, g), map, rescue),
    }
}
