//! H(p, q) = −Σ pᵢ ln qᵢ, in the form that makes H(p, p) equal H(p) in bits: everything is referred to the largest
//! q₀, as in [`super::entropy`]. A class with p = 0 adds nothing, whatever q; p > 0 where q = 0 makes it +∞.

use super::entropy::{ln_term, mass};
use super::frame::{Scale, in_range, join_lin, lin_frame, ln_over_top};
use crate::math::{Math, wide};
use crate::rows::{Done, Measure, Part, Terms};
use crate::simd::*;

/// Cross entropy of masses: ln(Q/q₀) + Σ_{q≠q₀} p·ln(q₀/q)/P.
///
/// Frame: the scale of p, the scale of q, q₀ scaled. Sums: p where q = q₀, p elsewhere, q elsewhere, the number of
/// q₀, Σ_{q≠q₀} p ln q as Σ p·k and the rest, ln q being k ln 2 + l (see `ln_apart` in `math`).
#[derive(Clone, Copy)]
pub struct CrossEntropyLin;

impl CrossEntropyLin {
    /// Two parts as one.
    #[inline(always)]
    pub(super) fn join<S: Simd>(s: S, a: Part<S, 3, 6>, b: Part<S, 3, 6>) -> Part<S, 3, 6> {
        let j = join_lin(s, &a.at[1..], &b.at[1..]);
        let zero = W::splat(s, 0.0);
        let scale = a.at[0].min(b.at[0]);
        let mut sum = [Sum::new(s, zero); 6];
        // What is outside both maxima comes first, of p and of q in one order: of a row with itself they are the same in bits.
        sum[1] = a.sum[1].times(scale / a.at[0]).plus(b.sum[1].times(scale / b.at[0]));
        sum[2] = j.scaled([a.sum[2], b.sum[2]]);
        for (i, part) in [a, b].into_iter().enumerate() {
            let factor = scale / part.at[0];
            let [_, rest, _, _, powers, logs] = each(part.sum, |x| x.times(factor));
            let (stays, count) = (j.apart[i].simd_eq(zero), part.sum[3].value(s));
            let [kept, lost] =
                [[1.0, 0.0], [0.0, 1.0]].map(|[yes, no]| stays.select(W::splat(s, yes), W::splat(s, no)));
            let top = part.sum[0].normalised().times(factor);
            let demoted = top.times(lost);
            sum[0] = sum[0].plus(top.times(kept));
            sum[1] = sum[1].plus(demoted);
            sum[2] = sum[2].plus(Sum::new(s, part.at[2]).times(count).times(j.factor[i]).times(lost));
            sum[3] = sum[3].plus(Sum::new(s, stays.select(count, zero)));
            // A part without mass in q has had no finite logarithm to shift.
            let present = part.at[2].simd_gt(zero);
            // Of totals 1e308 apart the factor underflows, not its logarithm.
            let shift = wide::ln(s, j.at[0]) - wide::ln(s, part.at[1]);
            let shift = j.factor[i].simd_ge(f64::MIN_POSITIVE).select(wide::ln(s, j.factor[i]), shift);
            let shift = present.select(shift, zero);
            let ln_top = present.select(wide::ln(s, part.at[2]) + shift, W::splat(s, f64::NEG_INFINITY));
            let pushed = demoted.hi.simd_gt(zero).select(ln_top, zero);
            sum[4] = sum[4].plus(powers);
            sum[5] = sum[5].plus(logs).plus(rest.times(shift)).plus(demoted.times(pushed));
        }
        Part { at: [scale, j.at[0], j.at[1]], sum }
    }

    /// The values, and the masses of both rows.
    #[inline(always)]
    pub(super) fn value<S: Simd>(s: S, part: Part<S, 3, 6>) -> (W<S>, [W<S>; 2]) {
        let [p_top, p_rest, q_rest, count, powers, logs] = part.sum;
        let [scale_p, scale_q, top] = part.at;
        let zero = W::splat(s, 0.0);
        let (total, count) = (p_top.normalised().plus(p_rest), count.value(s));
        let over = ln_over_top(s, top, q_rest, count);
        let ln_top = wide::ln_parts(s, top);
        let [high, low] = [f64::LN2_HI, f64::LN2_LO].map(|x| W::splat(s, x));
        let moment = powers.times(high).plus(powers.times(low)).plus(logs);
        let less = p_rest.times(ln_top.hi).plus(p_rest.times(ln_top.lo)).plus(moment.negated());
        let below = less.over(total);
        // Not negative; where it rounds to less than 0 it is 0.
        let below = Sum::select(below.hi.simd_lt(zero), Sum::new(s, zero), below);
        let total = total.value(s);
        let usual = total.simd_gt(zero) & total.simd_lt(f64::INFINITY) & in_range(s, top);
        let value = usual.select(over.plus(below).value(s), W::splat(s, f64::NAN));
        (value, [total / scale_p, fma(count, top, q_rest.value(s)) / scale_q])
    }
}

