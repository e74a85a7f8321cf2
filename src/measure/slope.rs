//! The derivatives of the quantities by one class of one of their rows.

use super::pointwise::exp;
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
/// The frame: of a the logarithm of its norm as head and tail in the units of its elements, what a mass or a logarithm is
/// multiplied by, 1; of b the same without the 1; c; k.
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

/// A normalised class and its logarithm.
#[inline(always)]
fn normalised<S: Simd, E: Math>(s: S, x: V<S, E>, at: &[V<S, E>], log: bool) -> (V<S, E>, V<S, E>) {
    if log {
        let ln = ((x - at[0]) - at[1]) * at[2];
        (exp::<S, E>(s, ln), ln)
    } else {
        (x * at[2], (E::ln(s, x) - at[0]) - at[1])
    }
}

impl<E: Math> Emit<E, 2, 9> for Slope {
    #[inline(always)]
    fn emit<S: Simd>(self, s: S, at: &[V<S, E>; 9], [x, y]: [V<S, E>; 2]) -> V<S, E> {
        let number = |x: f64| V::<S, E>::splat(s, E::from_f64(x));
        let (zero, one) = (number(0.0), number(1.0));
        let (a, ln_a) = normalised::<S, E>(s, x, &at[..3], self.log[0]);
        let (b, ln_b) = normalised::<S, E>(s, y, &at[4..7], self.log[1]);
        let nothing = a.simd_eq(zero);
        let phi = match self.of {
            SlopeOf::Entropy => -ln_a,
            SlopeOf::CrossEntropy => -ln_b,
            SlopeOf::Kl => (nothing & b.simd_eq(zero)).select(zero, ln_a - ln_b),
            SlopeOf::Js => {
                // ½ ln(a/m) = −½ ln(½ + ½·b/a), of the smaller over the larger.
                let gap = ln_b - ln_a;
                let far = gap.abs();
                let ratio = exp::<S, E>(s, -far);
                let half = number(0.5);
                // Both ratios lie between ½ and 1.
                let near = E::ln(s, fma(ratio, half, half));
                let more = gap.simd_gt(zero).select(gap, zero);
                (nothing & b.simd_eq(zero)).select(zero, -(near + more) * half)
            }
            SlopeOf::Other => b.simd_eq(zero).select(one, one - b / a),
            SlopeOf::Nll => one,
        };
        if self.term {
            return nothing.select(zero, a * phi);
        }
        // Logarithms: p·(1 − b/a) without the division.
        let by_other = self.log[0] & (self.of == SlopeOf::Other);
        let value = if by_other { a - b } else { (phi - at[7]) * if self.log[0] { a } else { one } };
        let value = if self.log[0] & !by_other { nothing.select(zero, value) } else { value };
        value * at[8]
    }
}
