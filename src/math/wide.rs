//! Functions over all doubles, 8 rows at a time, for the finish of a row: accurate everywhere, speed comes second.
//!
//! Measured on the points of `generate.py --dense 60`, in ulp, with the input of the largest error met:
//!
//! | function | bound | worst | at |
//! |---|---|---|---|
//! | `exp` | 1 | 0.857 | −273.4465627308984 |
//! | `exp_scaled` | 1 | 0.867 | 2603.8430293606925 |
//! | `ln` | 1 | 0.783 | 1.4142135623730947 |
//! | `ln_1p` | 1 | 0.783 | 0.4142135623730947 |
//! | `ln_1p_minus` | 2 | 1.026 | −0.44283904168711674 |
//! | `exp_m1_minus` | 1.5 | 1.440 | 5.780009591900002e-11 |

use super::coefficients::ATANH_F64;
use super::{Math, four_chains};
use crate::simd::prelude::*;
use crate::simd::{Simd, Sum, W, fma, two_sum};

/// Where e^x is 0 or infinite whatever power of two up to 2^±4000 it is scaled by.
const EXP_LIMIT: f64 = 4000.0;
/// Beyond ±1100 a power of two times [½, 2] is 0 or infinite; each of its two halves is still an exact factor.
const SCALE_LIMIT: f64 = 1100.0;
/// From here on x + 1 is less than 2^−56 of e^x.
const EXP_ALONE: f64 = 45.0;
/// Below this e^x is less than 2^−80 of −1 − x.
const EXP_ABSENT: f64 = -60.0;

#[inline(always)]
fn splat<S: Simd>(s: S, x: f64) -> W<S> {
    W::splat(s, x)
}

/// x between the limits; NaN stays NaN.
#[inline(always)]
fn clamp<S: Simd>(s: S, x: W<S>, low: f64, high: f64) -> W<S> {
    let (low, high) = (splat(s, low), splat(s, high));
    let x = x.simd_lt(low).select(low, x);
    x.simd_gt(high).select(high, x)
}

/// 2^k for whole k between −1023 (0) and 1023.
#[inline(always)]
fn pow2<S: Simd>(s: S, k: W<S>) -> W<S> {
    f64::pow2_of_magic(s, k + splat(s, f64::MAGIC + f64::EXP_BIAS))
}

/// (n, high, low) with x = n ln 2 + high + low, n whole, high exact, abs(high) ≤ 0.3466. For abs(x) ≤ 4000.
#[inline(always)]
fn reduce<S: Simd>(s: S, x: W<S>) -> (W<S>, W<S>, W<S>) {
    let magic = splat(s, f64::MAGIC);
    let n = fma(x, splat(s, f64::LOG2_E), magic) - magic;
    (n, fma(n, splat(s, -f64::LN2_HI), x), n * splat(s, -f64::LN2_LO))
}

/// ln x; see [`Math::ln`].
#[inline(always)]
pub fn ln<S: Simd>(s: S, x: W<S>) -> W<S> {
    <f64 as Math>::ln(s, x)
}

/// ln x as two numbers for positive normal x.
#[inline(always)]
pub fn ln_parts<S: Simd>(s: S, x: W<S>) -> Sum<S> {
    let (k, f) = f64::ln_split(s, x);
    let [hi, lo] = f64::ln_join_parts(s, k, f);
    Sum { hi, lo }
}

/// e^x: overflows to ∞, underflows through the subnormal numbers to 0.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: W<S>) -> W<S> {
    exp_scaled(s, x, splat(s, 0.0))
}

/// e^x 2^k for whole abs(k) ≤ 4000, rounded once more only where the product is subnormal; 0 or ∞ outside the doubles.
#[inline(always)]
pub fn exp_scaled<S: Simd>(s: S, x: W<S>, k: W<S>) -> W<S> {
    let (n, high, low) = reduce(s, clamp(s, x, -EXP_LIMIT, EXP_LIMIT));
    let n = clamp(s, n + k, -SCALE_LIMIT, SCALE_LIMIT);
    let magic = splat(s, f64::MAGIC);
    let half = fma(n, splat(s, 0.5), magic) - magic;
    f64::exp_reduced(s, high + low) * pow2(s, half) * pow2(s, n - half)
}

