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
    const EXACT: [bool; 3] = [false, true, true];

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
        // Before the scale may flush it to zero.
        let bad = p.simd_lt(zero);
        let p = p * at[0];
        let top = p.simd_eq(at[1]);
        let sums =
            [top.select(others, others + p), top.select(count + one, count), bad.select(negative + one, negative)];
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
        let over = right.select(ln_over_top(s, p.at[1], p.sum[0], count).value(s), nan);
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
    const EXACT: [bool; 2] = [false, true];

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
        let one = V::<S, E>::splat(s, E::from_f64(1.0));
        let x = x - at[0];
        let (e, _) = self.0.exp(s, at, x, None);
        let top = x.simd_eq(at[3]);
        ([top.select(others, others + e), top.select(count + one, count)], none::<S, E>(s))
    }

    #[inline(always)]
    fn merge<S: Simd>(self, s: S, a: Part<S, LOG, 2>, b: Part<S, LOG, 2>) -> Part<S, LOG, 2> {
        let j = self.0.join(s, [&a.at, &b.at], [a.sum[1], b.sum[1]]);
        let [others, count] = j.masses(s, [a.sum[0], b.sum[0]], [a.sum[1], b.sum[1]]);
        Part { at: j.at, sum: [others, count] }
    }

    #[inline(always)]
    fn finish<S: Simd>(self, s: S, p: Part<S, LOG, 2>, _: bool, _: [W<S>; 2]) -> Done<S, 1, LOG, 2> {
        let over = ln_over_top(s, self.0.top(s, &p.at), p.sum[0], p.sum[1].value(s)).value(s);
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

/// The maximum of a row, −∞ where it has no other number, and the frame that [`Exp`] has of it.
#[derive(Clone, Copy)]
pub struct Largest<E>(pub Scale<E>);

impl<E: Math> Measure<E, 1, 1, 0, { 1 + LOG }> for Largest<E> {
    const LOOKS: bool = true;

    #[inline(always)]
    fn look<S: Simd>(self, [seen]: [V<S, E>; 1], [x]: [V<S, E>; 1]) -> [V<S, E>; 1] {
        [seen.max(x)]
    }

    #[inline(always)]
    fn frame<S: Simd>(self, _: S, seen: [W<S>; 1], _: [W<S>; 1]) -> [W<S>; 1] {
        seen
    }

    #[inline(always)]
    fn term<S: Simd, const SECOND: bool, const CAREFUL: bool>(
        self,
        s: S,
        _: &[V<S, E>; 1],
        _: [V<S, E>; 1],
        _: [V<S, E>; 0],
    ) -> Terms<S, E, 0> {
        ([], none::<S, E>(s))
    }

    #[inline(always)]
    fn merge<S: Simd>(self, _: S, a: Part<S, 1, 0>, b: Part<S, 1, 0>) -> Part<S, 1, 0> {
        Part { at: [a.at[0].max(b.at[0])], sum: [] }
    }

    #[inline(always)]
    fn finish<S: Simd>(self, s: S, p: Part<S, 1, 0>, _: bool, _: [W<S>; 1 + LOG]) -> Done<S, 1, 1, { 1 + LOG }> {
        let (zero, frame) = (W::splat(s, 0.0), self.0.frame(s, p.at[0]));
        let value = array(|i| if i == 0 { p.at[0] } else { frame[i - 1] });
        Done { value, mass: [zero], again: zero.simd_gt(zero), hint: [zero] }
    }
}

/// e^{x/T} in the units of the frame of the row's maximum.
#[derive(Clone, Copy)]
pub struct Exp<E>(pub Scale<E>);

impl<E: Math> Emit<E, 1, LOG> for Exp<E> {
    #[inline(always)]
    fn emit<S: Simd>(self, s: S, at: &[V<S, E>; LOG], [x]: [V<S, E>; 1]) -> V<S, E> {
        self.0.exp(s, at, x - at[0], None).0
    }
}

/// The sum of a row of exponentials in units of one frame, and, where `LN`, the logarithm of what it is of their largest. NaN
/// where the row has no mass.
#[derive(Clone, Copy)]
pub struct Exponentials<const LN: bool>;

impl<E: Math, const LN: bool> Measure<E, 1, 1, 2, 1> for Exponentials<LN> {
    const LOOKS: bool = true;
    const EXACT: [bool; 2] = [false, true];

    #[inline(always)]
    fn look<S: Simd>(self, [seen]: [V<S, E>; 1], [e]: [V<S, E>; 1]) -> [V<S, E>; 1] {
        [seen.max(e)]
    }

    #[inline(always)]
    fn frame<S: Simd>(self, _: S, seen: [W<S>; 1], _: [W<S>; 1]) -> [W<S>; 1] {
        seen
    }

    #[inline(always)]
    fn term<S: Simd, const SECOND: bool, const CAREFUL: bool>(
        self,
        s: S,
        at: &[V<S, E>; 1],
        [e]: [V<S, E>; 1],
        [others, count]: [V<S, E>; 2],
    ) -> Terms<S, E, 2> {
        let (one, top) = (V::<S, E>::splat(s, E::from_f64(1.0)), e.simd_eq(at[0]));
        ([top.select(others, others + e), top.select(count + one, count)], none::<S, E>(s))
    }

    #[inline(always)]
    fn merge<S: Simd>(self, s: S, a: Part<S, 1, 2>, b: Part<S, 1, 2>) -> Part<S, 1, 2> {
        let (top, zero) = (a.at[0].max(b.at[0]), Sum::new(s, W::splat(s, 0.0)));
        let [a, b] = [a, b].map(|x| {
            let here = x.at[0].simd_eq(top);
            let others = x.sum[0].plus(x.sum[1].times(x.at[0]));
            [Sum::select(here, x.sum[0], others), Sum::select(here, x.sum[1], zero)]
        });
        Part { at: [top], sum: [a[0].plus(b[0]), a[1].plus(b[1])] }
    }

    #[inline(always)]
    fn finish<S: Simd>(self, s: S, p: Part<S, 1, 2>, _: bool, _: [W<S>; 1]) -> Done<S, 1, 1, 1> {
        let [others, count] = each(p.sum, |x| x.value(s));
        let (zero, nan) = (W::splat(s, 0.0), W::splat(s, f64::NAN));
        let total = count * p.at[0] + others;
        let right = total.simd_gt(zero) & total.simd_lt(f64::INFINITY);
        let over = if LN { ln_over_top(s, p.at[0], p.sum[0], count).value(s) } else { zero };
        Done {
            value: [right.select(over, nan)],
            mass: [right.select(total, nan)],
            again: zero.simd_gt(zero),
            hint: [zero],
        }
    }
}

/// A number times that of the row.
#[derive(Clone, Copy)]
pub struct Times;

impl<E: Math> Emit<E, 1, 1> for Times {
    #[inline(always)]
    fn emit<S: Simd>(self, _: S, at: &[V<S, E>; 1], [x]: [V<S, E>; 1]) -> V<S, E> {
        x * at[0]
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

/// Σ p·(lse(y) − y) of weights p = (a·t + b)·w against logits y, whatever the sign or the sum of the weights: torch's
/// cross entropy with targets given as probabilities, smoothed by (a, b), and with a weight a class where there are three
/// inputs. A class of weight 0 where y = −∞ is NaN, as there. Values: the sum, the maximum of y, what lse exceeds it by,
/// and Σ p.
///
/// Frame: the scale of p, then that of y. Sums: Σ p, s and k of y, Σ p·(y − max y).
#[derive(Clone, Copy)]
pub struct Expected<E, const I: usize> {
    /// That of the logits.
    pub scale: Scale<E>,
    /// What a target is multiplied by.
    pub keep: E,
    /// What is added to it.
    pub spread: E,
}

impl<E: Math, const I: usize> Expected<E, I> {
    #[inline(always)]
    fn weight<S: Simd>(self, s: S, x: [V<S, E>; I]) -> V<S, E> {
        let p = fma(x[1], V::<S, E>::splat(s, self.keep), V::<S, E>::splat(s, self.spread));
        if I > 2 { p * x[I - 1] } else { p }
    }
}

impl<E: Math, const I: usize> Measure<E, I, 5, 4, 4> for Expected<E, I> {
    const LOOKS: bool = true;
    const EXACT: [bool; 4] = [false, false, true, false];

    #[inline(always)]
    fn look<S: Simd>(self, mut seen: [V<S, E>; 5], x: [V<S, E>; I]) -> [V<S, E>; 5] {
        let s = x[0].token();
        (seen[0], seen[1]) = (seen[0].max(self.weight(s, x).abs()), seen[1].max(x[0]));
        seen
    }

    #[inline(always)]
    fn frame<S: Simd>(self, s: S, seen: [W<S>; 5], _: [W<S>; 5]) -> [W<S>; 5] {
        let y = self.scale.frame(s, seen[1]);
        [lin_frame::<S, E>(s, seen[0])[0], y[0], y[1], y[2], y[3]]
    }

    #[inline(always)]
    fn term<S: Simd, const SECOND: bool, const CAREFUL: bool>(
        self,
        s: S,
        at: &[V<S, E>; 5],
        x: [V<S, E>; I],
        [total, ys, yk, moment]: [V<S, E>; 4],
    ) -> Terms<S, E, 4> {
        let (zero, one) = (V::<S, E>::splat(s, E::ZERO), V::<S, E>::splat(s, E::from_f64(1.0)));
        let y = x[0] - at[1];
        let top = y.simd_eq(at[4]);
        let (e, _) = self.scale.exp(s, &at[1..], y, None);
        let p = self.weight(s, x) * at[0];
        let sums = [total + p, ys + top.select(zero, e), yk + top.select(one, zero), moment + p * (y - at[4])];
        (sums, none::<S, E>(s))
    }

    #[inline(always)]
    fn merge<S: Simd>(self, s: S, a: Part<S, 5, 4>, b: Part<S, 5, 4>) -> Part<S, 5, 4> {
        let j = self.scale.join(s, [&a.at[1..], &b.at[1..]], [a.sum[2], b.sum[2]]);
        let [ys, yk] = j.masses(s, [a.sum[1], b.sum[1]], [a.sum[2], b.sum[2]]);
        let scale = a.at[0].min(b.at[0]);
        let mut total = Sum::new(s, W::splat(s, 0.0));
        let mut moment = total;
        for (i, part) in [a, b].into_iter().enumerate() {
            let factor = scale / part.at[0];
            let mass = part.sum[0].times(factor);
            let finite = j.apart[i].abs().simd_lt(f64::INFINITY);
            let shift = finite.select(j.apart[i], W::splat(s, 0.0));
            total = total.plus(mass);
            moment = moment.plus(part.sum[3].times(factor)).plus(mass.times(shift));
        }
        Part { at: [scale, j.at[0], j.at[1], j.at[2], j.at[3]], sum: [total, ys, yk, moment] }
    }

    #[inline(always)]
    fn finish<S: Simd>(self, s: S, p: Part<S, 5, 4>, _: bool, _: [W<S>; 4]) -> Done<S, I, 5, 4> {
        let [total, _, yk, moment] = each(p.sum, |x| x.value(s));
        let (zero, nan) = (W::splat(s, 0.0), W::splat(s, f64::NAN));
        let y = &p.at[1..];
        let over = ln_over_top(s, self.scale.top(s, y), p.sum[1], yk).value(s);
        let max = over.simd_eq(over).select(y[0] + y[3], nan);
        Done {
            value: [fma(total, over, -(moment * self.scale.inv())) / p.at[0], max, over, total / p.at[0]],
            mass: [zero; I],
            again: zero.simd_gt(zero),
            hint: [zero; 5],
        }
    }
}

/// ∂/∂y of [`Expected`]: e^y·k − (a·t + b)·w, with k = g·Σ p/Σ e^y. The frame: that of the row's maximum, then k, a, b, the
/// last two times g.
#[derive(Clone, Copy)]
pub struct ExpectedInput<E>(pub Scale<E>);

impl<E: Math, const I: usize> Emit<E, I, 7> for ExpectedInput<E> {
    #[inline(always)]
    fn emit<S: Simd>(self, s: S, at: &[V<S, E>; 7], x: [V<S, E>; I]) -> V<S, E> {
        let (e, _) = self.0.exp(s, &at[..LOG], x[0] - at[0], None);
        let p = fma(x[1], at[5], at[6]);
        fma(e, at[4], if I > 2 { -p * x[I - 1] } else { -p })
    }
}

/// (lse(y) − y)·k, times w where there are two inputs: the gradient of [`Expected`] by its target. The frame: lse as head
/// and tail, and k.
#[derive(Clone, Copy)]
pub struct ExpectedTarget;

impl<E: Math, const I: usize> Emit<E, I, 3> for ExpectedTarget {
    #[inline(always)]
    fn emit<S: Simd>(self, _: S, at: &[V<S, E>; 3], x: [V<S, E>; I]) -> V<S, E> {
        let y = ((at[0] - x[0]) + at[1]) * at[2];
        if I > 1 { y * x[I - 1] } else { y }
    }
}
