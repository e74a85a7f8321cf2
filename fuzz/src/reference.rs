//! What a call must give, one number at a time in twice the digits of `f64`, with no thought for speed. How far a result may
//! be from that is what docs/numerics.md says, and no more.

use crate::double::Double;
use kullback::registry::{Quantity, Symmetric};
use kullback::rows::{Dtype, Lead};
use kullback::score::{Given, Job, Operand};

/// What a row of one operand is.
enum Kind {
    /// A distribution; `true` if it is so near to the end of what its space accepts that the rounding of a sum decides.
    Row(Vec<Class>, bool),
    /// Holds a NaN.
    Nan,
    /// Without mass.
    Empty,
    /// Not of its space.
    Wrong,
}

/// One class. Support is read off the input: a mass may be 0 beside a finite logarithm.
#[derive(Clone, Copy)]
struct Class {
    present: bool,
    mass: Double,
    ln: Double,
}

/// The elements of a row; `None` where a class is masked.
fn elements(job: &Job, x: &Operand, row: usize) -> Vec<Option<f64>> {
    let lead = Lead { shape: &job.lead };
    let element = |column: usize| {
        let masked = job.mask.as_ref().is_some_and(|m| {
            let at = lead.offset(&m.lead, row) + column as isize * m.class_stride;
            // SAFETY: the mask has a byte for every class of every row.
            unsafe { m.data.wrapping_offset(at).read() == 0 }
        });
        let at = x.data.wrapping_offset(lead.offset(&x.lead, row) + column as isize * x.class_stride);
        // SAFETY: the operand has this class of this row.
        (!masked).then(|| unsafe { x.dtype.number(at, x.swapped) })
    };
    (0..job.classes).map(element).collect()
}

fn kind(job: &Job, x: &Operand, row: usize) -> Kind {
    let elements = elements(job, x, row);
    let seen = || elements.iter().filter_map(|x| *x);
    let log = x.given.is_log();
    if seen().any(f64::is_nan) {
        return Kind::Nan;
    }
    if seen().any(|v| if log { v == f64::INFINITY } else { !(0.0..f64::INFINITY).contains(&v) }) {
        return Kind::Wrong;
    }
    let none = if log { f64::NEG_INFINITY } else { 0.0 };
    let most = seen().fold(none, f64::max);
    if most == none {
        return Kind::Empty;
    }
    // Relative to the largest, which stays out of the sum: the logarithm of that keeps its digits. Of tiny masses what division
    // leaves over would underflow; a power of two is exact.
    let up = if !log && most < 1e-200 { 2f64.powi(600) } else { 1.0 };
    let class = |v: f64| {
        let (value, most) = (Double::from(v * up), Double::from(most * up));
        if log {
            let ln = (value - most) / x.temperature.into();
            return Class { present: v > none, mass: ln.exp(), ln };
        }
        // Two logarithms cancel; a ratio is exact, unless it underflows.
        let (mass, ln) = (value / most, value.ln() - most.ln());
        Class { present: v > none, mass, ln: if mass.0 > 1e-280 { mass.ln() } else { ln } }
    };
    let mut classes: Vec<Class> = elements.iter().map(|v| class(v.unwrap_or(none))).collect();
    let top = Double::from(elements.iter().filter(|v| **v == Some(most)).count() as f64);
    let others = classes.iter().zip(&elements).filter(|(_, v)| **v != Some(most)).map(|(c, _)| c.mass);
    let others = others.fold(0.0.into(), |sum: Double, mass| sum + mass);
    let over = top.ln() + (others / top).ln_1p();
    let sum = top + others;
    for c in &mut classes {
        (c.mass, c.ln) = (c.mass / sum, c.ln - over);
    }
    let (sum, over) = (sum.value(), over.value());
    let normalised = matches!(x.given.name(), "probs" | "log_probs");
    let (mut near, tolerance) = (false, Job::tolerance(x.dtype));
    if job.check_sums && normalised {
        let off = if log { (most / x.temperature + over).abs() } else { (sum * most - 1.0).abs() };
        near = (off - tolerance).abs() < 1e-6 * tolerance;
        if off > tolerance && !near {
            return Kind::Wrong;
        }
    }
    Kind::Row(classes, near)
}