/// 1 + x as 2^k (1 + f + c), c below the last bit of f; f + c = x where k = 0. For x > −1.
#[inline(always)]
fn split_1p<S: Simd>(s: S, x: Sum<S>) -> (W<S>, W<S>, W<S>) {
    let (u, rest) = two_sum(splat(s, 1.0), x.hi);
    let (k, f) = f64::ln_split(s, u);
    let near = k.simd_eq(splat(s, 0.0));
    let half = fma(k, splat(s, -0.5), splat(s, f64::MAGIC)) - splat(s, f64::MAGIC);
    let c = (rest + x.lo) * pow2(s, half) * pow2(s, -k - half);
    (k, near.select(x.hi, f), near.select(x.lo, c))
}

/// y, except at the ends of the domain of ln(1 + x): −∞ at −1, NaN below, `at_infinity` at ∞.
#[inline(always)]
fn ends_of_1p<S: Simd>(s: S, x: W<S>, y: W<S>, at_infinity: f64) -> W<S> {
    let (minus_one, infinity) = (splat(s, -1.0), splat(s, f64::INFINITY));
    let y = x.simd_eq(infinity).select(splat(s, at_infinity), y);
    let y = x.simd_eq(minus_one).select(-infinity, y);
    x.simd_ge(minus_one).select(y, splat(s, f64::NAN))
}

/// ln(1 + x).
#[inline(always)]
pub fn ln_1p<S: Simd>(s: S, x: W<S>) -> W<S> {
    let y = ln_1p_parts(s, Sum::new(s, x));
    ends_of_1p(s, x, y.hi + y.lo, f64::INFINITY)
}

/// ln(1 + x) as two numbers for −1 < x < ∞; of NaN the first is NaN.
#[inline(always)]
pub fn ln_1p_parts<S: Simd>(s: S, x: Sum<S>) -> Sum<S> {
    let (k, f, c) = split_1p(s, x);
    let (sum, lost) = two_sum(k * splat(s, f64::LN2_HI), f);
    let low = fma(k, splat(s, f64::LN2_LO), lost) + c / (f + splat(s, 1.0));
    let hi = x.hi.simd_eq(x.hi).select(sum, x.hi);
    Sum { hi, lo: f64::ln_tail_plus(s, f, low) }
}

/// ln(1 + x) − x without cancellation.
///
/// With t = x/(2 + x), ln(1 + x) = 2 atanh t and 2t − x = −t x, so that −½ ≤ x ≤ 1 is −t x + (2 atanh t − 2t),
/// a small correction to an exact term, t with its rounding error; elsewhere the large parts are added exactly.
#[inline(always)]
pub fn ln_1p_minus<S: Simd>(s: S, x: W<S>) -> W<S> {
    let (sum, lost) = two_sum(splat(s, 2.0), x);
    let inverse = splat(s, 1.0) / sum;
    let t = x * inverse;
    let low = (fma(-t, sum, x) - t * lost) * inverse;
    let square = t * t;
    let near = fma(t, -x, fma(low, -x, square * t * four_chains::<S, f64, _>(s, square, &ATANH_F64)));
    let is_near = x.simd_ge(splat(s, -0.5)) & x.simd_le(splat(s, 1.0));
    if is_near.all_true() {
        return near;
    }
    let (k, f, c) = split_1p(s, Sum::new(s, x));
    let (sum, lost) = two_sum(k * splat(s, f64::LN2_HI), -x);
    let (sum, lost_more) = two_sum(sum, f);
    let low = fma(k, splat(s, f64::LN2_LO), lost + lost_more) + c / (f + splat(s, 1.0));
    let far = sum + f64::ln_tail_plus(s, f, low);
    is_near.select(near, ends_of_1p(s, x, far, f64::NEG_INFINITY))
}

