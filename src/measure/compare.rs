//! Everything that tells two models apart on one row, from one reading of both rows of logits: the log-sum-exps and
//! entropies in a first pass, the divergences on exactly normalised rows in a second, while the row sits in cache.

use super::cross_entropy::expected;
use super::entropy::mass;
use super::frame::{DOUBLED, LOG, Scale, gap, gap_anywhere, ln_over_top, phi_doubled};
use super::pair::regapped;
use crate::math::{Math, wide};
use crate::rows::{Done, Measure, Part, Terms};
use crate::simd::*;

/// Number of results: KL(a‖b), KL(b‖a), JS, TV, H(a), H(b), H(a, b), then max and log-sum-exp over max of a and of b.
pub const COMPARE: usize = 11;

/// Frame: that of a, that of b, the reciprocals of their sums, the gap of the log-sum-exps (head, tail). Sums: first s
/// and k of a and of b, Σe^a(a − max a), Σe^b(b − max b), Σe^a(b − max b); then KL, reverse KL, JS, TV,
/// ρ = Σ(q − p) and σ = Σ±q with the sign of q − p: by them the results are corrected for what the gap is off.
#[derive(Clone, Copy)]
pub struct Compare<E>(pub Scale<E>);

impl<E: Math> Measure<E, 2, 12, 7, COMPARE> for Compare<E> {
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
        let second = hint[0].simd_eq(hint[0]);
        array(|r| match r {
            0..4 => second.select(hint[r], a[r]),
            4..8 => second.select(hint[r], b[r - 4]),
            _ => hint[r],
        })
    }

    #[inline(always)]
    fn term<S: Simd, const SECOND: bool, const CAREFUL: bool>(
        self,
        s: S,
        at: &[V<S, E>; 12],
        [a, b]: [V<S, E>; 2],
        sums: [V<S, E>; 7],
    ) -> Terms<S, E, 7> {
        if SECOND {
            self.divergences::<S, CAREFUL>(s, at, a, b, sums)
        } else {
            self.normalisers::<S, CAREFUL>(s, at, a, b, sums)
        }
    }

    #[inline(always)]
    fn merge<S: Simd>(self, s: S, a: Part<S, 12, 7>, b: Part<S, 12, 7>) -> Part<S, 12, 7> {
        let second = a.at[8].simd_eq(a.at[8]);
        let x = self.0.join(s, [&a.at[..4], &b.at[..4]], [a.sum[1], b.sum[1]]);
        let y = self.0.join(s, [&a.at[4..8], &b.at[4..8]], [a.sum[3], b.sum[3]]);
        let pair = |k: usize| [a.sum[k], b.sum[k]];
        let [xs, xk] = x.masses(s, pair(0), pair(1));
        let [ys, yk] = y.masses(s, pair(2), pair(3));
        let x_mass = each([&a, &b], |p| mass(s, self.0, &p.at[..4], p.sum[0], p.sum[1]));
        let y_mass = each([&a, &b], |p| mass(s, self.0, &p.at[4..8], p.sum[2], p.sum[3]));
        let first = [
            xs,
            xk,
            ys,
            yk,
            x.moments(s, x.apart, pair(4), x_mass),
            y.moments(s, y.apart, pair(5), y_mass),
            x.moments(s, y.apart, pair(6), x_mass),
        ];
        let mut at = a.at;
        at[..4].copy_from_slice(&x.at);
        at[4..8].copy_from_slice(&y.at);
        // In the second pass all parts share a frame.
        let sum = array(|k| Sum::select(second, a.sum[k].plus(b.sum[k]), first[k]));
        Part { at, sum }
    }

    #[inline(always)]
    fn finish<S: Simd>(
        self,
        s: S,
        part: Part<S, 12, 7>,
        second: bool,
        before: [W<S>; COMPARE],
    ) -> Done<S, 2, 12, COMPARE> {
        let zero = W::splat(s, 0.0);
        let sums = each(part.sum, |x| x.value(s));
        if second {
            let mut value = before;
            value[..4].copy_from_slice(&corrected(s, sums));
            let rho = sums[4];
            let mut hint = part.at;
            [hint[8], hint[9], hint[10], hint[11]] =
                regapped::<S, E>(s, self.0, [part.at[8], part.at[9], part.at[10], part.at[11]], rho);
            // Where the correction is not small, the gap is corrected and the row passed once more.
            let again = (rho * rho).simd_gt(sums[0]);
            return Done { value, mass: [zero; 2], again, hint };
        }
        let [xs, xk, ys, yk, x_moment, y_moment, cross] = sums;
        let (a, b) = (&part.at[..4], &part.at[4..8]);
        let (x_top, y_top) = (self.0.top(s, a), self.0.top(s, b));
        let (x_sum, y_sum) = (fma(xk, x_top, xs), fma(yk, y_top, ys));
        let x_over = ln_over_top(s, x_top, part.sum[0], xk).value(s);
        let y_over = ln_over_top(s, y_top, part.sum[2], yk).value(s);
        let usual = x_over.simd_eq(x_over) & y_over.simd_eq(y_over);
        let nan = W::splat(s, f64::NAN);
        let below = |moment: W<S>, mass: W<S>| -(moment * self.0.inv()) / mass;
        let value = [
            nan,
            nan,
            nan,
            nan,
            x_over + below(x_moment, x_sum),
            y_over + below(y_moment, y_sum),
            y_over + below(cross, x_sum),
            a[0] + a[3],
            x_over,
            b[0] + b[3],
            y_over,
        ];
        let one = W::splat(s, 1.0);
        let [head, tail] = self.0.gap(s, [a, b], [x_sum, y_sum]);
        let mut hint = [zero; 12];
        hint[..8].copy_from_slice(&part.at[..8]);
        hint[8..].copy_from_slice(&[one / x_sum, one / y_sum, head, tail]);
        let inv = W::splat(s, self.0.inv());
        Done {
            value: each(value, |v| usual.select(v, nan)),
            mass: [fma(a[0] + a[3], inv, x_over), fma(b[0] + b[3], inv, y_over)],
            again: usual,
            hint,
        }
    }
}

