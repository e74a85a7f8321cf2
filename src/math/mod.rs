//! Exponential, logarithm and the kernels of the divergences, on logical vectors of `f32` and `f64`.
//!
//! Only additions, multiplications, fused multiply-adds, divisions and integer operations in a fixed order: the bits
//! are the same on every level. `generate.py` makes the coefficients and the reference vectors of the tests. Errors
//! are in ulp of the result and include the half ulp of the last rounding.

use crate::simd::prelude::*;
use crate::simd::{Element, M, Simd, V, array, fma};

#[rustfmt::skip]
mod coefficients;
mod double;
mod single;
pub mod wide;

#[cfg(test)]
mod testing;

/// The functions every measure is built from.
pub trait Math: Element {
    /// log2 e.
    const LOG2_E: Self;
    /// The leading bits of ln 2: exact times an integer of magnitude up to 2047.
    const LN2_HI: Self;
    /// ln 2 − `LN2_HI`.
    const LN2_LO: Self;
    /// 1.5·2^(mantissa bits): adding it rounds to an integer (ties to even) and leaves that in the low bits.
    const MAGIC: Self;
    /// Bias of the exponent field.
    const EXP_BIAS: Self;
    /// The exponent of the smallest positive number, negated.
    const LIFT: Self;

    /// 2^k from t = `MAGIC` + `EXP_BIAS` + k: −bias ≤ k ≤ bias + 1, whose ends give 0 and infinity.
    fn pow2_of_magic<S: Simd>(s: S, t: V<S, Self>) -> V<S, Self>;

    /// Where x is positive, normal and finite (decided on its bits).
    fn is_plain<S: Simd>(s: S, x: V<S, Self>) -> M<S, Self>;

    /// Where x is 0, subnormal or negative, decided on its bits, which takes one operation: infinity is not, nor is a NaN
    /// without a sign.
    fn is_low<S: Simd>(s: S, x: V<S, Self>) -> M<S, Self>;

    /// x·2^`LIFT` for subnormal x > 0, by reading its bits as an integer: a product with a subnormal number takes a
    /// hundred cycles on many processors.
    fn lift<S: Simd>(s: S, x: V<S, Self>) -> V<S, Self>;

    /// e^r for abs(r) ≤ 0.36.
    fn exp_reduced<S: Simd>(s: S, r: V<S, Self>) -> V<S, Self>;

    /// (k, f) with x = 2^k (1 + f), √½ − 1 ≤ f < √2 − 1, k a whole number, for positive normal x. Exact.
    fn ln_split<S: Simd>(s: S, x: V<S, Self>) -> (V<S, Self>, V<S, Self>);

    /// (ln(1 + f) − f + f²/2) / f³ on the interval of `ln_split`.
    fn ln_cubic<S: Simd>(s: S, f: V<S, Self>) -> V<S, Self>;

    /// (e^d − 1 − d) / d² for abs(d) ≤ 1.
    fn phi<S: Simd>(s: S, d: V<S, Self>) -> V<S, Self>;

    /// (e^d − 1 − d) / d for abs(d) ≤ 1: d·φ with one rounding to speak of, for φ(0) is a power of two.
    fn phi_times<S: Simd>(s: S, d: V<S, Self>) -> V<S, Self>;

    /// G(x) / x² for 0 ≤ x ≤ 1, G(x) = ½ [(1 + t)(ln 2 − ln(1 + t)) − t x] and t = e^−x: the Jensen–Shannon term
    /// of two masses whose logarithms differ by x, per unit of the larger.
    fn js_log<S: Simd>(s: S, x: V<S, Self>) -> V<S, Self>;

    /// G(x) / x for 0 ≤ x ≤ 1, likewise.
    fn js_log_times<S: Simd>(s: S, x: V<S, Self>) -> V<S, Self>;

    /// G(x), the same, for 1 ≤ x ≤ 3, where the formula as it stands cancels up to six-fold.
    fn js_middle<S: Simd>(s: S, x: V<S, Self>) -> V<S, Self>;

    /// [(1 + z) ln(1 + z) + (1 − z) ln(1 − z)] / z² as a function of w = z², 0 ≤ w ≤ ¼.
    fn js_lin<S: Simd>(s: S, w: V<S, Self>) -> V<S, Self>;