/// The value of a row, and how far a result may be from it.
struct Value {
    value: Double,
    allowed: f64,
}

/// What is left of a divergence of one distribution stored as two rows, and where one is taken for that.
const LEFT: f64 = 1e-15;
const SAME: f64 = 1e-28;

/// The unit in the last place of a result.
fn ulp(value: f64, single: bool) -> f64 {
    let (least, digits) = if single { (-126, 23) } else { (-1022, 52) };
    let exponent = (value.abs().to_bits() >> 52) as i32 - 1023;
    2f64.powi(exponent.max(least) - digits)
}

/// Masses below this share of the largest count as 0, and what they would add is not held against a result.
fn least(single: bool) -> f64 {
    if single { 2f64.powi(-125) } else { 2f64.powi(-1021) }
}

fn value(quantity: Quantity, job: &Job, row: usize, [p, q]: [&[Class]; 2], label: usize, single: bool) -> Value {
    let least = least(single);
    let product = |mass: Double, by: Double| if mass.0 == 0.0 { 0.0.into() } else { mass * by };
    let total = |terms: &mut dyn Iterator<Item = Double>| terms.fold(0.0.into(), |sum: Double, x| sum + x);
    // What classes next to nothing might add.
    let size = |c: &Class| c.ln.0.abs().min(f64::MAX);
    let add = |m: f64, p: &Class, q: &Class| m * size(p) + m * size(q) + m * 2.0;
    let faint = p.iter().zip(q).filter(|(p, _)| p.mass.0 < least).map(|(p, q)| add(p.mass.0, p, q)).sum::<f64>();
    let faint = faint + job.classes as f64 * 800.0 * least;
    let logs = job.operands.iter().filter(|x| x.given.is_log()).count();
    let ulps = |value: Double| {
        let units = if single { 2.0 } else { 4.0 } * if logs > 0 { 2.0 } else { 1.0 };
        Value { value, allowed: units * ulp(value.0, single) + faint }
    };
    match quantity {
        Quantity::Entropy => ulps(total(&mut p.iter().map(|c| -product(c.mass, c.ln)))),
        Quantity::CrossEntropy => {
            if p.iter().zip(q).any(|(p, q)| p.present && !q.present) {
                return ulps(f64::INFINITY.into());
            }
            ulps(total(&mut p.iter().zip(q).map(|(p, q)| -product(p.mass, q.ln))))
        }
        Quantity::Nll => ulps(if q[label].present { -q[label].ln } else { f64::INFINITY.into() }),
        Quantity::Kl | Quantity::Symmetric(Symmetric::Js) => {
            let all_logs = logs == job.operands.len();
            let (relative, floor) = match (single, all_logs) {
                (false, _) => (1e-13, 1e-12),
                (true, true) => (5e-7, 1e-29),
                (true, false) => (2e-6, 1e-17),
            };
            let [a, b] = [0, 1].map(|k| &job.operands[k]);
            let staged = a.given.is_log() != b.given.is_log() || a.temperature != b.temperature;
            // Masses of any sum meet logarithms as their own, before they are normalised: up to ln 1e308.
            let any_sum = |x: &Operand| x.given == Given::Counts || (!job.check_sums && !x.given.is_log());
            let counts = staged && job.operands.iter().any(any_sum);
            let mut scale = if counts { 710.0 } else { 0.0f64 };
            if staged {
                scale = scale.max(from_origin(job, row));
                for (p, q) in p.iter().zip(q) {
                    for c in [p, q].into_iter().filter(|c| c.present) {
                        // The first class of a row is what others are less, up to 2^20 from them.
                        let counts = p.mass.0.max(q.mass.0) > 1e-300;
                        scale = scale.max(if counts { size(c) } else { size(c).min(2f64.powi(21)) });
                    }
                }
            }
            let term = |(p, q): (&Class, &Class)| if quantity == Quantity::Kl { kl(*p, *q) } else { js(*p, *q) };
            let value = total(&mut p.iter().zip(q).map(term));
            // d = ln q − ln p is off by so much where spaces or temperatures are mixed, and KL by Σ p·δ·(ln(p/q) − KL).
            let d = 4.0 * f64::EPSILON * scale;
            let shared = p.iter().zip(q).filter(|(p, q)| quantity == Quantity::Kl && p.present && q.present);
            let spread = shared.map(|(p, q)| p.mass.0.sqrt() * (p.ln.0 - q.ln.0 - value.0)).fold(0.0, f64::hypot);
            // Beyond the range only where nothing is mixed.
            let mixed = if d == 0.0 { 0.0 } else { d * (2.0 * value.0.abs()).sqrt().max(spread) };
            let both = faint + q.iter().filter(|c| c.mass.0 < least).map(|c| c.mass.0 * 2.0).sum::<f64>();
            let size = value.0.abs();
            let same = if size < SAME { LEFT } else { 0.0 };
            Value { value, allowed: (relative * size.max(floor)).max(same) + mixed + d * d + both }
        }
        // A divergence without a reference of its own stays between 0 and its largest value.
        _ => Value { value: (quantity.most() / 2.0).into(), allowed: quantity.most() / 2.0 },
    }
}

