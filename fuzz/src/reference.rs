//! What a call must give, one number at a time in `f64`, with no thought for speed.

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
    mass: f64,
    ln: f64,
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
    // Relative to the largest, which stays out of the sum: the logarithm of that keeps its digits.
    let ln = |v: f64| match (log, v / most) {
        (true, _) => (v - most) / x.temperature,
        // Two logarithms cancel; a ratio is exact, unless it underflows.
        (false, ratio) if ratio >= f64::MIN_POSITIVE => ratio.ln(),
        _ => v.ln() - most.ln(),
    };
    let mut classes: Vec<Class> = elements
        .iter()
        .map(|v| v.unwrap_or(none))
        .map(|v| Class { present: v > none, mass: if log { ln(v).exp() } else { v / most }, ln: ln(v) })
        .collect();
    let top = classes.iter().filter(|c| c.ln == 0.0).count() as f64;
    let others: f64 = classes.iter().filter(|c| c.ln < 0.0).map(|c| c.mass).sum();
    let over = top.ln() + (others / top).ln_1p();
    let sum = top + others;
    for c in &mut classes {
        (c.mass, c.ln) = (c.mass / sum, c.ln - over);
    }
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
    value: f64,
    allowed: f64,
}

/// Masses below this share of the largest count as 0, and what they would add is not held against a result.
fn least(single: bool) -> f64 {
    if single { 2f64.powi(-125) } else { 2f64.powi(-1021) }
}

fn value(quantity: Quantity, job: &Job, row: usize, [p, q]: [&[Class]; 2], label: usize, single: bool) -> Value {
    let eps = if single { f64::from(f32::EPSILON) } else { f64::EPSILON };
    let least = least(single);
    let product = |mass: f64, by: f64| if mass == 0.0 { 0.0 } else { mass * by };
    // What classes next to nothing might add, and the reference's own rounding.
    let faint: f64 = p
        .iter()
        .zip(q)
        .filter(|(p, _)| p.mass < least)
        .map(|(p, q)| product(p.mass.max(1e-300), p.ln.abs().min(1e300) + q.ln.abs().min(1e300) + 2.0))
        .sum();
    let faint = faint + job.classes as f64 * 800.0 * least;
    let ulps = |value: f64| Value { value, allowed: (4.5 * eps + 1e-12) * value.abs() + faint };
    match quantity {
        Quantity::Entropy => ulps(p.iter().map(|c| -product(c.mass, c.ln)).sum()),
        Quantity::CrossEntropy => {
            if p.iter().zip(q).any(|(p, q)| p.present && !q.present) {
                return ulps(f64::INFINITY);
            }
            ulps(p.iter().zip(q).map(|(p, q)| -product(p.mass, q.ln)).sum())
        }
        Quantity::Nll => ulps(if q[label].present { -q[label].ln } else { f64::INFINITY }),
        Quantity::Kl | Quantity::Symmetric(Symmetric::Js) => {
            let relative = if !single {
                2e-13
            } else if job.operands.iter().all(|x| x.given.is_log()) {
                5e-7
            } else {
                2e-6
            };
            let [a, b] = [0, 1].map(|k| &job.operands[k]);
            let staged = a.given.is_log() != b.given.is_log() || a.temperature != b.temperature;
            // Counts meet logarithms as their own, before they are normalised: up to ln 1e308.
            let counts = staged && job.operands.iter().any(|x| x.given == Given::Counts);
            let (mut sum, mut scale) = (0.0, if counts { 710.0 } else { 0.0f64 });
            if staged {
                scale = scale.max(from_origin(job, row));
            }
            for (p, q) in p.iter().zip(q) {
                for c in [p, q].into_iter().filter(|c| c.present) {
                    if c.mass > 1e-300 || (staged && p.mass.max(q.mass) > 1e-300) {
                        scale = scale.max(c.ln.abs());
                    } else if staged {
                        // The first class of a row is what others are less, up to 2^20 from them.
                        scale = scale.max(c.ln.abs().min(2f64.powi(21)));
                    }
                }
                let term = if quantity == Quantity::Kl { kl(*p, *q) } else { js(*p, *q) };
                sum += term;
            }
            // d = ln q − ln p is off by some eps of the larger logarithm, here and where spaces are mixed.
            let d = 16.0 * f64::EPSILON * (1.0 + scale);
            let both = faint + q.iter().filter(|c| c.mass < least).map(|c| c.mass.max(1e-300) * 2.0).sum::<f64>();
            Value { value: sum, allowed: relative * sum + d * (2.0 * sum).sqrt() + d * d + 1e-15 + both }
        }
        // A divergence without a reference of its own stays between 0 and its largest value.
        _ => Value { value: quantity.most() / 2.0, allowed: quantity.most() / 2.0 },
    }
}

