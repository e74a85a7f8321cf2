//! torch's KLDivLoss: t·(ln t − x) class by class, on rows as they are. Its sum can be negative; it is not KL.

use crate::math::Math;
use crate::rows::{Done, Emit, Measure, Part, Terms, add_parts, none};
use crate::simd::*;

/// t·(ln t − x), with 0·ln 0 = 0: t = 0 and x = −∞ give NaN, t < 0 gives NaN, as in torch.
#[derive(Clone, Copy)]
pub struct Target;

/// eᵗ·(t − x): t = −∞ gives NaN, as in torch.
#[derive(Clone, Copy)]
pub struct TargetLog;

/// The sum of [`Target`] over a row.
#[derive(Clone, Copy)]
pub struct TargetSum;

/// The sum of [`TargetLog`] over a row.
#[derive(Clone, Copy)]
pub struct TargetSumLog;

impl<E: Math> Emit<E, 2, 0> for Target {
    #[inline(always)]
    fn emit<S: Simd>(self, s: S, _: &[V<S, E>; 0], [x, t]: [V<S, E>; 2]) -> V<S, E> {
        t * (E::ln_or_zero(s, t) - x)
    }
}

impl<E: Math> Emit<E, 2, 0> for TargetLog {
    #[inline(always)]
    fn emit<S: Simd>(self, s: S, _: &[V<S, E>; 0], [x, t]: [V<S, E>; 2]) -> V<S, E> {
        exp::<S, E>(s, t) * (t - x)
    }
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

macro_rules! sum_of {
    ($sum:ty, $term:expr) => {
        impl<E: Math> Measure<E, 2, 0, 1, 1> for $sum {
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
                x: [V<S, E>; 2],
                [sum]: [V<S, E>; 1],
            ) -> Terms<S, E, 1> {
                ([sum + Emit::<E, 2, 0>::emit($term, s, at, x)], none::<S, E>(s))
            }

            #[inline(always)]
            fn merge<S: Simd>(self, _: S, a: Part<S, 0, 1>, b: Part<S, 0, 1>) -> Part<S, 0, 1> {
                add_parts(a, b)
            }

            #[inline(always)]
            fn finish<S: Simd>(self, s: S, p: Part<S, 0, 1>, _: bool, _: [W<S>; 1]) -> Done<S, 2, 0, 1> {
                let zero = W::splat(s, 0.0);
                Done { value: [p.sum[0].value(s)], mass: [zero; 2], again: zero.simd_gt(zero), hint: [] }
            }
        }
    };
}

sum_of!(TargetSum, Target);
sum_of!(TargetSumLog, TargetLog);