/// Sums with classes of these masses more, in the units of the frame: where q is the largest (`top`) and elsewhere, where
/// `weight`·(k ln 2 + l) is added too.
#[inline(always)]
fn added<S: Simd, E: Math>(
    s: S,
    top: M<S, E>,
    [p, q]: [V<S, E>; 2],
    [weight, k, l]: [V<S, E>; 3],
    [p_top, p_rest, q_rest, count, powers, logs]: [V<S, E>; 6],
) -> [V<S, E>; 6] {
    let one = V::<S, E>::splat(s, E::from_f64(1.0));
    [
        top.select(p_top + p, p_top),
        top.select(p_rest, p_rest + p),
        top.select(q_rest, q_rest + q),
        top.select(count + one, count),
        top.select(powers, fma(weight, k, powers)),
        top.select(logs, fma(weight, l, logs)),
    ]
}

impl<E: Math> Measure<E, 2, 3, 6, 1> for CrossEntropyLin {
    const LOOKS: bool = true;
    const CHAIN: usize = if E::LANES == 16 { 1 } else { 2 };
    const EXACT: [bool; 6] = [false, false, false, true, false, false];

    #[inline(always)]
    fn look<S: Simd>(self, seen: [V<S, E>; 3], [p, q]: [V<S, E>; 2]) -> [V<S, E>; 3] {
        [seen[0].max(p), seen[1].max(q), seen[2]]
    }

    #[inline(always)]
    fn frame<S: Simd>(self, s: S, seen: [W<S>; 3], _: [W<S>; 3]) -> [W<S>; 3] {
        let [scale_q, top] = lin_frame::<S, E>(s, seen[1]);
        [lin_frame::<S, E>(s, seen[0])[0], scale_q, top]
    }

    #[inline(always)]
    fn term<S: Simd, const SECOND: bool, const CAREFUL: bool>(
        self,
        s: S,
        at: &[V<S, E>; 3],
        [p, q]: [V<S, E>; 2],
        sums: [V<S, E>; 6],
    ) -> Terms<S, E, 6> {
        let splat = |x: E| V::<S, E>::splat(s, x);
        let zero = splat(E::ZERO);
        let (x, y) = (p * at[0], q * at[1]);
        let mut top = y.simd_eq(at[2]);
        let ([k, mut l], odd) = ln_term::<S, E, CAREFUL>(s, q, at[1], y);
        let odd = odd | !p.simd_ge(splat(E::TINY));
        if CAREFUL {
            // Support is decided on q itself: what the scale has flushed to zero still has a logarithm.
            l = p.simd_eq(zero).select(zero, l);
            l = (q.simd_eq(zero) & p.simd_gt(zero)).select(splat(E::NEG_INFINITY), l);
            let wrong = p.simd_lt(zero) | q.simd_lt(zero) | !q.simd_eq(q);
            l = wrong.select(splat(E::NAN), l);
            top &= !wrong;
        }
        (added::<S, E>(s, top, [x, y], [x, k, l], sums), odd)
    }

    #[inline(always)]
    fn merge<S: Simd>(self, s: S, a: Part<S, 3, 6>, b: Part<S, 3, 6>) -> Part<S, 3, 6> {
        Self::join(s, a, b)
    }

    #[inline(always)]
    fn finish<S: Simd>(self, s: S, p: Part<S, 3, 6>, _: bool, _: [W<S>; 1]) -> Done<S, 2, 3, 1> {
        let (value, mass) = Self::value(s, p);
        let zero = W::splat(s, 0.0);
        Done { value: [value], mass, again: zero.simd_gt(zero), hint: [zero; 3] }
    }
}