    /// e^−x for x ≥ 0, up to infinity; from 60 on, far below the last bit of what it is added to, that of 60.
    #[inline(always)]
    fn exp_minus<S: Simd>(s: S, x: V<S, Self>) -> V<S, Self> {
        let most = splat::<S, Self>(s, 60.0);
        let x = x.simd_gt(most).select(most, x);
        let shift = splat::<S, Self>(s, Self::MAGIC.to_f64() + Self::EXP_BIAS.to_f64());
        let n = fma(x, splat::<S, Self>(s, -std::f64::consts::LOG2_E), shift);
        let k = n - shift;
        let r = fma(k, splat::<S, Self>(s, -Self::LN2_HI.to_f64()), -x);
        let r = fma(k, splat::<S, Self>(s, -Self::LN2_LO.to_f64()), r);
        Self::exp_reduced(s, r) * Self::pow2_of_magic(s, n)
    }

    /// G(x) of [`js_log`](Math::js_log) for x ≥ 1, up to infinity, from x and t = e^−x.
    #[inline(always)]
    fn js_far<S: Simd>(s: S, x: V<S, Self>, t: V<S, Self>) -> V<S, Self> {
        let most = splat::<S, Self>(s, 60.0);
        let middle = x.simd_le(splat::<S, Self>(s, 3.0));
        let x = x.simd_gt(most).select(most, x);
        let ln_1p = t + Self::ln_tail(s, t);
        let apart = splat::<S, Self>(s, std::f64::consts::LN_2) - ln_1p;
        let far = fma(splat::<S, Self>(s, 1.0) + t, apart, -(t * x)) * splat::<S, Self>(s, 0.5);
        middle.select(Self::js_middle(s, x), far)
    }

    /// ln(1 + f) − f on the interval of `ln_split`, relatively exact down to the smallest f whose square is normal.
    #[inline(always)]
    fn ln_tail<S: Simd>(s: S, f: V<S, Self>) -> V<S, Self> {
        let square = f * f;
        fma(square, f * Self::ln_cubic(s, f), square * splat::<S, Self>(s, -0.5))
    }

    /// ln(1 + f) − f + low, one operation shorter than the tail by itself and as good where low or f dominates.
    #[inline(always)]
    fn ln_tail_plus<S: Simd>(s: S, f: V<S, Self>, low: V<S, Self>) -> V<S, Self> {
        fma(f * f, fma(f, Self::ln_cubic(s, f), splat::<S, Self>(s, -0.5)), low)
    }

    /// k ln 2 + ln(1 + f). The rounding of k·`LN2_HI` + f is recovered: by itself it may be an ulp of the result.
    #[inline(always)]
    fn ln_join<S: Simd>(s: S, k: V<S, Self>, f: V<S, Self>) -> V<S, Self> {
        let [sum, tail] = Self::ln_join_parts(s, k, f);
        sum + tail
    }

    /// [`ln_join`](Math::ln_join) as two numbers, the second at most a fifth of the first or of 1.
    #[inline(always)]
    fn ln_join_parts<S: Simd>(s: S, k: V<S, Self>, f: V<S, Self>) -> [V<S, Self>; 2] {
        let high = V::<S, Self>::splat(s, Self::LN2_HI);
        let sum = fma(k, high, f);
        let lost = f - fma(k, -high, sum);
        let low = fma(k, V::<S, Self>::splat(s, Self::LN2_LO), lost);
        [sum, Self::ln_tail_plus(s, f, low)]
    }

    /// ln x as k and ln(1 + f), of which k ln 2 + ln(1 + f) is the whole, for positive normal x: sums Σ p·k and Σ p·ln(1 + f) that
    /// are kept apart lose less than one of p·ln x, whose parts are rounded when they meet, for as many operations.
    #[inline(always)]
    fn ln_apart<S: Simd>(s: S, x: V<S, Self>) -> [V<S, Self>; 2] {
        let (k, f) = Self::ln_split(s, x);
        [k, Self::ln_tail_plus(s, f, f)]
    }

    /// ln x for every float: ln 0 = −∞, NaN below 0, ln ∞ = ∞, subnormal numbers like all others.
    #[inline(always)]
    fn ln<S: Simd>(s: S, x: V<S, Self>) -> V<S, Self> {
        ln_where_zero_is::<S, Self>(s, x, V::<S, Self>::splat(s, Self::NEG_INFINITY))
    }

    /// ln x with ln 0 := 0, so that x ln x is right at 0.
    #[inline(always)]
    fn ln_or_zero<S: Simd>(s: S, x: V<S, Self>) -> V<S, Self> {
        ln_where_zero_is::<S, Self>(s, x, splat::<S, Self>(s, 0.0))
    }

