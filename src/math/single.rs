//! The functions for `f32`.
//!
//! Measured over every float of the domain (test `exhaustive`), in ulp, with the input of the largest error:
//!
//! | function | degree | domain | bound | worst | at |
//! |---|---|---|---|---|---|
//! | `exp_reduced` | 6 | abs(r) ≤ 0.36 | 1 | 0.742 | −0.359858632 |
//! | e^x by reduction (test `Chain`) | 6 | −87 ≤ x ≤ 88 | 1 | 0.899 | −5.85774755 |
//! | `ln_tail` | 9 | √½ − 1 ≤ f ≤ √2 − 1, abs(f) ≥ 1.1e-19 | 2 | 1.758 | 0.394235283 |
//! | `ln`, `ln_or_zero` | 9 | x > 0, subnormal too | 1 | 0.841 | 0.706419766 |
//! | `ln_tail_plus(f, f)` | 9 | √½ − 1 ≤ f ≤ √2 − 1 | 1 | 0.709 | 0.412051201 |
//! | `phi` | 7 | abs(d) ≤ 1 | 2 | 0.854 | −0.999790907 |
//! | `phi_times` | 7 | abs(d) ≤ 1 | 1 | 0.937 | −0.959691286 |
//! | `js_log` | 6 | 0 ≤ x ≤ 1 | 2 | 0.815 | 0.997039080 |
//! | `js_log_times` | 6 | 0 ≤ x ≤ 1 | 2 | 1.193 | 0.707217515 |
//! | `js_far` | 8 | 1 ≤ x ≤ 60 | 2 | 1.895 | 3.01188588 |
//! | `exp_minus` | 6 | 0 ≤ x ≤ 60 | 1 | 0.899 | 5.85774755 |
//! | `js_lin` | 5 | 0 ≤ w ≤ ¼ | 2 | 0.541 | 0.249950483 |

use super::coefficients::*;
use super::{Math, horner};
use crate::simd::prelude::*;
use crate::simd::{M, Simd, V, f32x16, fma, i32x16};

/// Bits of √½ (rounded up) and of the mantissa.
const SQRT_HALF: i32 = 0x3f35_04f3;
const MANTISSA: i32 = 0x007f_ffff;

