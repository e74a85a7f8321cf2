//! JS(p, q) = ½KL(p‖m) + ½KL(q‖m) with m = (p + q)/2: M·½[(1 + t)(ln 2 − ln(1 + t)) − t·u] a class, t = e^−u.

use super::pair::Generator;
use super::slope::SlopeOf;
use crate::math::Math;
use crate::simd::*;

/// Jensen and Shannon's divergence.
#[derive(Clone, Copy)]
pub struct Js;

impl Generator for Js {
    const MOST: f64 = std::f64::consts::LN_2;
    const SHARES: f64 = 4.0;
    const NEAR: f64 = 0.5;
    const SLOPE: Option<SlopeOf> = Some(SlopeOf::Js);

    /// (1 + z)ln(1 + z) + (1 − z)ln(1 − z): a polynomial in z².
    #[inline(always)]
    fn of_share<S: Simd, E: Math>(s: S, _: V<S, E>, w: V<S, E>) -> V<S, E> {
        w * E::js_lin(s, w)
    }

    #[inline(always)]
    fn of_masses<S: Simd, E: Math>(s: S, low: V<S, E>, high: V<S, E>, sum: V<S, E>) -> V<S, E> {
        let two = V::<S, E>::splat(s, E::from_f64(2.0));
        (high * E::ln_or_zero(s, high / sum * two) + low * E::ln_or_zero(s, low / sum * two)) * two
    }

    #[inline(always)]
    fn near<S: Simd, E: Math>(s: S, u: V<S, E>, _: V<S, E>) -> V<S, E> {
        u * E::js_log_times(s, u)
    }

    #[inline(always)]
    fn far<S: Simd, E: Math>(s: S, u: V<S, E>, t: V<S, E>) -> V<S, E> {
        E::js_far(s, u, t)
    }

    #[inline(always)]
    fn excess<S: Simd>(_: S, off: W<S>) -> W<S> {
        off * off * 0.125
    }
}