fn kl(p: Class, q: Class) -> Double {
    if !p.present || (p.mass.0 == 0.0 && q.present) {
        return q.mass;
    }
    if !q.present {
        return f64::INFINITY.into();
    }
    let d = q.ln - p.ln;
    if d.0.abs() < 1.0 { p.mass * d.exp_m1_minus() } else { (q.mass - p.mass) - p.mass * d }
}

fn js(p: Class, q: Class) -> Double {
    let (half, one, ln_2) = (Double::from(0.5), Double::from(1.0), Double::from(2.0).ln());
    if !p.present || !q.present {
        return (p.mass + q.mass) * half * ln_2;
    }
    let (a, larger) = ((q.ln - p.ln).abs(), if q.ln.0 > p.ln.0 { q.mass } else { p.mass });
    if !(a.0 < 1e300) {
        return larger * half * ln_2;
    }
    let t = (-a).exp();
    // G(a) = ½[(1 + t)(ln 2 − ln(1 + t)) − ta], which is a²/8·(1 − a/2 …).
    if a.0 < 1e-8 {
        return larger * a * a * Double::from(0.125) * (one - a * half);
    }
    larger * half * ((one + t) * (ln_2 - t.ln_1p()) - t * a)
}

/// Whether the mean of a row's logarithms may overflow, to +∞, and whether one in units of its temperature does, to
/// anything.
fn overflow(quantity: Quantity, job: &Job, row: usize, single: bool) -> (bool, bool) {
    let means = matches!(quantity, Quantity::CrossEntropy | Quantity::Kl);
    let (mut over, mut beyond) = (false, false);
    for x in job.operands.iter().filter(|x| x.given.is_log()) {
        let most =
            elements(job, x, row).into_iter().flatten().map(f64::abs).filter(|v| v.is_finite()).fold(0.0, f64::max);
        over |= means && (most > if single { 5e37 } else { 1e304 } || most / x.temperature > 1e304);
        beyond |= quantity == Quantity::Nll && most / x.temperature > 1e304;
    }
    (over, beyond)
}

/// How far logits that are divided by a temperature to meet others may be from what they are less: their first class,
/// or nothing where that has no mass.
fn from_origin(job: &Job, row: usize) -> f64 {
    let far = |x: &Operand| {
        let elements = elements(job, x, row);
        let largest = elements.iter().flatten().map(|v| (v / x.temperature).abs()).filter(|v| v.is_finite());
        match elements.first() {
            Some(Some(v)) if v.is_finite() => 0.0,
            Some(Some(_)) => largest.fold(0.0, f64::max),
            // A masked class is one all the same.
            _ => f64::INFINITY,
        }
    };
    let divided = job.operands.iter().filter(|x| x.given.is_log() && x.temperature != 1.0);
    // Rows further from it are passed once more, less their largest.
    divided.map(far).fold(0.0, f64::max).min(2f64.powi(21))
}