impl Math for f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HI: f32 = LN2_HI_F32;
    const LN2_LO: f32 = LN2_LO_F32;
    const MAGIC: f32 = 12_582_912.0;
    const EXP_BIAS: f32 = 127.0;
    const LIFT: f32 = 149.0;

    #[inline(always)]
    fn pow2_of_magic<S: Simd>(_: S, t: V<S, f32>) -> V<S, f32> {
        (t.bitcast::<i32x16<S>>() << 23).bitcast()
    }

    /// Bits from 2^−126 to the largest float, moved to the bottom of the signed integers.
    #[inline(always)]
    fn is_plain<S: Simd>(s: S, x: V<S, f32>) -> M<S, f32> {
        let moved = x.bitcast::<i32x16<S>>() + i32x16::splat(s, 0x7f80_0000);
        moved.simd_lt(i32x16::splat(s, -0x0100_0000))
    }

    #[inline(always)]
    fn is_low<S: Simd>(s: S, x: V<S, f32>) -> M<S, f32> {
        x.bitcast::<i32x16<S>>().simd_lt(i32x16::splat(s, 0x0080_0000))
    }

    #[inline(always)]
    fn lift<S: Simd>(_: S, x: V<S, f32>) -> V<S, f32> {
        x.bitcast::<i32x16<S>>().to_float()
    }

    #[inline(always)]
    fn exp_reduced<S: Simd>(s: S, r: V<S, f32>) -> V<S, f32> {
        horner::<S, f32, _>(s, r, &EXP_F32)
    }

    #[inline(always)]
    fn ln_split<S: Simd>(s: S, x: V<S, f32>) -> (V<S, f32>, V<S, f32>) {
        let bits = x.bitcast::<i32x16<S>>() - i32x16::splat(s, SQRT_HALF);
        let mantissa = (bits & i32x16::splat(s, MANTISSA)) + i32x16::splat(s, SQRT_HALF);
        let k: f32x16<S> = (bits >> 23).to_float();
        (k, mantissa.bitcast::<f32x16<S>>() - f32x16::splat(s, 1.0))
    }

    #[inline(always)]
    fn ln_cubic<S: Simd>(s: S, f: V<S, f32>) -> V<S, f32> {
        horner::<S, f32, _>(s, f, &LN_F32)
    }

    #[inline(always)]
    fn phi<S: Simd>(s: S, d: V<S, f32>) -> V<S, f32> {
        horner::<S, f32, _>(s, d, &PHI_F32)
    }

    #[inline(always)]
    fn phi_times<S: Simd>(s: S, d: V<S, f32>) -> V<S, f32> {
        let [first, rest @ ..] = PHI_F32;
        fma(d * d, horner::<S, f32, _>(s, d, &rest), d * first)
    }

    #[inline(always)]
    fn js_log<S: Simd>(s: S, x: V<S, f32>) -> V<S, f32> {
        horner::<S, f32, _>(s, x, &JS_LOG_F32)
    }

    #[inline(always)]
    fn js_log_times<S: Simd>(s: S, x: V<S, f32>) -> V<S, f32> {
        let [first, rest @ ..] = JS_LOG_F32;
        fma(x * x, horner::<S, f32, _>(s, x, &rest), x * first)
    }

    #[inline(always)]
    fn js_middle<S: Simd>(s: S, x: V<S, f32>) -> V<S, f32> {
        horner::<S, f32, _>(s, x - f32x16::splat(s, 2.0), &JS_MIDDLE_F32)
    }

    #[inline(always)]
    fn js_lin<S: Simd>(s: S, w: V<S, f32>) -> V<S, f32> {
        horner::<S, f32, _>(s, w, &JS_LIN_F32)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Op, Worst, at_every_level, at_level, levels, op, ulp_f32};
    use super::*;

    op!(Exp: f32, s, r => f32::exp_reduced(s, r));
    op!(Tail: f32, s, f => f32::ln_tail(s, f));
    op!(Ln: f32, s, x => <f32 as Math>::ln(s, x));
    op!(LnNear: f32, s, f => f32::ln_tail_plus(s, f, f));
    op!(LnOrZero: f32, s, x => f32::ln_or_zero(s, x));
    op!(Phi: f32, s, d => f32::phi(s, d));
    op!(PhiTimes: f32, s, d => f32::phi_times(s, d));
    op!(JsLog: f32, s, x => f32::js_log(s, x));
    op!(JsLogTimes: f32, s, x => f32::js_log_times(s, x));
    op!(JsFar: f32, s, x => f32::js_far(s, x, f32::exp_minus(s, x)));
    op!(ExpMinus: f32, s, x => f32::exp_minus(s, x));
    op!(JsLin: f32, s, w => f32::js_lin(s, w));
    op!(Split: f32, s, x => {
        let (k, f) = f32::ln_split(s, x);
        let half = fma(k, V::<S, f32>::splat(s, 0.5), V::<S, f32>::splat(s, f32::MAGIC)) - f32::MAGIC;
        let pow2 = |k: V<S, f32>| f32::pow2_of_magic(s, k + (f32::MAGIC + f32::EXP_BIAS));
        (f + 1.0) * pow2(half) * pow2(k - half)
    });
    op!(Chain: f32, s, x => {
        let c = |v: f32| V::<S, f32>::splat(s, v);
        let t = fma(x, c(f32::LOG2_E), c(f32::MAGIC + f32::EXP_BIAS));
        let n = t - c(f32::MAGIC + f32::EXP_BIAS);
        let r = fma(n, c(-f32::LN2_LO), fma(n, c(-f32::LN2_HI), x));
        f32::exp_reduced(s, r) * f32::pow2_of_magic(s, t)
    });

    fn phi(d: f64) -> f64 {
        if d.abs() > 0.1 {
            return (d.exp_m1() - d) / (d * d);
        }
        (2..14).rev().fold(0.0, |y, k| (y * d + 1.0) / f64::from(k))
    }

    fn tail(f: f64) -> f64 {
        if f.abs() > 0.03 {
            return f.ln_1p() - f;
        }
        let ratio = (2..14).rev().fold(0.0, |y, k| (if k % 2 == 0 { -1.0 } else { 1.0 }) / f64::from(k) + y * f);
        f * f * ratio
    }

    /// With y = x/2: G = ½(1 + t)(y tanh y − ln cosh y), every part of it well conditioned.
    fn js_log(x: f64) -> f64 {
        if x < 1e-5 {
            return 0.125 - x / 16.0;
        }
        let y = 0.5 * x;
        let ln_cosh = (2.0 * (0.5 * y).sinh().powi(2)).ln_1p();
        0.5 * (1.0 + (-x).exp()) * (y * y.tanh() - ln_cosh) / (x * x)
    }

    /// Without cancellation to speak of in double precision.
    fn js_far(x: f64) -> f64 {
        let t = (-x).exp();
        0.5 * ((1.0 + t) * (std::f64::consts::LN_2 - t.ln_1p()) - t * x)
    }

    fn js_lin(w: f64) -> f64 {
        if w < 1e-9 {
            return 1.0 + w / 6.0;
        }
        ((-w).ln_1p() + 2.0 * w.sqrt() * w.sqrt().atanh()) / w
    }

    struct Case {
        name: &'static str,
        bound: f64,
        truth: fn(f64) -> f64,
        /// Largest positive input, largest magnitude of a negative one.
        top: f32,
        bottom: f32,
        /// Smallest magnitude.
        least: f32,
    }

    const SQRT2: f32 = std::f32::consts::SQRT_2;
    const EXP: Case = Case { name: "exp_reduced", bound: 1.0, truth: f64::exp, top: 0.36, bottom: 0.36, least: 0.0 };
    const CHAIN: Case = Case { name: "exp chain", bound: 1.0, truth: f64::exp, top: 88.0, bottom: 87.0, least: 0.0 };
    const TAIL: Case =
        Case { name: "ln_tail", bound: 2.0, truth: tail, top: SQRT2 - 1.0, bottom: 0.2929, least: 1.1e-19 };
    const LN: Case = Case { name: "ln", bound: 1.0, truth: f64::ln, top: f32::MAX, bottom: -1.0, least: 1e-45 };
    const LN_NEAR: Case = Case {
        name: "ln_tail_plus(f, f)",
        bound: 1.0,
        truth: f64::ln_1p,
        top: SQRT2 - 1.0,
        bottom: 0.2929,
        least: 1e-37,
    };
    const PHI: Case = Case { name: "phi", bound: 2.0, truth: phi, top: 1.0, bottom: 1.0, least: 0.0 };
    const PHI_TIMES: Case =
        Case { name: "phi_times", bound: 1.0, truth: |d| d * phi(d), top: 1.0, bottom: 1.0, least: 1e-37 };
    const JS_LOG: Case = Case { name: "js_log", bound: 2.0, truth: js_log, top: 1.0, bottom: -1.0, least: 0.0 };
    const JS_LOG_TIMES: Case =
        Case { name: "js_log_times", bound: 2.0, truth: |x| x * js_log(x), top: 1.0, bottom: -1.0, least: 1e-37 };
    const JS_FAR: Case = Case { name: "js_far", bound: 2.0, truth: js_far, top: 60.0, bottom: -1.0, least: 1.0 };
    const EXP_MINUS: Case =
        Case { name: "exp_minus", bound: 1.0, truth: |x| (-x).exp(), top: 60.0, bottom: -1.0, least: 0.0 };
    const JS_LIN: Case = Case { name: "js_lin", bound: 2.0, truth: js_lin, top: 0.25, bottom: -1.0, least: 0.0 };

    fn sweep<O: Op<f32>>(case: &Case, step: usize, every_level: bool) {
        let mut worst = Worst::NONE;
        for (sign, end) in [(0u32, case.top), (0x8000_0000, case.bottom)] {
            if end < 0.0 {
                continue;
            }
            let all: Vec<u32> = vec![case.least.to_bits(), end.to_bits()];
            let mut from = all[0] as usize;
            while from <= all[1] as usize {
                let bits = (from..=all[1] as usize).step_by(step).take(1 << 16);
                let x: Vec<f32> = bits.map(|b| f32::from_bits(b as u32 | sign)).collect();
                from += x.len() * step;
                let y =
                    if every_level { at_every_level::<f32, O>(&x, 16) } else { at_level::<f32, O>(levels()[0], &x) };
                for (x, y) in x.iter().zip(y) {
                    worst.see(ulp_f32(y, (case.truth)(f64::from(*x))), f64::from(*x));
                }
            }
        }
        println!("{} (f32): {worst}", case.name);
        assert!(worst.ulp <= case.bound, "{}: {worst}, bound {} ulp", case.name, case.bound);
    }

    fn sweep_all(step: usize, every_level: bool) {
        sweep::<Exp>(&EXP, step, every_level);
        sweep::<Chain>(&CHAIN, step, every_level);
        sweep::<Tail>(&TAIL, step, every_level);
        sweep::<Ln>(&LN, step, every_level);
        sweep::<LnNear>(&LN_NEAR, step, every_level);
        sweep::<Phi>(&PHI, step, every_level);
        sweep::<PhiTimes>(&PHI_TIMES, step, every_level);
        sweep::<JsLog>(&JS_LOG, step, every_level);
        sweep::<JsLogTimes>(&JS_LOG_TIMES, step, every_level);
        sweep::<JsFar>(&JS_FAR, step, every_level);
        sweep::<ExpMinus>(&EXP_MINUS, step, every_level);
        sweep::<JsLin>(&JS_LIN, step, every_level);
    }

    #[test]
    fn floats_of_the_domains_by_a_thousand() {
        sweep_all(if cfg!(debug_assertions) { 20_011 } else { 1009 }, true);
        sweep::<LnOrZero>(&LN, 20_011, true);
    }

    /// `cargo test --release -- --ignored --nocapture exhaustive` prints the figures the documentation states.
    #[test]
    #[ignore = "minutes"]
    fn exhaustive() {
        sweep_all(1, false);
    }

    #[test]
    fn split_is_exact() {
        let x: Vec<f32> = (0x0080_0000..0x7f80_0000).step_by(100_003).map(f32::from_bits).collect();
        assert_eq!(at_every_level::<f32, Split>(&x, 16), x);
    }

    #[test]
    fn values_at_the_origin_are_exact() {
        assert_eq!(at_every_level::<f32, Exp>(&[0.0, 1e-30], 1), [1.0, 1.0]);
        assert_eq!(at_every_level::<f32, Phi>(&[0.0, 1e-30], 1), [0.5, 0.5]);
        assert_eq!(at_every_level::<f32, JsLog>(&[0.0, 1e-30], 1), [0.125, 0.125]);
        assert_eq!(at_every_level::<f32, JsLin>(&[0.0, 1e-30], 1), [1.0, 1.0]);
        assert_eq!(at_every_level::<f32, Tail>(&[0.0, 1e-10], 1), [0.0, -0.5 * 1e-10 * 1e-10]);
        assert_eq!(at_every_level::<f32, Ln>(&[1.0], 1)[0].to_bits(), 0);
    }

    /// The special values alone, and the value of each input beside a lane that sends the vector to the rare paths.
    #[test]
    fn ln_of_special_values_and_beside_them() {
        let nan = f32::NAN;
        let inf = f32::INFINITY;
        let special = [(0.0, -inf), (-0.0, -inf), (inf, inf), (-inf, nan), (nan, nan), (-1.0, nan), (-1e-45, nan)];
        let bits = |v: Vec<f32>| v.into_iter().map(|y| if y.is_nan() { 0 } else { y.to_bits() }).collect::<Vec<_>>();
        for (x, y) in special {
            assert_eq!(bits(at_every_level::<f32, Ln>(&[x; 16], 1)), bits(vec![y; 16]), "ln {x}");
            let y = if x == 0.0 { 0.0 } else { y };
            assert_eq!(bits(at_every_level::<f32, LnOrZero>(&[x; 16], 1)), bits(vec![y; 16]), "ln_or_zero {x}");
        }
        for x in (1..0x7f80_0000).step_by(4_999_999).map(f32::from_bits) {
            let alone = at_every_level::<f32, Ln>(&[x; 16], 1)[0];
            for (other, _) in special {
                let mut lanes = [x; 16];
                lanes[5] = other;
                assert_eq!(at_every_level::<f32, Ln>(&lanes, 1)[0], alone, "{x} beside {other}");
            }
        }
    }
}