/// KL, reverse KL, JS and TV of rows whose second is normalised to 1 + ρ, referred to 1.
#[inline(always)]
fn corrected<S: Simd>(s: S, [kl, reverse, js, tv, rho, sigma, _]: [W<S>; 7]) -> [W<S>; 4] {
    let (zero, one) = (W::splat(s, 0.0), W::splat(s, 1.0));
    let minus = wide::ln_1p_minus(s, rho);
    let inverse = one / (one + rho);
    let values = [
        kl + minus,
        fma(reverse, inverse, -(rho * rho * inverse) - minus),
        fma(rho * rho, W::splat(s, -0.125), js),
        fma((minus + rho) * sigma, W::splat(s, -0.5), tv),
    ];
    let [kl, reverse, js, tv] = each(values, |v| v.simd_lt(zero).select(zero, v));
    let at_most = |v: W<S>, most: f64| v.simd_gt(most).select(W::splat(s, most), v);
    [kl, reverse, at_most(js, std::f64::consts::LN_2), at_most(tv, 1.0)]
}

impl<E: Math> Compare<E> {
    #[inline(always)]
    fn normalisers<S: Simd, const CAREFUL: bool>(
        self,
        s: S,
        at: &[V<S, E>; 12],
        a: V<S, E>,
        b: V<S, E>,
        [xs, xk, ys, yk, x_moment, y_moment, cross]: [V<S, E>; 7],
    ) -> Terms<S, E, 7> {
        let one = V::<S, E>::splat(s, E::from_f64(1.0));
        let (u, v) = (a - at[0], b - at[4]);
        let (x_top, y_top) = (u.simd_eq(at[3]), v.simd_eq(at[7]));
        let (e, u) = self.0.exp(s, &at[..LOG], u, None);
        let (f, w) = self.0.exp(s, &at[LOG..2 * LOG], v, None);
        let (no_a, no_b) = (a.simd_eq(E::NEG_INFINITY), b.simd_eq(E::NEG_INFINITY));
        let (cross, odd) = expected::<S, E, CAREFUL>(s, e, no_a, no_b, v - at[7], cross);
        let sums = [
            x_top.select(xs, xs + e),
            x_top.select(xk + one, xk),
            y_top.select(ys, ys + f),
            y_top.select(yk + one, yk),
            fma(e, u - at[3], x_moment),
            fma(f, w - at[7], y_moment),
            cross,
        ];
        (sums, odd)
    }

    #[inline(always)]
    fn divergences<S: Simd, const CAREFUL: bool>(
        self,
        s: S,
        at: &[V<S, E>; 12],
        a: V<S, E>,
        b: V<S, E>,
        [kl, reverse, js, tv, rho, sigma, unused]: [V<S, E>; 7],
    ) -> Terms<S, E, 7> {
        let inv = self.0.inverse(s);
        let splat = |x: f64| V::<S, E>::splat(s, E::from_f64(x));
        let (zero, one, half) = (splat(0.0), splat(1.0), splat(0.5));
        let (e, _) = self.0.exp(s, &at[..LOG], a - at[0], None);
        let p = e * at[8];
        let mut d = gap::<S, E>(a, b, at[10], at[11], inv);
        let far = !d.abs().simd_lt(one);
        if CAREFUL {
            d = far.select(gap_anywhere::<S, E>(s, a, b, at[10], at[11], inv), d);
        }
        let size = d.abs();
        let more = E::phi_times(s, d);
        // q − p = p(eᵈ − 1), q = p·eᵈ, each without cancellation while d is small.
        let rise = fma(d, more, d);
        let mut q = fma(p, rise, p);
        let mut terms =
            [(p * d) * more, -(q * d) * E::phi_times(s, -d), size * E::js_log_times(s, size), (p * rise).abs() * half];
        let mut apart = p * rise;
        if CAREFUL {
            let (f, _) = self.0.exp(s, &at[LOG..2 * LOG], b - at[4], None);
            q = far.select(f * at[9], q);
            let infinity = V::<S, E>::splat(s, E::INFINITY);
            let (no_p, no_q) = (d.simd_eq(E::INFINITY), d.simd_eq(E::NEG_INFINITY));
            let drift = |m: V<S, E>| m.simd_eq(zero).select(zero, m * d);
            let near = |d: V<S, E>| d.simd_gt(splat(DOUBLED.0)) & d.simd_lt(splat(DOUBLED.1));
            let forward = near(d).select(p * phi_doubled::<S, E>(s, d), (q - p) - drift(p));
            let backward = near(-d).select(q * phi_doubled::<S, E>(s, -d), (p - q) + drift(q));
            let forward = no_q.select(infinity, no_p.select(q, forward));
            let backward = no_p.select(infinity, no_q.select(p, backward));
            let far_terms = [forward, backward, E::js_far(s, size, E::exp_minus(s, size)), (q - p).abs() * half];
            apart = far.select(q - p, apart);
            for (term, far_term) in terms.iter_mut().zip(far_terms) {
                *term = far.select(far_term, *term);
            }
        }
        let larger = d.simd_gt(zero).select(q, p);
        let signed = d.simd_gt(zero).select(q, d.simd_lt(zero).select(-q, zero));
        let sums = [
            kl + terms[0],
            reverse + terms[1],
            fma(larger, terms[2], js),
            tv + terms[3],
            rho + apart,
            sigma + signed,
            unused,
        ];
        (sums, far)
    }
}
