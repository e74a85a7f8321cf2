//! Divergences that are the same when the rows change places, in every bit: a pair of masses enters through its sum, the
//! magnitude of its difference and the larger of the two only. Both normalisers come first, so a row is passed over twice.
//!
//! What a pair adds is a [`Generator`]: one formula in the forms that do not cancel. The passes are here.

use super::frame::{Scale, gap, gap_anywhere, sums_in_range};
use super::slope::SlopeOf;
use crate::math::{Math, wide};
use crate::rows::{Done, Measure, Part, Terms, add_parts, none};
use crate::simd::*;

/// A divergence D(p, q) = Σ M·g(abs(ln p − ln q)), M being the larger mass of a class; g(0) = 0.
pub trait Generator: Copy + Sync {
    /// The largest value.
    const MOST: f64;
    /// How many times too large the sums of [`of_share`](Generator::of_share) and [`of_masses`](Generator::of_masses) are.
    const SHARES: f64;
    /// Up to which abs(z) [`of_share`](Generator::of_share) holds.
    const NEAR: f64;
    /// Its gradient, if it has one.
    const SLOPE: Option<SlopeOf> = None;

    /// What a pair of masses s(1 − z)/2 and s(1 + z)/2 adds, per s; w = z².
    fn of_share<S: Simd, E: Math>(s: S, z: V<S, E>, w: V<S, E>) -> V<S, E>;

    /// What a pair of masses and their sum add; for masses far apart, one of them possibly 0.
    fn of_masses<S: Simd, E: Math>(s: S, low: V<S, E>, high: V<S, E>, sum: V<S, E>) -> V<S, E>;

    /// g(u) for u < 1; `rise` is 1 − e^−u.
    fn near<S: Simd, E: Math>(s: S, u: V<S, E>, rise: V<S, E>) -> V<S, E>;

    /// g(u) for u ≥ 1, up to infinity; t = e^−u, from u = 60 on e^−60.
    fn far<S: Simd, E: Math>(s: S, u: V<S, E>, t: V<S, E>) -> V<S, E>;

    /// By how much the value is too large where the sums of the two rows, which should be equal, differ by this share.
    fn excess<S: Simd>(s: S, off: W<S>) -> W<S>;
}

/// The divergence of masses. With u = p and v = q brought to one total, s = u + v and z = (v − u)/s, a pair adds
/// s·[`of_share`](Generator::of_share)(z).
///
/// The row with the smaller total is scaled up, its factor in two parts, so that v − u is exact for close pairs.
/// Frame: the factor of p (head, tail), of q, the total. Sums: first P, Q, Σ(q − p); then the divergence and Σ(v − u), which
/// tells by how much the factor is off.
#[derive(Clone, Copy)]
pub struct PairLin<G>(pub G);

impl<E: Math, G: Generator> Measure<E, 2, 5, 3, 1> for PairLin<G> {
    const LOOKS: bool = false;
    const TWO_PASSES: bool = true;

    #[inline(always)]
    fn frame<S: Simd>(self, _: S, _: [W<S>; 5], hint: [W<S>; 5]) -> [W<S>; 5] {
        hint
    }

    #[inline(always)]
    fn term<S: Simd, const SECOND: bool, const CAREFUL: bool>(
        self,
        s: S,
        at: &[V<S, E>; 5],
        [p, q]: [V<S, E>; 2],
        [x, y, z]: [V<S, E>; 3],
    ) -> Terms<S, E, 3> {
        if !SECOND {
            return ([x + p, y + q, z + (q - p)], none::<S, E>(s));
        }
        let splat = |x: f64| V::<S, E>::splat(s, E::from_f64(x));
        let zero = splat(0.0);
        let (u, v) = (p * at[0], q * at[2]);
        let (du, dv) = (fma(p, at[1], fma(p, at[0], -u)), fma(q, at[3], fma(q, at[2], -v)));
        let sum = u + v;
        let apart = (v - u) + (dv - du);
        let z = apart / sum;
        let w = z * z;
        let mut term = sum * G::of_share::<S, E>(s, z, w);
        // A pair with a negative mass has abs(z) > 1 or a negative sum.
        let near = w.simd_le(splat(G::NEAR * G::NEAR)) & sum.simd_ge(splat(E::TINY.to_f64()));
        if CAREFUL {
            let (low, high) = (u.min(v), u.max(v));
            let far = sum.simd_eq(zero).select(zero, G::of_masses::<S, E>(s, low, high, sum));
            let good = low.simd_ge(zero) & high.simd_lt(E::INFINITY) & p.simd_eq(p) & q.simd_eq(q);
            term = near.select(term, good.select(far, splat(f64::NAN)));
        }
        ([x + term, y + apart, z], !near)
    }