/// Holds what a call gave (`None`: an error) against what it must give: which rows there is a bound for, or what is wrong.
pub fn check(quantity: Quantity, job: &Job, got: Option<&[f64]>) -> Result<Vec<bool>, String> {
    let lead = Lead { shape: &job.lead };
    let single = Dtype::single(job.operands.iter().map(|x| x.dtype));
    let (mut must_fail, mut may_fail) = (false, false);
    let mut wanted = Vec::new();
    for row in 0..job.len() {
        if !job.counted(&[row])[0] {
            wanted.push((f64::NAN, f64::NAN));
            continue;
        }
        let kinds: Vec<Kind> = job.operands.iter().map(|x| kind(job, x, row)).collect();
        let label = job.labels.as_ref().map(|l| l.get(&lead, row));
        let label = match label.map(usize::try_from) {
            None => 0,
            Some(Ok(label)) if label < job.classes => label,
            _ => {
                must_fail = true;
                0
            }
        };
        // A NaN, or a row without mass, outweighs what else is wrong.
        if kinds.iter().any(|k| matches!(k, Kind::Nan | Kind::Empty)) {
            wanted.push((f64::NAN, f64::NAN));
        } else if kinds.iter().any(|k| matches!(k, Kind::Wrong)) {
            must_fail |= !job.invalid_is_nan;
            wanted.push((f64::NAN, f64::NAN));
        } else {
            let rows: Vec<&[Class]> =
                kinds.iter().map(|k| if let Kind::Row(row, _) = k { row.as_slice() } else { &[] }).collect();
            let near = kinds.iter().any(|k| matches!(k, Kind::Row(_, true)));
            may_fail |= near;
            if near {
                wanted.push((0.0, f64::INFINITY));
                continue;
            }
            let v = value(quantity, job, row, [rows[0], rows[rows.len() - 1]], label, single);
            // Logarithms that overflow before they meet.
            let lost = rows.iter().any(|row| row.iter().any(|c| c.present && c.ln.0 == f64::NEG_INFINITY));
            let (exact, more) = (v.value.0, v.value.1);
            if lost || exact.is_nan() || (exact > 1e37 && exact.is_finite()) {
                wanted.push((0.0, f64::INFINITY));
                continue;
            }
            let allowed = if exact.is_finite() { v.allowed } else { 0.0 };
            let (low, mut high) = (exact - (allowed - more), exact + (allowed + more));
            let (over, overflowing) = overflow(quantity, job, row, single);
            if over {
                high = f64::INFINITY;
            }
            if overflowing {
                wanted.push((0.0, f64::INFINITY));
                continue;
            }
            let (low, high) = if job.root { (low.max(0.0).sqrt(), high.sqrt()) } else { (low, high) };
            let unit = if job.root { job.unit.sqrt() } else { job.unit };
            let ends = (low / unit, high / unit);
            wanted.push(if unit < 0.0 { (ends.1, ends.0) } else { ends });
        }
    }
    let Some(got) = got else {
        return if must_fail || may_fail { Ok(Vec::new()) } else { Err("an error where none was due".into()) };
    };
    if must_fail {
        return Err("no error where one was due".into());
    }
    // A result in other units, or a root, is rounded once more.
    let plain = job.unit == 1.0 && !job.root;
    let mut bounded = Vec::new();
    for (row, (value, (low, high))) in got.iter().zip(wanted).enumerate() {
        bounded.push(!low.is_nan() && high < f64::INFINITY);
        let right = match (low.is_nan(), high == f64::INFINITY && low == 0.0) {
            (true, _) => value.is_nan(),
            (_, true) => true,
            _ => {
                let eps = if single { f64::from(f32::EPSILON) * 0.51 } else { 2.0 * f64::EPSILON };
                let slack =
                    if plain { 0.0 } else { eps * low.abs().max(high.abs()).min(if single { 1e37 } else { 1e300 }) };
                let inside = *value >= low - slack && *value <= high + slack;
                inside && (job.unit < 0.0 || *value >= 0.0)
            }
        };
        if !right {
            let rows: Vec<_> = job.operands.iter().map(|x| elements(job, x, row)).collect();
            return Err(format!("row {row}: got {value:e}, wanted {low:e} to {high:e}: {rows:?}"));
        }
    }
    Ok(bounded)
}
