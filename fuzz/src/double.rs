//! Numbers of 106 bits, as sums of two doubles, for a reference that need not be told its own errors.

use std::ops::{Add, Div, Mul, Neg, Sub};
use std::sync::LazyLock;

/// The unevaluated sum of a double and what it lacks.
#[derive(Clone, Copy, Debug)]
pub struct Double(pub f64, pub f64);

const LN_2: Double = Double(std::f64::consts::LN_2, 2.319_046_813_846_299_6e-17);

static INVERSE_FACTORIALS: LazyLock<[Double; 21]> =
    LazyLock::new(|| std::array::from_fn(|n| Double(1.0, 0.0) / Double((1..=n).map(|k| k as f64).product(), 0.0)));

/// a + b exactly, where it is finite.
fn sum(a: f64, b: f64) -> Double {
    let high = a + b;
    let t = high - a;
    let low = (a - (high - t)) + (b - t);
    Double(high, if high.is_finite() { low } else { 0.0 })
}

impl From<f64> for Double {
    fn from(x: f64) -> Self {
        Double(x, 0.0)
    }
}

impl Add for Double {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let (high, low) = (sum(self.0, other.0), sum(self.1, other.1));
        let x = sum(high.0, high.1 + low.0);
        sum(x.0, x.1 + low.1)
    }
}

impl Neg for Double {
    type Output = Self;
    fn neg(self) -> Self {
        Double(-self.0, -self.1)
    }
}

impl Sub for Double {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Mul for Double {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        let high = self.0 * other.0;
        if !high.is_finite() {
            return high.into();
        }
        sum(high, self.0.mul_add(other.0, -high) + (self.0 * other.1 + self.1 * other.0))
    }
}

impl Div for Double {
    type Output = Self;
    fn div(self, other: Self) -> Self {
        let first = self.0 / other.0;
        if !first.is_finite() || other.0.is_infinite() {
            return first.into();
        }
        let rest = self - other * first.into();
        let second = rest.0 / other.0;
        let rest = rest - other * second.into();
        sum(first, second) + (rest.0 / other.0).into()
    }
}

impl Double {
    /// Rounded to the nearest double.
    pub fn value(self) -> f64 {
        self.0 + self.1
    }

    /// Without its sign.
    pub fn abs(self) -> Self {
        if self.0 < 0.0 { -self } else { self }
    }

    /// Σ xⁿ/n! from n = 2 on.
    fn tail(self, last: usize) -> Self {
        let y = INVERSE_FACTORIALS[2..=last].iter().rev().fold(Double(0.0, 0.0), |y, c| y * self + *c);
        y * self * self
    }

    /// eˣ − 1 − x, without cancellation.
    pub fn exp_m1_minus(self) -> Self {
        if self.0.abs() > 0.25 {
            return self.exp() - Double(1.0, 0.0) - self;
        }
        self.tail(20)
    }

    /// eˣ, 0 below the range of doubles.
    pub fn exp(self) -> Self {
        if !(self.0 > -745.0 && self.0 < 710.0) {
            return self.0.exp().into();
        }
        let k = (self.0 / LN_2.0).round();
        let r = self - LN_2 * k.into();
        // (1 + y)² − 1 = 2y + y², four times from a sixteenth.
        let r = r * Double(0.0625, 0.0);
        let mut y = r + r.tail(14);
        for _ in 0..4 {
            y = y * y + y + y;
        }
        let y = Double(1.0, 0.0) + y;
        // In two steps: the power of two itself may be out of range.
        let half = 2f64.powi((k / 2.0) as i32);
        let rest = 2f64.powi(k as i32 - (k / 2.0) as i32);
        Double(y.0 * half * rest, y.1 * half * rest)
    }

    /// ln x, by a step of Newton's method from that of the standard library.
    pub fn ln(self) -> Self {
        let y = Double::from(self.0.ln());
        if !y.0.is_finite() {
            return y;
        }
        // Scaled to near 1, where neither the exponential nor its lower half leaves the range.
        let k = (y.0 / LN_2.0).round();
        let half = 2f64.powi((-k / 2.0) as i32);
        let rest = 2f64.powi(-k as i32 - (-k / 2.0) as i32);
        let x = Double(self.0 * half * rest, self.1 * half * rest);
        let y = Double::from(x.0.ln());
        y + (x * (-y).exp() - Double(1.0, 0.0)) + LN_2 * k.into()
    }

    /// ln(1 + x) for x ≥ 0.
    pub fn ln_1p(self) -> Self {
        if self.0 > 0.01 {
            return (Double(1.0, 0.0) + self).ln();
        }
        let c = |n: i32| Double(if n % 2 == 0 { -1.0 } else { 1.0 }, 0.0) / Double(n.into(), 0.0);
        (1..=16).rev().fold(Double(0.0, 0.0), |y, n| y * self + c(n)) * self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values to 32 digits, of mpmath, and each function as the inverse of another.
    #[test]
    fn functions_have_twice_the_digits() {
        let near = |got: Double, high: f64, low: f64| {
            let error = (got - Double(high, low)).abs().value() / high.abs();
            assert!(error < 1e-29, "{got:?} is off by {error:e}");
        };
        near(Double(1.0, 0.0).exp(), 2.718281828459045, 1.4456468917292502e-16);
        near(Double(-40.5, 0.0).exp(), 2.576757109154981e-18, -9.514389375594685e-35);
        near(Double(3.0, 0.0).ln(), 1.0986122886681098, -9.07129723500153e-17);
        near(Double(1e-5, 0.0).ln_1p(), 9.999950000333332e-06, -2.3868637284493416e-22);
        near(Double(1e-3, 0.0).exp_m1_minus(), 5.00166708341668e-07, 4.505693237454072e-23);
        for x in [-600.0, -3.5, -1e-3, 0.2, 1.0, 88.0, 700.0] {
            let back = (Double(x, 0.0).exp().ln() - x.into()).value();
            assert!(back.abs() < 1e-29 * x.abs().max(1.0), "ln exp {x} is off by {back:e}");
        }
    }
}