    #[inline(always)]
    fn merge<S: Simd>(self, _: S, a: Part<S, 5, 3>, b: Part<S, 5, 3>) -> Part<S, 5, 3> {
        add_parts(a, b)
    }

    #[inline(always)]
    fn finish<S: Simd>(self, s: S, part: Part<S, 5, 3>, second: bool, _: [W<S>; 1]) -> Done<S, 2, 5, 1> {
        let zero = W::splat(s, 0.0);
        let [x, y, _] = each(part.sum, |x| x.value(s));
        if second {
            let [p_head, p_tail, q_head, q_tail, total] = part.at;
            let off = y / total;
            let (value, excess) = (x / (total * G::SHARES), G::excess(s, off));
            // Where the correction is not small, the factor is corrected and the row passed once more.
            let scaled_q = p_head.simd_eq(W::splat(s, 1.0)) & p_tail.simd_eq(zero);
            let unscaled_q = q_head.simd_eq(W::splat(s, 1.0)) & q_tail.simd_eq(zero);
            let (head, tail) = (scaled_q.select(q_head, p_head), scaled_q.select(q_tail, p_tail));
            let over = scaled_q.select(off, -off);
            let change = -(over / (over + 1.0));
            let (sum, error) = two_sum(head, fma(head + tail, change, tail));
            let (head, tail) = (E::head(sum), (sum - E::head(sum)) + error);
            let one = W::splat(s, 1.0);
            return Done {
                value: [within::<S, G>(s, value - excess)],
                mass: [zero; 2],
                // Where no factor differs from 1, neither row is the one to scale: the correction must do.
                again: (excess * 8.0).simd_gt(value) & !(scaled_q & unscaled_q),
                hint: [
                    scaled_q.select(one, head),
                    scaled_q.select(zero, tail),
                    scaled_q.select(head, one),
                    scaled_q.select(tail, zero),
                    total,
                ],
            };
        }
        let (p, q, d) = (part.sum[0], part.sum[1], part.sum[2]);
        let one = W::splat(s, 1.0);
        // For close totals both from their sum and the sum of differences: more exact, and symmetric.
        let both = p.plus(q);
        let close = d.value(s).abs().simd_lt(both.hi * 0.25);
        let half = |d: Sum<S>| both.plus(d).times(W::splat(s, 0.5));
        let (low, high) = (half(d.negated()), half(d));
        let (p, q) = (Sum::select(close, low, p), Sum::select(close, high, q));
        let ratio = |a: Sum<S>, b: Sum<S>| {
            let head = a.hi / b.hi;
            let rest = (fma(-head, b.hi, a.hi) + fma(-head, b.lo, a.lo)) / b.hi;
            let short = E::head(head);
            [short, (head - short) + rest]
        };
        let difference = p.hi - q.hi + (p.lo - q.lo);
        let (p_larger, equal) = (difference.simd_ge(zero), difference.simd_eq(zero));
        // Equal totals may be cut into head and tail differently: no ratio is taken of them, nor the total of one.
        let exactly = |[head, tail]: [W<S>; 2]| (equal.select(one, head), equal.select(zero, tail));
        let (up, down) = (exactly(ratio(p, q)), exactly(ratio(q, p)));
        let total = p_larger.select(p.value(s), q.value(s));
        Done {
            value: [W::splat(s, f64::NAN)],
            mass: [x, y],
            again: sums_in_range::<S, E>(x.min(y), x.max(y)),
            hint: [
                p_larger.select(one, down.0),
                p_larger.select(zero, down.1),
                p_larger.select(up.0, one),
                p_larger.select(up.1, zero),
                equal.select(both.value(s) * 0.5, total),
            ],
        }
    }
}

