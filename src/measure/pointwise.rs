//! Losses that are a value a class, on rows as they are: torch's KLDivLoss (which is not KL: its sum can be negative),
//! its binary cross entropies, and the gradients of all of them and of the softmaxes.
//!
//! An input that a call does not have (a weight, a gradient of 1) is a number that is repeated.

use crate::math::Math;
use crate::rows::{Done, Emit, Measure, Part, Terms, add_parts, none};
use crate::simd::*;

/// The sum over a row of a value a class.
#[derive(Clone, Copy)]
pub struct Summed<T>(pub T);

impl<E: Math, T: Emit<E, I, 0>, const I: usize> Measure<E, I, 0, 1, 1> for Summed<T> {
    const LOOKS: bool = false;

    #[inline(always)]
    fn frame<S: Simd>(self, _: S, _: [W<S>; 0], _: [W<S>; 0]) -> [W<S>; 0] {
        []
    }

    #[inline(always)]
    fn term<S: Simd, const SECOND: bool, const CAREFUL: bool>(
        self,
        s: S,
        at: &[V<S, E>; 0],
        x: [V<S, E>; I],
        [sum]: [V<S, E>; 1],
    ) -> Terms<S, E, 1> {
        ([sum + self.0.emit(s, at, x)], none::<S, E>(s))
    }

    #[inline(always)]
    fn merge<S: Simd>(self, _: S, a: Part<S, 0, 1>, b: Part<S, 0, 1>) -> Part<S, 0, 1> {
        add_parts(a, b)
    }

    #[inline(always)]
    fn finish<S: Simd>(self, s: S, p: Part<S, 0, 1>, _: bool, _: [W<S>; 1]) -> Done<S, I, 0, 1> {
        let zero = W::splat(s, 0.0);
        Done { value: [p.sum[0].value(s)], mass: [zero; I], again: zero.simd_gt(zero), hint: [] }
    }
}