    /// [`ln_apart`](Math::ln_apart) of c·x for every x, with ln 0 := 0 and c a power of two that is normal: bit for bit that of c·x
    /// where the product is normal, and right where it would lose bits among the subnormal numbers or vanish. Where the
    /// logarithm is no number k is 0.
    #[inline(always)]
    fn ln_apart_scaled<S: Simd>(s: S, x: V<S, Self>, c: V<S, Self>) -> [V<S, Self>; 2] {
        let zero = splat::<S, Self>(s, 0.0);
        let plain = Self::is_plain(s, x).all_true();
        let (more, _) = Self::ln_split(s, c);
        let (k, f) = split_anywhere::<S, Self>(s, x, plain);
        let (k, l) = (k + more, Self::ln_tail_plus(s, f, f));
        if plain {
            return [k, l];
        }
        let number = x.simd_gt(zero) & x.simd_lt(Self::INFINITY);
        [number.select(k, zero), at_ends::<S, Self>(s, x, l, zero)]
    }
}

/// ln x. One test finds the vectors that hold anything but positive normal numbers.
#[inline(always)]
fn ln_where_zero_is<S: Simd, E: Math>(s: S, x: V<S, E>, at_zero: V<S, E>) -> V<S, E> {
    let plain = E::is_plain(s, x).all_true();
    let (k, f) = split_anywhere::<S, E>(s, x, plain);
    let y = E::ln_join(s, k, f);
    if plain { y } else { at_ends::<S, E>(s, x, y, at_zero) }
}

/// [`Math::ln_split`] of numbers of which not all need be normal unless they are `plain`: they are lifted out of the subnormal
/// range before the polynomial and put right after it, so that it is compiled once.
#[inline(always)]
fn split_anywhere<S: Simd, E: Math>(s: S, x: V<S, E>, plain: bool) -> (V<S, E>, V<S, E>) {
    let (normal, shift) = if plain {
        (x, splat::<S, E>(s, 0.0))
    } else {
        let small = x.simd_lt(V::<S, E>::splat(s, E::TINY));
        (small.select(E::lift(s, x), x), small.select(V::<S, E>::splat(s, E::LIFT), splat::<S, E>(s, 0.0)))
    };
    let (k, f) = E::ln_split(s, normal);
    (k - shift, f)
}

/// y, except where ln x is no number: ∞ at ∞, NaN below 0 and of NaN; `at_zero` at 0.
#[inline(always)]
fn at_ends<S: Simd, E: Math>(s: S, x: V<S, E>, y: V<S, E>, at_zero: V<S, E>) -> V<S, E> {
    let zero = splat::<S, E>(s, 0.0);
    let infinity = V::<S, E>::splat(s, E::INFINITY);
    let y = x.simd_eq(infinity).select(infinity, y);
    let y = x.simd_gt(zero).select(y, V::<S, E>::splat(s, E::NAN));
    x.simd_eq(zero).select(at_zero, y)
}

/// The element nearest to x in all lanes.
#[inline(always)]
fn splat<S: Simd, E: Element>(s: S, x: f64) -> V<S, E> {
    V::<S, E>::splat(s, E::from_f64(x))
}

/// The polynomial by Horner's rule: fewest operations.
#[inline(always)]
fn horner<S: Simd, E: Element, const N: usize>(s: S, x: V<S, E>, coefficients: &[E; N]) -> V<S, E> {
    let mut y = V::<S, E>::splat(s, coefficients[N - 1]);
    for c in coefficients[..N - 1].iter().rev() {
        y = fma(y, x, V::<S, E>::splat(s, *c));
    }
    y
}

/// The polynomial with its two lowest steps by Horner's rule, which keeps the error at one rounding, and the rest as
/// four interleaved chains in x⁴, which shortens the dependency from N to about N/4 + 5 operations.
#[inline(always)]
fn four_chains<S: Simd, E: Element, const N: usize>(s: S, x: V<S, E>, coefficients: &[E; N]) -> V<S, E> {
    let (low, high) = coefficients.split_at(2);
    let (square, fourth) = (x * x, (x * x) * (x * x));
    let top = high.len().div_ceil(4) - 1;
    let mut chain: [V<S, E>; 4] = array(|j| {
        let first = if 4 * top + j < high.len() { 4 * top + j } else { 4 * (top - 1) + j };
        V::<S, E>::splat(s, high[first])
    });
    for (j, y) in chain.iter_mut().enumerate() {
        let steps = if 4 * top + j < high.len() { top } else { top - 1 };
        for i in (0..steps).rev() {
            *y = fma(*y, fourth, V::<S, E>::splat(s, high[4 * i + j]));
        }
    }
    let rest = fma(fma(chain[3], x, chain[2]), square, fma(chain[1], x, chain[0]));
    let y = fma(rest, x, V::<S, E>::splat(s, low[1]));
    fma(y, x, V::<S, E>::splat(s, low[0]))
}
