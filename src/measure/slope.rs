//! The derivatives of the quantities by one class of one of their rows.

use crate::math::Math;
use crate::rows::Emit;
use crate::simd::*;

/// What is differentiated, and by which of its rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlopeOf {
    /// H(p) by p.
    Entropy,
    /// H(p, q) by p.
    CrossEntropy,
    /// KL(p‖q) by p.
    Kl,
    /// JS(p, q) by either.
    Js,
    /// H(p, q) or KL(p‖q) by q.
    Other,
    /// Minus the logarithm of the label's class of q, without the term of the label itself.
    Nll,
}

impl SlopeOf {
    /// Whether the mean Σ p·φ has to be taken off: of the others it is known.
    pub fn is_centred(self) -> bool {
        !matches!(self, SlopeOf::Other | SlopeOf::Nll)
    }
}

/// (φ − c)·k, times p where the row is of logarithms; or p·φ, whose sum is c. Of two rows a, by which it is
/// differentiated, and b. φ is −ln a, −ln b, ln(a/b) or ½ ln(a/m); by the other row it is −b/a, whose mean is −1.
///
/// The frame: of a the logarithm of its norm as head and tail in the units of its elements, and what a mass or a logarithm
/// is multiplied by; the same of b; c; k.
///
/// A class without mass in a row of logarithms has a derivative of 0, one without mass in both rows of masses that of the
/// norm alone.
#[derive(Clone, Copy)]
pub struct Slope {
    /// What is differentiated.
    pub of: SlopeOf,
    /// Which rows are of logarithms.
    pub log: [bool; 2],
    /// Whether p·φ is wanted.
    pub term: bool,
}

/// e^x for x ≤ 0 or little above, 0 where it is subnormal.
#[inline(always)]
fn exp_below<S: Simd, E: Math>(s: S, x: V<S, E>) -> V<S, E> {
    let splat = |x: f64| V::<S, E>::splat(s, E::from_f64(x));
    let bias = E::EXP_BIAS.to_f64();
    let least = splat(-bias * std::f64::consts::LN_2);
    let x = x.simd_lt(least).select(least, x);
    let shift = splat(E::MAGIC.to_f64() + bias);
    let t = fma(x, splat(E::LOG2_E.to_f64()), shift);
    let k = t - shift;
    let r = fma(k, splat(-E::LN2_LO.to_f64()), fma(k, splat(-E::LN2_HI.to_f64()), x));
    E::exp_reduced(s, r) * E::pow2_of_magic(s, t)
}

/// A normalised class.
#[inline(always)]
fn mass<S: Simd, E: Math>(s: S, x: V<S, E>, at: &[V<S, E>], log: bool) -> V<S, E> {
    if log { exp_below::<S, E>(s, ((x - at[0]) - at[1]) * at[2]) } else { x * at[2] }
}

/// The logarithm of a normalised class.
#[inline(always)]
fn ln<S: Simd, E: Math>(s: S, x: V<S, E>, at: &[V<S, E>], log: bool) -> V<S, E> {
    if log { ((x - at[0]) - at[1]) * at[2] } else { (E::ln(s, x) - at[0]) - at[1] }
}

impl<E: Math> Emit<E, 2, 8> for Slope {
    #[inline(always)]
    fn emit<S: Simd>(self, s: S, at: &[V<S, E>; 8], [x, y]: [V<S, E>; 2]) -> V<S, E> {
        let number = |x: f64| V::<S, E>::splat(s, E::from_f64(x));
        let (zero, one) = (number(0.0), number(1.0));
        let (of_a, of_b, [log_a, log_b]) = (&at[..3], &at[3..6], self.log);
        let a = mass::<S, E>(s, x, of_a, log_a);
        let nothing = a.simd_eq(zero);
        let neither = nothing & y.simd_eq(if log_b { number(f64::NEG_INFINITY) } else { zero });
        // Each branch takes what it needs: an exponential is a third of all.
        let phi = match self.of {
            SlopeOf::Entropy => -ln::<S, E>(s, x, of_a, log_a),
            SlopeOf::CrossEntropy => -ln::<S, E>(s, y, of_b, log_b),
            SlopeOf::Kl => neither.select(zero, ln::<S, E>(s, x, of_a, log_a) - ln::<S, E>(s, y, of_b, log_b)),
            SlopeOf::Js => {
                // ½ ln(a/m) = −½ ln(½ + ½·b/a), of the smaller over the larger.
                let gap = ln::<S, E>(s, y, of_b, log_b) - ln::<S, E>(s, x, of_a, log_a);
                let ratio = exp_below::<S, E>(s, -gap.abs());
                let half = number(0.5);
                // Both ratios lie between ½ and 1.
                let near = E::ln(s, fma(ratio, half, half));
                let more = gap.simd_gt(zero).select(gap, zero);
                neither.select(zero, -(near + more) * half)
            }
            // Logarithms: p·(1 − b/a) without the division.
            SlopeOf::Other if log_a => return (a - mass::<S, E>(s, y, of_b, log_b)) * at[7],
            SlopeOf::Other => {
                let b = mass::<S, E>(s, y, of_b, log_b);
                b.simd_eq(zero).select(one, one - b / a)
            }
            SlopeOf::Nll => one,
        };
        if self.term {
            return nothing.select(zero, a * phi);
        }
        let value = phi - at[6];
        let value = if log_a { nothing.select(zero, value * a) } else { value };
        value * at[7]
    }
}