/// A value a class as an [`Emit`] of `I` inputs that needs nothing of the row.
macro_rules! value {
    ($(#[$doc:meta])* $name:ident, $inputs:literal, |$s:ident, $x:pat_param| $value:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $name;

        impl<E: Math> Emit<E, $inputs, 0> for $name {
            #[inline(always)]
            fn emit<S: Simd>(self, $s: S, _: &[V<S, E>; 0], $x: [V<S, E>; $inputs]) -> V<S, E> {
                $value
            }
        }
    };
}

value! {
    /// t·(ln t − x), with 0·ln 0 = 0: t = 0 and x = −∞ give NaN, t < 0 gives NaN, as in torch.
    Kl, 2, |s, [x, t]| t * (E::ln_or_zero(s, t) - x)
}
value! {
    /// eᵗ·(t − x): t = −∞ gives NaN, as in torch.
    KlOfLog, 2, |s, [x, t]| exp::<S, E>(s, t) * (t - x)
}
value! {
    /// ∂/∂x of [`Kl`] times g.
    KlInput, 2, |_s, [t, g]| -t * g
}
value! {
    /// ∂/∂x of [`KlOfLog`] times g.
    KlOfLogInput, 2, |s, [t, g]| -exp::<S, E>(s, t) * g
}
value! {
    /// ∂/∂t of [`Kl`] times g: NaN at t = 0 and t = ∞, as in torch.
    KlTarget, 3, |s, [x, t, g]| {
        let (zero, one) = (number::<S, E>(s, 0.0), number::<S, E>(s, 1.0));
        let inside = t.simd_gt(zero) & t.simd_lt(E::INFINITY);
        inside.select((E::ln_or_zero(s, t) + one) - x, V::<S, E>::splat(s, E::NAN)) * g
    }
}
value! {
    /// ∂/∂t of [`KlOfLog`] times g.
    KlOfLogTarget, 3, |s, [x, t, g]| exp::<S, E>(s, t) * ((t - x) + number::<S, E>(s, 1.0)) * g
}
value! {
    /// 1 where x or t is not between 0 and 1.
    Outside, 2, |s, [x, t]| {
        let (zero, one) = (number::<S, E>(s, 0.0), number::<S, E>(s, 1.0));
        let inside = x.simd_ge(zero) & x.simd_le(one) & t.simd_ge(zero) & t.simd_le(one);
        inside.select(zero, one)
    }
}
value! {
    /// −w·(t·ln x + (1 − t)·ln(1 − x)), logarithms not below −100; NaN unless x and t are between 0 and 1.
    Binary, 3, |s, [x, t, w]| {
        let (one, least) = (number::<S, E>(s, 1.0), number::<S, E>(s, -100.0));
        let (on, off) = (E::ln(s, x), ln_1m::<S, E>(s, x));
        let (on, off) = (on.simd_lt(least).select(least, on), off.simd_lt(least).select(least, off));
        // Of x beyond its bounds one of the logarithms is NaN.
        let inside = t.simd_ge(number::<S, E>(s, 0.0)) & t.simd_le(one);
        inside.select((t - one) * off - t * on, V::<S, E>::splat(s, E::NAN)) * w
    }
}
value! {
    /// ∂/∂x of [`Binary`] times g, with torch's floor of 1e-12 under x·(1 − x).
    BinaryInput, 4, |s, [x, t, w, g]| {
        let floor = number::<S, E>(s, 1e-12);
        let product = (number::<S, E>(s, 1.0) - x) * x;
        (x - t) / product.simd_lt(floor).select(floor, product) * w * g
    }
}
value! {
    /// ∂/∂t of [`Binary`] times g: its logarithms have no floor, as in torch.
    BinaryTarget, 4, |s, [x, _t, w, g]| (ln_1m::<S, E>(s, x) - E::ln(s, x)) * w * g
}
value! {
    /// w·(max(x, 0)·(1 − t) + max(−x, 0)·p·t + (1 + (p − 1)·t)·ln(1 + e^−|x|)): torch's (1 − t)·x + … without its
    /// cancellation where x is far below 0; x = −∞ is NaN, as there.
    Logistic, 4, |s, [x, t, w, p]| {
        let (zero, one) = (number::<S, E>(s, 0.0), number::<S, E>(s, 1.0));
        let negative = x.simd_lt(zero);
        let lost = zero * negative.select(x, zero);
        let soft = ln_1p_exp_of_minus::<S, E>(s, x);
        // One product, so that no infinite weight meets a 0.
        let far = x * negative.select(-(p * t), one - t) + lost;
        (far + ((one - t) + p * t) * soft) * w
    }
}
value! {
    /// ∂/∂x of [`Logistic`] times g: (1 − t)·σ(x) − p·t·σ(−x).
    LogisticInput, 5, |s, [x, t, w, p, g]| {
        let one = number::<S, E>(s, 1.0);
        let e = exp::<S, E>(s, -x.abs());
        let large = one / (one + e);
        let small = e * large;
        let negative = x.simd_lt(number::<S, E>(s, 0.0));
        let (of_x, of_minus_x) = (negative.select(small, large), negative.select(large, small));
        ((one - t) * of_x - p * t * of_minus_x) * w * g
    }
}
value! {
    /// ∂/∂t of [`Logistic`] times g: (p − 1)·ln(1 + e^−|x|) + p·max(−x, 0) − max(x, 0), which is −x of p = 1.
    LogisticTarget, 5, |s, [x, _t, w, p, g]| {
        let one = number::<S, E>(s, 1.0);
        let soft = ln_1p_exp_of_minus::<S, E>(s, x);
        let negative = x.simd_lt(number::<S, E>(s, 0.0));
        ((p - one) * soft - x * negative.select(p, one)) * w * g
    }
}
value! {
    /// g·y.
    Product, 2, |_s, [g, y]| g * y
}

/// ∂/∂x of y = softmax(x) times g: y·(g − Σ g·y). The frame: the sum, and 1 or −1 for softmin.
#[derive(Clone, Copy)]
pub struct SoftmaxInput;

impl<E: Math> Emit<E, 2, 2> for SoftmaxInput {
    #[inline(always)]
    fn emit<S: Simd>(self, _: S, at: &[V<S, E>; 2], [g, y]: [V<S, E>; 2]) -> V<S, E> {
        y * (g - at[0]) * at[1]
    }
}

/// ∂/∂x of y = log-softmax(x) times g: g − e^y·Σ g. The frame: the sum.
#[derive(Clone, Copy)]
pub struct LogSoftmaxInput;

impl<E: Math> Emit<E, 2, 1> for LogSoftmaxInput {
    #[inline(always)]
    fn emit<S: Simd>(self, s: S, at: &[V<S, E>; 1], [g, y]: [V<S, E>; 2]) -> V<S, E> {
        fma(-exp::<S, E>(s, y), at[0], g)
    }
}

#[inline(always)]
fn number<S: Simd, E: Math>(s: S, x: f64) -> V<S, E> {
    V::<S, E>::splat(s, E::from_f64(x))
}

/// ln(1 − x) for 0 ≤ x ≤ 1: what the subtraction rounds off is put back.
#[inline(always)]
fn ln_1m<S: Simd, E: Math>(s: S, x: V<S, E>) -> V<S, E> {
    let one = number::<S, E>(s, 1.0);
    let u = one - x;
    let lost = (one - u) - x;
    let more = u.simd_gt(number::<S, E>(s, 0.0)).select(lost / u, number::<S, E>(s, 0.0));
    E::ln(s, u) + more
}

/// ln(1 + e^−|x|), likewise.
#[inline(always)]
fn ln_1p_exp_of_minus<S: Simd, E: Math>(s: S, x: V<S, E>) -> V<S, E> {
    let one = number::<S, E>(s, 1.0);
    let e = exp::<S, E>(s, -x.abs());
    let u = one + e;
    E::ln(s, u) + (e - (u - one)) / u
}

/// eˣ over all floats. Below 0 it is formed 2^64 times as large, so that it underflows gradually.
#[inline(always)]
fn exp<S: Simd, E: Math>(s: S, x: V<S, E>) -> V<S, E> {
    let splat = |x: f64| V::<S, E>::splat(s, E::from_f64(x));
    let bias = E::EXP_BIAS.to_f64();
    let lifted = x.simd_lt(splat(0.0));
    let up = lifted.select(splat(64.0), splat(0.0));
    let (least, most) = (splat((-64.0 - bias) * std::f64::consts::LN_2), splat((bias + 1.0) * std::f64::consts::LN_2));
    let y = x.simd_lt(least).select(least, x);
    let y = y.simd_gt(most).select(most, y);
    let shift = splat(E::MAGIC.to_f64() + bias) + up;
    let t = fma(y, splat(E::LOG2_E.to_f64()), shift);
    let k = t - shift;
    let r = fma(k, splat(-E::LN2_HI.to_f64()), y);
    let r = fma(k, splat(-E::LN2_LO.to_f64()), r);
    E::exp_reduced(s, r) * E::pow2_of_magic(s, t) * lifted.select(splat(2f64.powi(-64)), splat(1.0))
}
