//! Normalisers, and what needs nothing else: negative log-likelihood, softmax, log-softmax.

use super::frame::{LIN, LOG, Scale, join_lin, lin_frame, ln_over_top};
use crate::math::{Math, wide};
use crate::rows::{Done, Emit, Measure, Part, Terms, none};
use crate::simd::*;

/// The sum of a row of masses: its largest mass p₀ and ln(P/p₀).
///
/// Of a class y, −ln(p_y/P) = ln(P/p₀) + ln(p₀/p_y): two terms of one sign.
#[derive(Clone, Copy)]
pub struct Total;

impl<E: Math> Measure<E, 1, LIN, 3, 2> for Total {
    const LOOKS: bool = true;

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
        [others, count, negative]: [V<S, E>; 3],
    ) -> Terms<S, E, 3> {
        let (zero, one) = (V::<S, E>::splat(s, E::from_f64(0.0)), V::<S, E>::splat(s, E::from_f64(1.0)));
        let p = p * at[0];
        let top = p.simd_eq(at[1]);
        let bad = p.simd_lt(zero);
        let sums = [others + top.select(zero, p), count + top.select(one, zero), negative + bad.select(one, zero)];
        (sums, none::<S, E>(s))
    }

    #[inline(always)]
    fn merge<S: Simd>(self, s: S, a: Part<S, LIN, 3>, b: Part<S, LIN, 3>) -> Part<S, LIN, 3> {
        let j = join_lin(s, &a.at, &b.at);
        let [others, count] = j.masses(s, [a.sum[0], b.sum[0]], [a.sum[1], b.sum[1]]);
        Part { at: j.at, sum: [others, count, a.sum[2].plus(b.sum[2])] }
    }

    #[inline(always)]
    fn finish<S: Simd>(self, s: S, p: Part<S, LIN, 3>, _: bool, _: [W<S>; 2]) -> Done<S, 1, LIN, 2> {
        let [others, count, negative] = each(p.sum, |x| x.value(s));
        let (zero, nan) = (W::splat(s, 0.0), W::splat(s, f64::NAN));
        let total = count * p.at[1] + others;
        let right = total.simd_gt(zero) & negative.simd_eq(zero);
        let over = right.select(ln_over_top(s, p.at[1], others, count), nan);
        Done {
            // NaN in both where there is none, so that neither passes for a value.
            value: [over.simd_eq(over).select(p.at[1] / p.at[0], nan), over],
            mass: [total / p.at[0]],
            again: zero.simd_gt(zero),
            hint: [zero; LIN],
        }
    }
}

/// The log-sum-exp of a row of logarithms, as its maximum m and what it exceeds it by:
/// lse = m/T + ln k + ln(1 + s/k), with k classes at the maximum and s the sum of the others' e^{(x−m)/T}.
#[derive(Clone, Copy)]
pub struct LogSumExp<E>(pub Scale<E>);

impl<E: Math> Measure<E, 1, LOG, 2, 2> for LogSumExp<E> {
    const LOOKS: bool = true;

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
        [others, count]: [V<S, E>; 2],
    ) -> Terms<S, E, 2> {
        let (zero, one) = (V::<S, E>::splat(s, E::from_f64(0.0)), V::<S, E>::splat(s, E::from_f64(1.0)));
        let x = x - at[0];
        let (e, _) = self.0.exp(s, at, x, None);
        let top = x.simd_eq(at[3]);
        ([others + top.select(zero, e), count + top.select(one, zero)], none::<S, E>(s))
    }

    #[inline(always)]
    fn merge<S: Simd>(self, s: S, a: Part<S, LOG, 2>, b: Part<S, LOG, 2>) -> Part<S, LOG, 2> {
        let j = self.0.join(s, [&a.at, &b.at], [a.sum[1], b.sum[1]]);
        let [others, count] = j.masses(s, [a.sum[0], b.sum[0]], [a.sum[1], b.sum[1]]);
        Part { at: j.at, sum: [others, count] }
    }

    #[inline(always)]
    fn finish<S: Simd>(self, s: S, p: Part<S, LOG, 2>, _: bool, _: [W<S>; 2]) -> Done<S, 1, LOG, 2> {
        let [others, count] = each(p.sum, |x| x.value(s));
        let over = ln_over_top(s, self.0.top(s, &p.at), others, count);
        let max = over.simd_eq(over).select(p.at[0] + p.at[3], W::splat(s, f64::NAN));
        let zero = W::splat(s, 0.0);
        Done {
            value: [max, over],
            mass: [fma(max, W::splat(s, self.0.inv()), over)],
            again: zero.simd_gt(zero),
            hint: [zero; LOG],
        }
    }
}

/// (x − m)/T − ln Σ e^{(x−m)/T}: two terms of one sign, the difference x − m exact. The frame: m, head and tail of
/// the logarithm.
#[derive(Clone, Copy)]
pub struct LogSoftmax<E>(pub Scale<E>);

impl<E: Math> LogSoftmax<E> {
    /// The frame of a row from the values of [`LogSumExp`].
    pub fn frame(self, [max, over]: [f64; 2]) -> [f64; 3] {
        let head = E::from_f64(over).to_f64();
        [if over.is_nan() { f64::NAN } else { max }, head, if head.is_finite() { over - head } else { 0.0 }]
    }
}

impl<E: Math> Emit<E, 1, 3> for LogSoftmax<E> {
    #[inline(always)]
    fn emit<S: Simd>(self, s: S, at: &[V<S, E>; 3], [x]: [V<S, E>; 1]) -> V<S, E> {
        let (h, l) = two_diff(x, at[0]);
        let [inv, _] = self.0.inverse(s);
        let l = h.simd_gt(E::NEG_INFINITY).select(l, V::<S, E>::splat(s, E::from_f64(0.0)));
        // Where h·(1/T) rounds, its error joins the small terms.
        let q = h * inv;
        let e = q.abs().simd_lt(E::from_f64(1e30)).select(fma(h, inv, -q), V::<S, E>::splat(s, E::from_f64(0.0)));
        (q - at[1]) + (fma(l, inv, e) - at[2])
    }
}

/// e^{x/T}/Σ e^{x/T}. The frame: that of the row's maximum, and the reciprocal of the sum in its units.
#[derive(Clone, Copy)]
pub struct Softmax<E>(pub Scale<E>);

impl<E: Math> Softmax<E> {
    /// The frames of rows from the values of [`LogSumExp`], 8 at a time.
    pub fn frames(self, level: Level, max: [f64; 8], over: [f64; 8]) -> [[f64; 8]; LOG + 1] {
        dispatch!(level, s => {
            let (max, over) = (W::load_array(s, max), W::load_array(s, over));
            let at = self.0.frame(s, max);
            let sum = wide::exp(s, over) * self.0.top(s, &at);
            let inverse = W::splat(s, 1.0) / sum;
            [at[0], at[1], at[2], at[3], inverse].map(|w| w.to_array())
        })
    }
}

impl<E: Math> Emit<E, 1, 5> for Softmax<E> {
    #[inline(always)]
    fn emit<S: Simd>(self, s: S, at: &[V<S, E>; 5], [x]: [V<S, E>; 1]) -> V<S, E> {
        let (e, _) = self.0.exp(s, &at[..LOG], x - at[0], None);
        e * at[4]
    }
}