/// The value between 0 and the largest there is; storing it rounds no further up.
#[inline(always)]
fn within<S: Simd, G: Generator>(s: S, value: W<S>) -> W<S> {
    let most = W::splat(s, G::MOST);
    let value = value.simd_lt(0.0).select(W::splat(s, 0.0), value);
    value.simd_gt(most).select(most, value)
}

/// The divergence of e^{a/T} and e^{b/T}. With d the gap of the log-probabilities, a pair whose larger mass is M adds
/// M·g(abs(d)), g being [`near`](Generator::near) 0 and [`far`](Generator::far) from it.
///
/// Frame: base, shift and floor of a, of b; the reciprocals of their sums in these units, and the gap of the log-sum-exps in
/// units of T (each as head and tail). Sums: first Σe^a, Σe^b; then Σ M·g and Σ M·(1 − e^−abs(d)) over the classes that are
/// larger in a and in b, in the units of either: multiplied by a reciprocal at last, they lose nothing to it. The second two
/// make ρ = Σ(q − p), which tells by how much the gap is off.
#[derive(Clone, Copy)]
pub struct PairLog<E, G>(pub Scale<E>, pub G);

impl<E: Math, G: Generator> Measure<E, 2, 12, 4, 1> for PairLog<E, G> {
    const LOOKS: bool = true;
    const TWO_PASSES: bool = true;

    #[inline(always)]
    fn look<S: Simd>(self, mut seen: [V<S, E>; 12], [a, b]: [V<S, E>; 2]) -> [V<S, E>; 12] {
        (seen[0], seen[1]) = (seen[0].max(a), seen[1].max(b));
        seen
    }

    #[inline(always)]
    fn frame<S: Simd>(self, s: S, seen: [W<S>; 12], hint: [W<S>; 12]) -> [W<S>; 12] {
        let (a, b) = (self.0.frame(s, seen[0]), self.0.frame(s, seen[1]));
        let first = [a[0], a[1], a[2], b[0], b[1], b[2]];
        // The second pass keeps the frames that the normalisers were found in.
        let second = hint[0].simd_eq(hint[0]);
        array(|r| if r < 6 { second.select(hint[r], first[r]) } else { hint[r] })
    }

    #[inline(always)]
    fn term<S: Simd, const SECOND: bool, const CAREFUL: bool>(
        self,
        s: S,
        at: &[V<S, E>; 12],
        [a, b]: [V<S, E>; 2],
        [x, y, x_rise, y_rise]: [V<S, E>; 4],
    ) -> Terms<S, E, 4> {
        if !SECOND {
            let (e, _) = self.0.exp(s, &at[..3], a - at[0], None);
            let (f, _) = self.0.exp(s, &at[3..6], b - at[3], None);
            return ([x + e, y + f, x_rise, y_rise], none::<S, E>(s));
        }
        let inv = self.0.inverse(s);
        let (zero, one) = (V::<S, E>::splat(s, E::ZERO), V::<S, E>::splat(s, E::from_f64(1.0)));
        let mut d = gap::<S, E>(a, b, at[10], at[11], inv);
        let far = !d.abs().simd_lt(one);
        if CAREFUL {
            d = far.select(gap_anywhere::<S, E>(s, a, b, at[10], at[11], inv), d);
        }
        let in_b = d.simd_gt(zero);
        let pick = |i: usize, j: usize| in_b.select(at[j], at[i]);
        let frame = [zero, pick(1, 4), pick(2, 5)];
        let (m, _) = self.0.exp(s, &frame, in_b.select(b, a) - pick(0, 3), None);
        let u = d.abs();
        // The difference of the masses, per unit of the larger.
        let mut rise = fma(-u * u, E::phi(s, -u), u);
        let mut g = G::near::<S, E>(s, u, rise);
        if CAREFUL {
            let t = E::exp_minus(s, u);
            rise = far.select(one - t, rise);
            g = far.select(G::far::<S, E>(s, u, t), g);
        }
        let sums = [
            in_b.select(x, fma(m, g, x)),
            in_b.select(fma(m, g, y), y),
            in_b.select(x_rise, fma(m, rise, x_rise)),
            in_b.select(fma(m, rise, y_rise), y_rise),
        ];
        (sums, far)
    }