/// Cross entropy of e^{x/T} and e^{y/U}: lse(y) − max y plus the mean distance of y below its maximum.
///
/// Frame: that of x, then that of y. Sums: s and k of x, s and k of y, Σ e^x·(y − max y).
#[derive(Clone, Copy)]
pub struct CrossEntropyLog<E>(pub Scale<E>, pub Scale<E>);

impl<E: Math> Measure<E, 2, 8, 5, 1> for CrossEntropyLog<E> {
    const LOOKS: bool = true;
    const EXACT: [bool; 5] = [false, true, false, true, false];

    #[inline(always)]
    fn look<S: Simd>(self, mut seen: [V<S, E>; 8], [x, y]: [V<S, E>; 2]) -> [V<S, E>; 8] {
        (seen[0], seen[1]) = (seen[0].max(x), seen[1].max(y));
        seen
    }

    #[inline(always)]
    fn frame<S: Simd>(self, s: S, seen: [W<S>; 8], _: [W<S>; 8]) -> [W<S>; 8] {
        let (x, y) = (self.0.frame(s, seen[0]), self.1.frame(s, seen[1]));
        [x[0], x[1], x[2], x[3], y[0], y[1], y[2], y[3]]
    }

    #[inline(always)]
    fn term<S: Simd, const SECOND: bool, const CAREFUL: bool>(
        self,
        s: S,
        at: &[V<S, E>; 8],
        [x, y]: [V<S, E>; 2],
        [xs, xk, ys, yk, moment]: [V<S, E>; 5],
    ) -> Terms<S, E, 5> {
        let one = V::<S, E>::splat(s, E::from_f64(1.0));
        let (u, v) = (x - at[0], y - at[4]);
        let (x_top, y_top) = (u.simd_eq(at[3]), v.simd_eq(at[7]));
        let (e, _) = self.0.exp(s, &at[..4], u, None);
        let (f, _) = self.1.exp(s, &at[4..], v, None);
        let (absent, outside) = (x.simd_eq(E::NEG_INFINITY), y.simd_eq(E::NEG_INFINITY));
        // Below the maximum itself: less the base, a class far below it may already be rounded.
        let below = y - (at[4] + at[7]);
        let (moment, odd) = expected::<S, E, CAREFUL>(s, e, absent, outside, below, moment);
        let sums = [
            x_top.select(xs, xs + e),
            x_top.select(xk + one, xk),
            y_top.select(ys, ys + f),
            y_top.select(yk + one, yk),
            moment,
        ];
        (sums, odd)
    }

    #[inline(always)]
    fn merge<S: Simd>(self, s: S, a: Part<S, 8, 5>, b: Part<S, 8, 5>) -> Part<S, 8, 5> {
        let jx = self.0.join(s, [&a.at[..4], &b.at[..4]], [a.sum[1], b.sum[1]]);
        let jy = self.1.join(s, [&a.at[4..], &b.at[4..]], [a.sum[3], b.sum[3]]);
        let [xs, xk] = jx.masses(s, [a.sum[0], b.sum[0]], [a.sum[1], b.sum[1]]);
        let [ys, yk] = jy.masses(s, [a.sum[2], b.sum[2]], [a.sum[3], b.sum[3]]);
        let masses = each([&a, &b], |p| mass(s, self.0, &p.at[..4], p.sum[0], p.sum[1]));
        let moment = jx.moments(s, jy.apart, [a.sum[4], b.sum[4]], masses);
        let (x, y) = (jx.at, jy.at);
        Part { at: [x[0], x[1], x[2], x[3], y[0], y[1], y[2], y[3]], sum: [xs, xk, ys, yk, moment] }
    }

    #[inline(always)]
    fn finish<S: Simd>(self, s: S, p: Part<S, 8, 5>, _: bool, _: [W<S>; 1]) -> Done<S, 2, 8, 1> {
        let [xs, xk, _, yk, moment] = each(p.sum, |x| x.value(s));
        let zero = W::splat(s, 0.0);
        let (x, y) = (&p.at[..4], &p.at[4..]);
        let (x_top, y_top) = (self.0.top(s, x), self.1.top(s, y));
        let x_over = ln_over_top(s, x_top, p.sum[0], xk).value(s);
        let over = ln_over_top(s, y_top, p.sum[2], yk).value(s);
        let below = -(moment * self.1.inv()) / fma(xk, x_top, xs);
        let value = x_over.simd_eq(x_over).select(over + below, W::splat(s, f64::NAN));
        Done {
            value: [value],
            mass: [
                fma(x[0] + x[3], W::splat(s, self.0.inv()), x_over),
                fma(y[0] + y[3], W::splat(s, self.1.inv()), over),
            ],
            again: zero.simd_gt(zero),
            hint: [zero; 8],
        }
    }
}

