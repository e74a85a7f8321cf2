//! The functions for `f64`.
//!
//! Measured on the points of `generate.py --dense 60`, in ulp, with the input of the largest error met:
//!
//! | function | degree | domain | bound | worst | at |
//! |---|---|---|---|---|---|
//! | `exp_reduced` | 11 | abs(r) ≤ 0.36 | 1 | 0.714 | −0.35991924479340237 |
//! | `ln_tail` | 20 | √½ − 1 ≤ f ≤ √2 − 1, abs(f) ≥ 1.5e-154 | 2 | 1.619 | 0.39302797898033703 |
//! | `ln`, `ln_or_zero` | 20 | x > 0, subnormal too | 1 | 0.783 | 1.4142135623730947 |
//! | `phi` | 13 | abs(d) ≤ 1 | 2 | 0.829 | −0.915470808541857 |
//! | `phi_times` | 13 | abs(d) ≤ 1 | 1 | 0.907 | −0.9995192908006314 |
//! | `js_log` | 13 | 0 ≤ x ≤ 1 | 2 | 0.841 | 0.9025392367376952 |
//! | `js_log_times` | 13 | 0 ≤ x ≤ 1 | 2 | 1.083 | 0.7144735283055231 |
//! | `js_far` | 17 | 1 ≤ x ≤ 60 | 2 | 1.727 | 10.926334230984992 |
//! | `exp_minus` | 11 | 0 ≤ x ≤ 60 | 1 | 0.794 | 58.65359455675316 |
//! | `js_lin` | 12 | 0 ≤ w ≤ ¼ | 2 | 0.535 | 0.1681054704769344 |

use super::coefficients::*;
use super::{Math, four_chains};
use crate::simd::prelude::*;
use crate::simd::{M, Simd, V, f64x8, fma, i64x8, u64x8};

/// Bits of √½ (rounded up) and of the mantissa.
const SQRT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
const MANTISSA: u64 = 0x000f_ffff_ffff_ffff;
/// Added to the exponent so that it stays positive: a logical shift will do (AVX2 has no other for 64 bits).
const RAISE: u64 = 1024;
/// 2^52: its low bits are those of an integer.
const TWO_52: f64 = 4_503_599_627_370_496.0;

impl Math for f64 {
    const LOG2_E: f64 = std::f64::consts::LOG2_E;
    const LN2_HI: f64 = LN2_HI_F64;
    const LN2_LO: f64 = LN2_LO_F64;
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    const EXP_BIAS: f64 = 1023.0;
    const LIFT: f64 = 1074.0;

    #[inline(always)]
    fn pow2_of_magic<S: Simd>(_: S, t: V<S, f64>) -> V<S, f64> {
        (t.bitcast::<u64x8<S>>() << 52).bitcast()
    }

    /// Bits from 2^−1022 to the largest float, moved to the bottom of the signed integers.
    #[inline(always)]
    fn is_plain<S: Simd>(s: S, x: V<S, f64>) -> M<S, f64> {
        let moved = x.bitcast::<i64x8<S>>() + i64x8::splat(s, 0x7ff0_0000_0000_0000);
        moved.simd_lt(i64x8::splat(s, -0x0020_0000_0000_0000))
    }

    #[inline(always)]
    fn is_low<S: Simd>(s: S, x: V<S, f64>) -> M<S, f64> {
        x.bitcast::<i64x8<S>>().simd_lt(i64x8::splat(s, 0x0010_0000_0000_0000))
    }

    #[inline(always)]
    fn lift<S: Simd>(s: S, x: V<S, f64>) -> V<S, f64> {
        let mantissa = x.bitcast::<u64x8<S>>() | u64x8::splat(s, TWO_52.to_bits());
        mantissa.bitcast::<f64x8<S>>() - f64x8::splat(s, TWO_52)
    }

    #[inline(always)]
    fn exp_reduced<S: Simd>(s: S, r: V<S, f64>) -> V<S, f64> {
        four_chains::<S, f64, _>(s, r, &EXP_F64)
    }

    #[inline(always)]
    fn ln_split<S: Simd>(s: S, x: V<S, f64>) -> (V<S, f64>, V<S, f64>) {
        let bits = x.bitcast::<u64x8<S>>() + u64x8::splat(s, (RAISE << 52).wrapping_sub(SQRT_HALF));
        let mantissa = (bits & u64x8::splat(s, MANTISSA)) + u64x8::splat(s, SQRT_HALF);
        let raised = (bits >> 52) | u64x8::splat(s, TWO_52.to_bits());
        let k = raised.bitcast::<f64x8<S>>() - f64x8::splat(s, TWO_52 + RAISE as f64);
        (k, mantissa.bitcast::<f64x8<S>>() - f64x8::splat(s, 1.0))
    }

    #[inline(always)]
    fn ln_cubic<S: Simd>(s: S, f: V<S, f64>) -> V<S, f64> {
        four_chains::<S, f64, _>(s, f, &LN_F64)
    }