/// e^x − 1 − x without cancellation.
///
/// Near 0 it is x² φ(x), the square with its rounding error. Else x = n ln 2 + r gives
/// (2^n − 1 − x) + 2^n r + 2^n r² φ(r), of which only the last, small, term is not added exactly.
#[inline(always)]
pub fn exp_m1_minus<S: Simd>(s: S, x: W<S>) -> W<S> {
    let one = splat(s, 1.0);
    let square = x * x;
    let lost = fma(x, x, -square);
    let is_near = x.abs().simd_le(one);
    let ratio = f64::phi(s, clamp(s, x, -1.0, 1.0));
    let near = fma(square, ratio, lost * ratio);
    if is_near.all_true() {
        return near;
    }
    let (n, high, low) = reduce(s, clamp(s, x, EXP_ABSENT, EXP_ALONE));
    let r = high + low;
    let scale = pow2(s, n);
    let (sum, lost) = two_sum(scale - one, -x);
    let (sum, lost_more) = two_sum(sum, scale * high);
    let middle = sum + fma(scale, fma(r * r, f64::phi(s, r), low), lost + lost_more);
    let far = x.simd_gt(splat(s, EXP_ALONE)).select(exp(s, x), middle);
    let far = x.simd_lt(splat(s, EXP_ABSENT)).select(-one - x, far);
    is_near.select(near, far)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{at_every_level, check, op, vectors, worst_of};
    use super::*;
    use crate::simd::f64x8;

    op!(Ln: f64, s, x => ln(s, x));
    op!(Exp: f64, s, x => exp(s, x));
    op!(Ln1p: f64, s, x => ln_1p(s, x));
    op!(Ln1pMinus: f64, s, x => ln_1p_minus(s, x));
    op!(ExpM1Minus: f64, s, x => exp_m1_minus(s, x));
    // Lanes alternate x, k.
    op!(ExpScaled: f64, s, v => {
        let a = v.to_array();
        let k = f64x8::from_fn(s, |i| a[i | 1]);
        exp_scaled(s, v, k)
    });

    #[test]
    fn reference_vectors() {
        check::<Ln>("ln", 1.0);
        check::<Exp>("exp", 1.0);
        check::<Ln1p>("ln_1p", 1.0);
        check::<Ln1pMinus>("ln_1p_minus", 2.0);
        check::<ExpM1Minus>("exp_m1_minus", 1.5);
    }

    #[test]
    fn reference_vectors_of_exp_scaled() {
        let vectors = vectors("exp_scaled");
        let x: Vec<f64> = vectors.iter().flat_map(|v| [v.x, v.k]).collect();
        let y: Vec<f64> = at_every_level::<f64, ExpScaled>(&x, 1).into_iter().step_by(2).collect();
        let worst = worst_of(&vectors, &y);
        println!("exp_scaled: {worst}");
        assert!(worst.ulp <= 1.0, "exp_scaled: {worst}");
    }

    #[test]
    fn ends_of_the_domains() {
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        let same = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan());
        let check = |name: &str, y: Vec<f64>, truth: [f64; 7]| {
            for (i, (a, b)) in y.into_iter().zip(truth).enumerate() {
                assert!(same(a, b), "{name} of input {i}: {a} instead of {b}");
            }
        };
        let x = [0.0, -1.0, inf, -inf, nan, -1.0 - f64::EPSILON, 1e308];
        check("ln_1p", at_every_level::<f64, Ln1p>(&x, 1), [0.0, -inf, inf, nan, nan, nan, 709.1962086421661]);
        check("ln_1p_minus", at_every_level::<f64, Ln1pMinus>(&x, 1), [0.0, -inf, -inf, nan, nan, nan, -1e308]);
        let x = [0.0, -746.0, inf, -inf, nan, 710.0, -1e308];
        check("exp", at_every_level::<f64, Exp>(&x, 1), [1.0, 0.0, inf, 0.0, nan, inf, 0.0]);
        check("exp_m1_minus", at_every_level::<f64, ExpM1Minus>(&x, 1), [0.0, 745.0, inf, inf, nan, inf, 1e308]);
    }
}