/// eᵈ − 1 − d without cancellation to speak of.
fn phi(d: f64) -> f64 {
    if d.abs() > 0.05 {
        return d.exp_m1() - d;
    }
    (3..12).rev().fold(1.0, |y, n| 1.0 + y * d / f64::from(n)) * d * d / 2.0
}

fn kl(p: Class, q: Class) -> f64 {
    if !p.present {
        return q.mass;
    }
    if !q.present {
        return f64::INFINITY;
    }
    let d = q.ln - p.ln;
    if p.mass == 0.0 {
        return q.mass;
    }
    if d.abs() < 1.0 { p.mass * phi(d) } else { (q.mass - p.mass) - p.mass * d }
}

fn js(p: Class, q: Class) -> f64 {
    if !p.present || !q.present {
        return (p.mass + q.mass) / 2.0 * std::f64::consts::LN_2;
    }
    let (a, larger) = ((q.ln - p.ln).abs(), p.mass.max(q.mass));
    if !(a < f64::INFINITY) {
        return larger / 2.0 * std::f64::consts::LN_2;
    }
    let t = (-a).exp();
    if a >= 2.0 {
        return larger / 2.0 * ((1.0 + t) * (std::f64::consts::LN_2 - t.ln_1p()) - t * a);
    }
    // The same as ½(1 + t)(y tanh y − ln cosh y) with y = a/2: nothing cancels for close masses.
    let y = a / 2.0;
    let ln_cosh = (2.0 * (y / 2.0).sinh().powi(2)).ln_1p();
    let w = y * y;
    let series = w / 2.0 * (1.0 - w * (1.0 / 2.0 - w * (2.0 / 9.0 - w * 17.0 / 180.0)));
    let inner = if y < 0.01 { series } else { y * y.tanh() - ln_cosh };
    larger * (1.0 + t) / 2.0 * inner
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

/// Holds what a call gave (`None`: an error) against what it must give.
pub fn check(quantity: Quantity, job: &Job, got: Option<&[f64]>) {
    let lead = Lead { shape: &job.lead };
    let single = Dtype::single(job.operands.iter().map(|x| x.dtype));
    let (mut must_fail, mut may_fail) = (false, false);
    let mut wanted = Vec::new();
    for row in 0..job.len() {
        if !job.counts(&lead, row) {
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
            let lost = rows.iter().any(|row| row.iter().any(|c| c.present && c.ln == f64::NEG_INFINITY));
            if lost || v.value.is_nan() || (v.value > 1e37 && v.value.is_finite()) {
                wanted.push((0.0, f64::INFINITY));
                continue;
            }
            let allowed = if v.value.is_finite() { v.allowed } else { 0.0 };
            let (low, mut high) = (v.value - allowed, v.value + allowed);
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
        assert!(must_fail || may_fail, "an error where none was due: {quantity:?} {job:?}");
        return;
    };
    assert!(!must_fail, "no error where one was due: {quantity:?} {job:?}");
    for (row, (value, (low, high))) in got.iter().zip(wanted).enumerate() {
        let right = match (low.is_nan(), high == f64::INFINITY && low == 0.0) {
            (true, _) => value.is_nan(),
            (_, true) => true,
            _ => {
                // The reference itself rounds.
                let slack = 4.0 * f64::EPSILON * low.abs().max(high.abs()).min(1e300);
                let stored = if single { f64::from(f32::EPSILON) * 0.51 * high.abs().min(1e37) } else { 0.0 };
                let inside = *value >= low - slack - stored && *value <= high + slack + stored;
                inside && (job.unit < 0.0 || *value >= 0.0)
            }
        };
        if !right {
            let rows: Vec<_> = job.operands.iter().map(|x| elements(job, x, row)).collect();
            panic!("row {row}: got {value:e}, wanted {low:e} to {high:e}: {quantity:?} {job:?} {rows:?}");
        }
    }
}