/// Cross entropy of e^{x/T} against masses q: [`CrossEntropyLin`] of the former as masses.
///
/// Frame: base, shift and floor of x, the scale of q, q₀ scaled. Sums: as there.
#[derive(Clone, Copy)]
pub struct CrossEntropyLogLin<E>(pub Scale<E>);

impl<E: Math> Measure<E, 2, 5, 6, 1> for CrossEntropyLogLin<E> {
    const LOOKS: bool = true;
    const EXACT: [bool; 6] = [false, false, false, true, false, false];

    #[inline(always)]
    fn look<S: Simd>(self, mut seen: [V<S, E>; 5], [x, q]: [V<S, E>; 2]) -> [V<S, E>; 5] {
        (seen[0], seen[1]) = (seen[0].max(x), seen[1].max(q));
        seen
    }

    #[inline(always)]
    fn frame<S: Simd>(self, s: S, seen: [W<S>; 5], _: [W<S>; 5]) -> [W<S>; 5] {
        let [base, shift, floor, _] = self.0.frame(s, seen[0]);
        let [scale, top] = lin_frame::<S, E>(s, seen[1]);
        [base, shift, floor, scale, top]
    }

    #[inline(always)]
    fn term<S: Simd, const SECOND: bool, const CAREFUL: bool>(
        self,
        s: S,
        at: &[V<S, E>; 5],
        [x, q]: [V<S, E>; 2],
        sums: [V<S, E>; 6],
    ) -> Terms<S, E, 6> {
        let splat = |x: E| V::<S, E>::splat(s, x);
        let (zero, one) = (splat(E::ZERO), splat(E::from_f64(1.0)));
        let (e, _) = self.0.exp(s, &at[..3], x - at[0], None);
        let y = q * at[3];
        let mut top = y.simd_eq(at[4]);
        let ([k, mut l], odd) = ln_term::<S, E, CAREFUL>(s, q, at[3], y);
        let mut weight = e;
        if CAREFUL {
            let absent = x.simd_eq(E::NEG_INFINITY);
            // Support is decided on x itself: what underflows has it.
            let outside = q.simd_eq(zero) & !absent;
            weight = outside.select(one, e);
            l = absent.select(zero, outside.select(splat(E::NEG_INFINITY), l));
            let wrong = q.simd_lt(zero) | !q.simd_eq(q);
            l = wrong.select(splat(E::NAN), l);
            top &= !wrong;
        }
        (added::<S, E>(s, top, [e, y], [weight, k, l], sums), odd)
    }

    #[inline(always)]
    fn merge<S: Simd>(self, s: S, a: Part<S, 5, 6>, b: Part<S, 5, 6>) -> Part<S, 5, 6> {
        let (zero, one) = (W::splat(s, 0.0), W::splat(s, 1.0));
        let none = each([&a, &b], |part| (part.sum[0].hi + part.sum[1].hi).simd_eq(zero));
        let heavier = self.0.factor(s, &b.at, &a.at).simd_gt(one);
        let swap = !none[1] & (none[0] | heavier);
        let at: [W<S>; 3] = array(|i| swap.select(b.at[i], a.at[i]));
        // In units of the frame kept; of a part without mass there is nothing to bring there.
        let mut lin = each([a, b], |part| Part { at: [one, part.at[3], part.at[4]], sum: part.sum });
        for (i, part) in [a, b].into_iter().enumerate() {
            lin[i].at[0] = none[i].select(one, one / self.0.factor(s, &part.at, &at));
        }
        let both = CrossEntropyLin::join(s, lin[0], lin[1]);
        Part { at: [at[0], at[1], at[2], both.at[1], both.at[2]], sum: both.sum }
    }

    #[inline(always)]
    fn finish<S: Simd>(self, s: S, p: Part<S, 5, 6>, _: bool, _: [W<S>; 1]) -> Done<S, 2, 5, 1> {
        let (zero, one) = (W::splat(s, 0.0), W::splat(s, 1.0));
        let (value, [total, mass]) = CrossEntropyLin::value(s, Part { at: [one, p.at[3], p.at[4]], sum: p.sum });
        Done { value: [value], mass: [self.0.ln(s, &p.at, total), mass], again: zero.simd_gt(zero), hint: [zero; 5] }
    }
}