    #[inline(always)]
    fn phi<S: Simd>(s: S, d: V<S, f64>) -> V<S, f64> {
        four_chains::<S, f64, _>(s, d, &PHI_F64)
    }

    #[inline(always)]
    fn phi_times<S: Simd>(s: S, d: V<S, f64>) -> V<S, f64> {
        let [first, rest @ ..] = PHI_F64;
        fma(d * d, four_chains::<S, f64, _>(s, d, &rest), d * first)
    }

    #[inline(always)]
    fn js_log<S: Simd>(s: S, x: V<S, f64>) -> V<S, f64> {
        four_chains::<S, f64, _>(s, x, &JS_LOG_F64)
    }

    #[inline(always)]
    fn js_log_times<S: Simd>(s: S, x: V<S, f64>) -> V<S, f64> {
        let [first, rest @ ..] = JS_LOG_F64;
        fma(x * x, four_chains::<S, f64, _>(s, x, &rest), x * first)
    }

    #[inline(always)]
    fn js_middle<S: Simd>(s: S, x: V<S, f64>) -> V<S, f64> {
        four_chains::<S, f64, _>(s, x - f64x8::splat(s, 2.0), &JS_MIDDLE_F64)
    }

    #[inline(always)]
    fn js_lin<S: Simd>(s: S, w: V<S, f64>) -> V<S, f64> {
        four_chains::<S, f64, _>(s, w, &JS_LIN_F64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{at_every_level, check, op};
    use super::*;
    use crate::simd::two_sum;

    op!(Exp: f64, s, r => f64::exp_reduced(s, r));
    op!(Tail: f64, s, f => f64::ln_tail(s, f));
    op!(Ln: f64, s, x => <f64 as Math>::ln(s, x));
    op!(LnOrZero: f64, s, x => f64::ln_or_zero(s, x));
    op!(LnApart: f64, s, x => {
        let [k, l] = f64::ln_apart_scaled(s, x, f64x8::splat(s, 1.0));
        let (sum, lost) = two_sum(k * f64x8::splat(s, f64::LN2_HI), l);
        sum + fma(k, f64x8::splat(s, f64::LN2_LO), lost)
    });
    op!(Phi: f64, s, d => f64::phi(s, d));
    op!(PhiTimes: f64, s, d => f64::phi_times(s, d));
    op!(JsLog: f64, s, x => f64::js_log(s, x));
    op!(JsLogTimes: f64, s, x => f64::js_log_times(s, x));
    op!(JsFar: f64, s, x => f64::js_far(s, x, f64::exp_minus(s, x)));
    op!(ExpMinus: f64, s, x => f64::exp_minus(s, x));
    op!(JsLin: f64, s, w => f64::js_lin(s, w));

    #[test]
    fn reference_vectors() {
        check::<Exp>("exp_reduced", 1.0);
        check::<Tail>("ln_tail", 2.0);
        check::<Ln>("ln", 1.0);
        check::<LnOrZero>("ln", 1.0);
        check::<LnApart>("ln", 1.0);
        check::<Phi>("phi", 2.0);
        check::<PhiTimes>("phi_times", 1.0);
        check::<JsLog>("js_log", 2.0);
        check::<JsLogTimes>("js_log_times", 2.0);
        check::<JsFar>("js_far", 2.0);
        check::<ExpMinus>("exp_minus", 1.0);
        check::<JsLin>("js_lin", 2.0);
    }

    #[test]
    fn values_at_the_origin_are_exact() {
        assert_eq!(at_every_level::<f64, Exp>(&[0.0, 1e-300], 1), [1.0, 1.0]);
        assert_eq!(at_every_level::<f64, Phi>(&[0.0, 1e-300], 1), [0.5, 0.5]);
        assert_eq!(at_every_level::<f64, JsLog>(&[0.0, 1e-300], 1), [0.125, 0.125]);
        assert_eq!(at_every_level::<f64, JsLin>(&[0.0, 1e-300], 1), [1.0, 1.0]);
        assert_eq!(at_every_level::<f64, Ln>(&[1.0], 1)[0].to_bits(), 0);
    }

    #[test]
    fn ln_of_special_values() {
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        let special = [(0.0, -inf), (-0.0, -inf), (inf, inf), (-inf, nan), (nan, nan), (-1.0, nan), (-5e-324, nan)];
        let bits = |v: Vec<f64>| v.into_iter().map(|y| if y.is_nan() { 0 } else { y.to_bits() }).collect::<Vec<_>>();
        for (x, y) in special {
            for lanes in [[x; 8], [x, x, 1.0, 1.0, 1.0, 1.0, 1.0, 1e-310]] {
                assert_eq!(bits(at_every_level::<f64, Ln>(&lanes, 1)[..2].to_vec()), bits(vec![y; 2]), "ln {x}");
                let y = if x == 0.0 { 0.0 } else { y };
                assert_eq!(bits(at_every_level::<f64, LnOrZero>(&lanes, 1)[..2].to_vec()), bits(vec![y; 2]), "{x}");
            }
        }
    }
}
