//! H(p) = −Σ pᵢ ln pᵢ.
//!
//! With the largest mass p₀, k times, kept out of the sums, H = ln(P/p₀) + Σ′ p·ln(p₀/p)/P, where
//! ln(P/p₀) = ln k + ln(1 + R/(k·p₀)) and R is the sum of the others: no term is negative, so a peaked row, whose
//! entropy is tiny, loses nothing, and counts of any total need no second pass.

use super::cross_entropy::CrossEntropyLin;
use super::frame::{LIN, LOG, Scale, lin_frame, ln_over_top};
use crate::math::Math;
use crate::rows::{Done, Measure, Part, Terms, none};
use crate::simd::*;

/// Entropy of masses: the cross entropy of a row with itself, in bits too. Sums: p elsewhere than at
/// the largest, the number of those, Σ p·k and the rest as of [`CrossEntropyLin`]; its others are the same, or k·p₀, exact there too.
#[derive(Clone, Copy)]
pub struct EntropyLin;

/// The frame and the sums of the cross entropy of these rows with themselves.
#[inline(always)]
fn with_itself<S: Simd>(s: S, p: Part<S, LIN, 4>) -> Part<S, 3, 6> {
    let [rest, count, powers, logs] = p.sum;
    let top = Sum::new(s, p.at[1]).times(count.value(s));
    Part { at: [p.at[0], p.at[0], p.at[1]], sum: [top, rest, rest, count, powers, logs] }
}

impl<E: Math> Measure<E, 1, LIN, 4, 1> for EntropyLin {
    const LOOKS: bool = true;
    const CHAIN: usize = <CrossEntropyLin as Measure<E, 2, 3, 6, 1>>::CHAIN;
    const EXACT: [bool; 4] = [false, true, false, false];

    #[inline(always)]
    fn look<S: Simd>(self, seen: [V<S, E>; LIN], [p]: [V<S, E>; 1]) -> [V<S, E>; LIN] {
        [seen[0].max(p), seen[1]]
    }

    #[inline(always)]
    fn frame<S: Simd>(self, s: S, seen: [W<S>; LIN], _: [W<S>; LIN]) -> [W<S>; LIN] {
        lin_frame::<S, E>(s, seen[0])
    }

    #[inline(always)]
    fn term<S: Simd, const SECOND: bool, const CAREFUL: bool>(
        self,
        s: S,
        at: &[V<S, E>; LIN],
        [p]: [V<S, E>; 1],
        [others, count, powers, logs]: [V<S, E>; 4],
    ) -> Terms<S, E, 4> {
        let one = V::<S, E>::splat(s, E::from_f64(1.0));
        let (scale, raw) = (at[0], p);
        let p = raw * scale;
        let top = p.simd_eq(at[1]);
        let ([k, l], odd) = ln_term::<S, E, CAREFUL>(s, raw, scale, p);
        let sums = [
            top.select(others, others + p),
            top.select(count + one, count),
            top.select(powers, fma(p, k, powers)),
            top.select(logs, fma(p, l, logs)),
        ];
        (sums, odd)
    }

    #[inline(always)]
    fn merge<S: Simd>(self, s: S, a: Part<S, LIN, 4>, b: Part<S, LIN, 4>) -> Part<S, LIN, 4> {
        let both = CrossEntropyLin::join(s, with_itself(s, a), with_itself(s, b));
        let [_, rest, _, count, powers, logs] = both.sum;
        Part { at: [both.at[1], both.at[2]], sum: [rest, count, powers, logs] }
    }

    #[inline(always)]
    fn finish<S: Simd>(self, s: S, p: Part<S, LIN, 4>, _: bool, _: [W<S>; 1]) -> Done<S, 1, LIN, 1> {
        let (value, [_, mass]) = CrossEntropyLin::value(s, with_itself(s, p));
        let zero = W::splat(s, 0.0);
        Done { value: [value], mass: [mass], again: zero.simd_gt(zero), hint: [zero; LIN] }
    }
}