/// moment + weight·below: nothing is added where the weight is absent, −∞ where only the other mass is; a plain one
/// reports an infinite distance.
#[inline(always)]
pub(super) fn expected<S: Simd, E: Math, const CAREFUL: bool>(
    s: S,
    weight: V<S, E>,
    absent: M<S, E>,
    outside: M<S, E>,
    below: V<S, E>,
    moment: V<S, E>,
) -> (V<S, E>, M<S, E>) {
    let odd = below.simd_eq(E::NEG_INFINITY);
    let mut sum = fma(weight, below, moment);
    if CAREFUL {
        let zero = V::<S, E>::splat(s, E::ZERO);
        // A distance that overflows between finite logarithms counts for nothing where the weight has underflowed.
        let nothing = absent | (weight.simd_eq(zero) & !outside);
        sum = odd.select(moment + nothing.select(zero, below), sum);
    }
    (sum, odd)
}

/// Cross entropy of masses p against e^{y/U}.
///
/// Frame: the scale of p, then that of y. Sums: P, s and k of y, Σ p·(y − max y).
#[derive(Clone, Copy)]
pub struct CrossEntropyMixed<E>(pub Scale<E>);

impl<E: Math> Measure<E, 2, 5, 4, 1> for CrossEntropyMixed<E> {
    const LOOKS: bool = true;
    const EXACT: [bool; 4] = [false, false, true, false];

    #[inline(always)]
    fn look<S: Simd>(self, mut seen: [V<S, E>; 5], [p, y]: [V<S, E>; 2]) -> [V<S, E>; 5] {
        (seen[0], seen[1]) = (seen[0].max(p), seen[1].max(y));
        seen
    }

    #[inline(always)]
    fn frame<S: Simd>(self, s: S, seen: [W<S>; 5], _: [W<S>; 5]) -> [W<S>; 5] {
        let y = self.0.frame(s, seen[1]);
        [lin_frame::<S, E>(s, seen[0])[0], y[0], y[1], y[2], y[3]]
    }

    #[inline(always)]
    fn term<S: Simd, const SECOND: bool, const CAREFUL: bool>(
        self,
        s: S,
        at: &[V<S, E>; 5],
        [p, y]: [V<S, E>; 2],
        [total, ys, yk, moment]: [V<S, E>; 4],
    ) -> Terms<S, E, 4> {
        let (zero, one) = (V::<S, E>::splat(s, E::ZERO), V::<S, E>::splat(s, E::from_f64(1.0)));
        let v = y - at[1];
        let top = v.simd_eq(at[4]);
        let (f, _) = self.0.exp(s, &at[1..], v, None);
        let x = p * at[0];
        let (outside, below) = (y.simd_eq(E::NEG_INFINITY), y - (at[1] + at[4]));
        let (sum, odd) = expected::<S, E, CAREFUL>(s, x, p.simd_eq(zero), outside, below, moment);
        let moment = p.simd_lt(zero).select(V::<S, E>::splat(s, E::NAN), sum);
        ([total + x, top.select(ys, ys + f), top.select(yk + one, yk), moment], odd)
    }

    #[inline(always)]
    fn merge<S: Simd>(self, s: S, a: Part<S, 5, 4>, b: Part<S, 5, 4>) -> Part<S, 5, 4> {
        let j = self.0.join(s, [&a.at[1..], &b.at[1..]], [a.sum[2], b.sum[2]]);
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
    fn finish<S: Simd>(self, s: S, p: Part<S, 5, 4>, _: bool, _: [W<S>; 1]) -> Done<S, 2, 5, 1> {
        let [total, _, yk, moment] = each(p.sum, |x| x.value(s));
        let zero = W::splat(s, 0.0);
        let y = &p.at[1..];
        let over = ln_over_top(s, self.0.top(s, y), p.sum[1], yk).value(s);
        let below = -(moment * self.0.inv());
        let usual = total.simd_gt(zero) & total.simd_lt(f64::INFINITY);
        let value = usual.select(over + below / total, W::splat(s, f64::NAN));
        Done {
            value: [value],
            mass: [total / p.at[0], fma(y[0] + y[3], W::splat(s, self.0.inv()), over)],
            again: zero.simd_gt(zero),
            hint: [zero; 5],
        }
    }
}