    #[inline(always)]
    fn merge<S: Simd>(self, s: S, a: Part<S, 12, 4>, b: Part<S, 12, 4>) -> Part<S, 12, 4> {
        let zero = W::splat(s, 0.0);
        let mut at = a.at;
        let mut sum: [Sum<S>; 4] = array(|k| a.sum[k].plus(b.sum[k]));
        for (k, i) in [(0, 0), (1, 3)] {
            let (x, y) = (&a.at[i..i + 3], &b.at[i..i + 3]);
            let heavier = self.0.factor(s, y, x).simd_gt(W::splat(s, 1.0));
            let swap = !b.sum[k].hi.simd_eq(zero) & (a.sum[k].hi.simd_eq(zero) | heavier);
            let kept: [W<S>; 3] = array(|j| swap.select(y[j], x[j]));
            at[i..i + 3].copy_from_slice(&kept);
            sum[k] = a.sum[k].times(self.0.factor(s, x, &kept)).plus(b.sum[k].times(self.0.factor(s, y, &kept)));
        }
        // In the second pass all parts share a frame: the factors are 1.
        Part { at, sum }
    }

    #[inline(always)]
    fn finish<S: Simd>(self, s: S, part: Part<S, 12, 4>, second: bool, _: [W<S>; 1]) -> Done<S, 2, 12, 1> {
        let zero = W::splat(s, 0.0);
        let [x, y, x_rise, y_rise] = each(part.sum, |x| x.value(s));
        let parts = |w: W<S>| [E::head(w), w - E::head(w)];
        let hint = |p: W<S>, q: W<S>, [head, tail]: [W<S>; 2]| {
            let (at, [p, p_tail], [q, q_tail]) = (part.at, parts(p), parts(q));
            [at[0], at[1], at[2], at[3], at[4], at[5], p, p_tail, q, q_tail, head, tail]
        };
        if second {
            let (p, q) = (part.at[6] + part.at[7], part.at[8] + part.at[9]);
            // Two products and their sum, not one of them fused: the same when the rows change places.
            let (value, rho) = (x * p + y * q, y_rise * q - x_rise * p);
            let excess = G::excess(s, rho);
            // Where the correction is not small, the gap is corrected and the row passed once more.
            let [p, q, head, tail] = regapped::<S, E>(s, self.0, [p, q, part.at[10], part.at[11]], rho);
            return Done {
                value: [within::<S, G>(s, value - excess)],
                mass: [zero; 2],
                again: (excess * 8.0).simd_gt(value),
                hint: hint(p, q, [head, tail]),
            };
        }
        let (a, b) = (&part.at[..3], &part.at[3..6]);
        let one = W::splat(s, 1.0);
        Done {
            value: [W::splat(s, f64::NAN)],
            mass: [self.0.ln(s, a, x), self.0.ln(s, b, y)],
            again: x.simd_gt(zero) & y.simd_gt(zero),
            hint: hint(one / x, one / y, self.0.gap(s, [a, b], [x, y])),
        }
    }
}

/// Reciprocals of the sums and gap (head, tail) corrected for ρ = Σ(q − p): the gap by ln((1 + ρ/2)/(1 − ρ/2)), which only
/// changes its sign when the rows change places.
#[inline(always)]
pub(super) fn regapped<S: Simd, E: Math>(s: S, scale: Scale<E>, at: [W<S>; 4], rho: W<S>) -> [W<S>; 4] {
    let half = rho * 0.5;
    let shift = (wide::ln_1p(s, half) - wide::ln_1p(s, -half)) * scale.t();
    let (tail, error) = two_sum(at[3], shift);
    let (sum, rest) = two_sum(at[2], tail);
    let head = E::head(sum);
    [at[0] * (half + 1.0), at[1] * (-half + 1.0), head, (sum - head) + (rest + error)]
}