/// Entropy of e^{x/T}. Sums: s, k, Σ e^{(x−m)/T}·(x − m).
#[derive(Clone, Copy)]
pub struct EntropyLog<E>(pub Scale<E>);

impl<E: Math> Measure<E, 1, LOG, 3, 1> for EntropyLog<E> {
    const LOOKS: bool = true;
    const EXACT: [bool; 3] = [false, true, false];

    #[inline(always)]
    fn look<S: Simd>(self, seen: [V<S, E>; LOG], [x]: [V<S, E>; 1]) -> [V<S, E>; LOG] {
        [seen[0].max(x), seen[1], seen[2], seen[3]]
    }

    #[inline(always)]
    fn frame<S: Simd>(self, s: S, seen: [W<S>; LOG], _: [W<S>; LOG]) -> [W<S>; LOG] {
        self.0.frame(s, seen[0])
    }

    #[inline(always)]
    fn term<S: Simd, const SECOND: bool, const CAREFUL: bool>(
        self,
        s: S,
        at: &[V<S, E>; LOG],
        [x]: [V<S, E>; 1],
        [others, count, moment]: [V<S, E>; 3],
    ) -> Terms<S, E, 3> {
        let one = V::<S, E>::splat(s, E::from_f64(1.0));
        let x = x - at[0];
        let top = x.simd_eq(at[3]);
        let (e, x) = self.0.exp(s, at, x, None);
        let sums = [top.select(others, others + e), top.select(count + one, count), fma(e, x - at[3], moment)];
        (sums, none::<S, E>(s))
    }

    #[inline(always)]
    fn merge<S: Simd>(self, s: S, a: Part<S, LOG, 3>, b: Part<S, LOG, 3>) -> Part<S, LOG, 3> {
        let j = self.0.join(s, [&a.at, &b.at], [a.sum[1], b.sum[1]]);
        let [others, count] = j.masses(s, [a.sum[0], b.sum[0]], [a.sum[1], b.sum[1]]);
        let mass = [mass(s, self.0, &a.at, a.sum[0], a.sum[1]), mass(s, self.0, &b.at, b.sum[0], b.sum[1])];
        Part { at: j.at, sum: [others, count, j.moments(s, j.apart, [a.sum[2], b.sum[2]], mass)] }
    }

    #[inline(always)]
    fn finish<S: Simd>(self, s: S, p: Part<S, LOG, 3>, _: bool, _: [W<S>; 1]) -> Done<S, 1, LOG, 1> {
        let [others, count, moment] = each(p.sum, |x| x.value(s));
        let zero = W::splat(s, 0.0);
        let top = self.0.top(s, &p.at);
        let over = ln_over_top(s, top, p.sum[0], count).value(s);
        let below = -(moment * self.0.inv()) / fma(count, top, others);
        Done {
            value: [over + below],
            mass: [fma(p.at[0] + p.at[3], W::splat(s, self.0.inv()), over)],
            again: zero.simd_gt(zero),
            hint: [zero; LOG],
        }
    }
}

/// The mass of a part in its own units.
#[inline(always)]
pub(super) fn mass<S: Simd, E: Math>(s: S, scale: Scale<E>, at: &[W<S>], others: Sum<S>, count: Sum<S>) -> W<S> {
    fma(count.value(s), scale.top(s, at), others.value(s))
}

/// ln of a scaled mass, as [`Math::ln_apart`], with ln 0 := 0; a plain one reports what is not positive and normal. What is not
/// finite shows in the sums of the masses.
#[inline(always)]
pub(super) fn ln_term<S: Simd, E: Math, const CAREFUL: bool>(
    s: S,
    raw: V<S, E>,
    scale: V<S, E>,
    scaled: V<S, E>,
) -> ([V<S, E>; 2], M<S, E>) {
    let odd = E::is_low(s, scaled);
    (if CAREFUL { E::ln_apart_scaled(s, raw, scale) } else { E::ln_apart(s, scaled) }, odd)
}
