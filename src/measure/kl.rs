//! KL(p‖q) = Σ p ln(p/q) of normalised rows, in one pass, as a sum of terms none of which is negative.
//!
//! Σ p·φ(d) with d = ln q − ln p and φ(d) = eᵈ − 1 − d ≥ 0: nothing cancels, so that Gibbs' inequality holds in
//! floating point. What is known of the normalisers only after the pass enters as a second-order correction.

use super::frame::{DOUBLED, Scale, gap, gap_anywhere, phi_doubled, sums_in_range};
use crate::math::{Math, wide};
use crate::rows::{Done, Measure, Part, Terms, add_parts};
use crate::simd::*;

/// KL of masses. With P = Σp, D = Σ(σq − p), G = Σ[p ln(p/σq) − p + σq] and r = 1 + D/P, it is G/P − (r − 1 − ln r);
/// where the correction exceeds the result (counts with different totals) the row is passed once more with σ = P/Q.
///
/// From totals 1 : 10⁶ on, `f32` finds σ in the first pass only roughly, and a third takes what the second has found.
///
/// Frame: σ as head and tail, 1 at first. Sums: P, D, G; D is summed as differences, exact where p and q are close.
#[derive(Clone, Copy)]
pub struct KlLin;

impl<E: Math> Measure<E, 2, 2, 3, 1> for KlLin {
    const LOOKS: bool = false;

    #[inline(always)]
    fn frame<S: Simd>(self, s: S, _: [W<S>; 2], hint: [W<S>; 2]) -> [W<S>; 2] {
        let told = hint[0].simd_eq(hint[0]);
        [told.select(hint[0], W::splat(s, 1.0)), told.select(hint[1], W::splat(s, 0.0))]
    }

    #[inline(always)]
    fn term<S: Simd, const SECOND: bool, const CAREFUL: bool>(
        self,
        s: S,
        at: &[V<S, E>; 2],
        [p, q]: [V<S, E>; 2],
        [total, apart, g]: [V<S, E>; 3],
    ) -> Terms<S, E, 3> {
        let splat = |x: E| V::<S, E>::splat(s, x);
        let inverse = splat(E::from_f64(1.0)) / p;
        let scaled = q * at[0];
        let ratio = scaled * inverse;
        let d = fma(q, at[1], fma(q, at[0], -p));
        let (k, f) = E::ln_split(s, ratio);
        let near = k.simd_eq(splat(E::ZERO));
        // Near 1 the ratio less 1 is taken from the exact difference.
        let f = near.select(d * inverse, f);
        let tail = E::ln_tail(s, f);
        let ln = fma(k, splat(E::LN2_HI), f) + fma(k, splat(E::LN2_LO), tail);
        // Elsewhere from the ratio alone: what that is off then enters times 1 − p/σq, where beside the exact difference it
        // would times p/σq, twenty times as large as the term is near √½.
        let minus = near.select(tail, ln - (ratio - splat(E::from_f64(1.0))));
        let (low, high) = E::RATIOS;
        let usual = p.min(scaled).simd_ge(splat(E::TINY))
            & ratio.simd_ge(splat(low))
            & ratio.simd_le(splat(high))
            & p.simd_le(splat(high));
        let mut sum = fma(p, -minus, g);
        if CAREFUL {
            sum = usual.select(sum, g + unusual::<S, E>(s, p, q, [at[0], at[1]]));
        }
        ([total + p, apart + d, sum], !usual)
    }

    #[inline(always)]
    fn merge<S: Simd>(self, _: S, a: Part<S, 2, 3>, b: Part<S, 2, 3>) -> Part<S, 2, 3> {
        add_parts(a, b)
    }

    #[inline(always)]
    fn finish<S: Simd>(self, s: S, part: Part<S, 2, 3>, _: bool, _: [W<S>; 1]) -> Done<S, 2, 2, 1> {
        let [total, apart, g] = each(part.sum, |x| x.value(s));
        let (zero, one, infinity) = (W::splat(s, 0.0), W::splat(s, 1.0), W::splat(s, f64::INFINITY));
        let (g, off) = (g / total, apart / total);
        let correction = -wide::ln_1p_minus(s, off);
        let kl = g - correction;
        // D says little of Q where Q is a small share of P: then the first pass only finds the scale.
        let again = correction.simd_gt(kl.abs()) | off.abs().simd_gt(0.5);
        let kl = kl.simd_lt(zero).select(zero, kl);
        let ratio = off + one;
        // Rows whose totals are too far apart are scaled and passed once more too.
        let usual = sums_in_range::<S, E>(total, total) & ratio.simd_gt(1e-12) & ratio.simd_lt(1e30);
        let kl = g.simd_eq(infinity).select(infinity, kl);
        let sigma = (part.at[0] + part.at[1]) / ratio;
        let head = E::head(sigma);
        Done {
            value: [usual.select(kl, W::splat(s, f64::NAN))],
            mass: [total, ratio * total],
            again: again & usual & g.simd_lt(f64::INFINITY),
            hint: [head, sigma - head],
        }
    }
}

/// p ln(p/σq) − p + σq lane by lane in double precision: zeros, subnormals, ratios that overflow, bad values.
#[inline(always)]
fn unusual<S: Simd, E: Math>(s: S, p: V<S, E>, q: V<S, E>, scale: [V<S, E>; 2]) -> V<S, E> {
    let (p, q, [head, tail]) = (E::widen(p), E::widen(q), each(scale, |x| E::widen(x)));
    let mut terms = p;
    for (h, term) in terms.iter_mut().enumerate().take(E::LANES / 8) {
        *term = unusual_wide(s, p[h], q[h], [head[h], tail[h]]);
    }
    E::narrow(terms)
}

#[inline(always)]
fn unusual_wide<S: Simd>(s: S, p: W<S>, q: W<S>, [head, tail]: [W<S>; 2]) -> W<S> {
    let zero = W::splat(s, 0.0);
    // All of σ: of nearly proportional counts beyond the usual range, an `f32` head alone would leave an error of first
    // order, 3e-8·(σq − p), beside terms of second order.
    let scale = head + tail;
    let d = fma(q, tail, fma(q, head, -p));
    let f = d / p;
    let near = -(p * wide::ln_1p_minus(s, f));
    let far = p * ((wide::ln(s, p) - wide::ln(s, q)) - wide::ln(s, scale)) + d;
    let term = f.abs().simd_lt(0.5).select(near, far);
    let term = q.simd_eq(zero).select(W::splat(s, f64::INFINITY), term);
    let term = p.simd_eq(zero).select(q * scale, term);
    let good = p.simd_ge(zero) & q.simd_ge(zero) & p.simd_lt(f64::INFINITY) & q.simd_lt(f64::INFINITY);
    good.select(term, W::splat(s, f64::NAN))
}

/// KL of e^{a/T} and e^{b/T}. With m = max a, c near the mean of b − a, d = ((b − a) − c)/T (b − a an exact two-term
/// difference), S = Σe^a, M = Σe^a·d, G = Σe^a·φ(d), Q = Σe^{b−c}, all in the units of the frame, g = G/S, μ = M/S and
/// x = g + μ: KL = g + [ln(1 + x) − x], or ln(Q/S) − μ where 1 + x or g − x cancels.
///
/// At first c is max b − max a, then what a trial of the first classes makes of it; where g still exceeds 2·KL, half of it
/// cancelled, and the row is passed once more with c + μ. `docs/numerics.md` tells what that costs, and saves.
///
/// One exponential per class while every abs(d) < 1 in a vector; else that of b too. Frame: base, shift, floor, c (head
/// and tail: rounded to one `f32`, c would shift every d by up to 3e-8·c, which is all there is between close rows), how
/// far the centres of merged parts were apart, and the sum of their G about these, for that is what was rounded: re-centring is
/// exact. Sums: S, M, G, Q.
#[derive(Clone, Copy)]
pub struct KlLog<E>(pub Scale<E>);

/// The G that was rounded: of merged parts theirs, about their own centres.
#[inline(always)]
fn rounded<S: Simd>(s: S, parts: W<S>, g: W<S>) -> W<S> {
    parts.simd_gt(W::splat(s, 0.0)).select(parts, g)
}

/// Logarithms of factors up to which neither they nor their products with sums leave the range of an `f64`.
const FAR: f64 = 300.0;

impl<E: Math> Measure<E, 2, 7, 4, 1> for KlLog<E> {
    const LOOKS: bool = true;
    const TRIES: bool = true;

    #[inline(always)]
    fn look<S: Simd>(self, mut seen: [V<S, E>; 7], [a, b]: [V<S, E>; 2]) -> [V<S, E>; 7] {
        (seen[0], seen[1]) = (seen[0].max(a), seen[1].max(b));
        seen
    }

    #[inline(always)]
    fn frame<S: Simd>(self, s: S, seen: [W<S>; 7], hint: [W<S>; 7]) -> [W<S>; 7] {
        let zero = W::splat(s, 0.0);
        let finite = |m: W<S>| m.abs().simd_lt(f64::INFINITY).select(m, zero);
        // max b − max a: then no e^{b−c} can overflow.
        let (sum, error) = two_diff(finite(seen[1]), finite(seen[0]));
        let told = hint[3].simd_eq(hint[3]);
        let (sum, error) = (told.select(hint[3], sum), told.select(hint[4], error));
        // About the mean of all blocks it could in one that has next to nothing of a: there b gives the frame.
        let most = seen[1] - hint[3];
        let far = most.abs().simd_lt(f64::INFINITY)
            & (most - seen[0]).simd_gt(self.0.t() * if E::LANES == 16 { 64.0 } else { 512.0 });
        let [base, shift, floor, _] = self.0.frame(s, (told & far).select(most, seen[0]));
        let head = E::head(sum);
        [base, shift, floor, head, (sum - head) + error, zero, zero]
    }

    /// Σe^a and Σe^a·T·d, roughly: of masses only the power of two, of gaps what they are rounded to. That puts the mean off by a
    /// twentieth of what lies between gaps.
    #[inline(always)]
    fn trial<S: Simd>(self, s: S, at: &[V<S, E>; 7], [a, b]: [V<S, E>; 2], [mass, mean]: [V<S, E>; 2]) -> [V<S, E>; 2] {
        let weight = self.0.power(s, at, a - at[0]);
        let d = (b - a) - at[3];
        let d = d.abs().simd_lt(E::INFINITY).select(d, V::<S, E>::splat(s, E::ZERO));
        [mass + weight, fma(weight, d, mean)]
    }

    #[inline(always)]
    fn tried<S: Simd>(self, s: S, mut at: [W<S>; 7], [mass, mean]: [W<S>; 2], whole: bool) -> [W<S>; 7] {
        // Of a part of the block the largest class may lie elsewhere: its gap is the centre so far, its mass about 1.
        let mean = mean / if whole { mass } else { mass + 1.0 };
        // Further on no e^{b−c} could be held, and less would not move c.
        let least = fma(at[3].abs(), W::splat(s, f64::EPSILON / 256.0), W::splat(s, 1e-300));
        let moves = mean.abs().simd_gt(least) & mean.abs().simd_lt(self.0.t() * 16.0);
        // To an eighth of the way: near enough, and the fewer bits the centre has, the fewer gaps are rounded.
        let grid: W<S> = W::from_bits(mean.to_bits() & W::<S>::splat(s, f64::INFINITY).to_bits()) * 0.125;
        let centre = ((at[3] + mean) / grid).round_ties_even() * grid;
        let head = E::head(centre);
        (at[3], at[4]) = (moves.select(head, at[3]), moves.select(centre - head, at[4]));
        at
    }

    #[inline(always)]
    fn term<S: Simd, const SECOND: bool, const CAREFUL: bool>(
        self,
        s: S,
        at: &[V<S, E>; 7],
        [a, b]: [V<S, E>; 2],
        [mass_a, mean, g, mass_b]: [V<S, E>; 4],
    ) -> Terms<S, E, 4> {
        let zero = V::<S, E>::splat(s, E::ZERO);
        let inv = self.0.inverse(s);
        let (e, _) = self.0.exp(s, at, a - at[0], None);
        let mut d = gap::<S, E>(a, b, at[3], at[4], inv);
        let mut ed = e * d;
        // φ as a product that is rounded with the sum.
        let mut phi = [ed, E::phi_times(s, d)];
        let mut f = fma(phi[0], phi[1], e + ed);
        let far = !d.abs().simd_lt(E::from_f64(1.0));
        if CAREFUL {
            let none = E::NEG_INFINITY;
            let (no_a, no_b) = (a.simd_eq(none), b.simd_eq(none));
            d = gap_anywhere::<S, E>(s, a, b, at[3], at[4], inv);
            let (h, l) = two_diff(b, at[3]);
            let (x, more) = two_sum(h - at[0], no_b.select(zero, l - at[4]));
            // The second part of a difference of very unlike numbers need not be small, and below the floor nothing counts.
            let l = x.simd_ge(at[2]).select(more, zero);
            let (fb, _) = self.0.exp(s, at, x, Some(l));
            // A mass that underflowed has no mean distance, but it has support.
            let edb = (no_b | e.simd_eq(zero)).select(zero, e * d);
            let near = d.simd_gt(E::from_f64(DOUBLED.0)) & d.simd_lt(E::from_f64(DOUBLED.1));
            let apart = near.select(e * phi_doubled::<S, E>(s, d), (fb - e) - edb);
            let outside = no_b.select(V::<S, E>::splat(s, E::INFINITY), apart);
            f = far.select(fb, f);
            ed = far.select(edb, ed);
            let one = V::<S, E>::splat(s, E::from_f64(1.0));
            phi = [far.select(no_a.select(fb, outside), phi[0]), far.select(one, phi[1])];
        }
        ([mass_a + e, mean + ed, fma(phi[0], phi[1], g), mass_b + f], far)
    }

    #[inline(always)]
    fn merge<S: Simd>(self, s: S, a: Part<S, 7, 4>, b: Part<S, 7, 4>) -> Part<S, 7, 4> {
        // The heavier part keeps its frame; with d = d′ + δ the other's sums are re-centred exactly.
        let zero = W::splat(s, 0.0);
        let heavier = self.0.factor(s, &b.at, &a.at).simd_gt(W::splat(s, 1.0));
        let (empty_a, empty_b) = (a.sum[0].hi.simd_eq(zero), b.sum[0].hi.simd_eq(zero));
        let swap = !empty_b & (empty_a | heavier);
        let mut at: [W<S>; 7] = array(|i| swap.select(b.at[i], a.at[i]));
        // How far the largest b of the other part is above that of this one: where its e^{b−c} would leave the range, or this
        // part has no b, the other's maximum decides c.
        let other: [W<S>; 7] = array(|i| swap.select(a.at[i], b.at[i]));
        let (rise, rest) = self.0.rise(s, &other, &at);
        let (b_kept, b_other) = (swap.select(b.sum[3].hi, a.sum[3].hi), swap.select(a.sum[3].hi, b.sum[3].hi));
        let (one, far) = (W::splat(s, 1.0), W::splat(s, FAR));
        let over = rise * self.0.inv();
        let beyond = b_other.simd_gt(zero) & (over.simd_gt(far) | b_kept.simd_eq(zero));
        let (centre, error) = two_sum(at[3], rise);
        at[3] = beyond.select(centre, at[3]);
        at[4] = beyond.select(at[4] + (error + rest), at[4]);
        let kept = beyond.select(wide::exp(s, -over.max(zero)), one);
        let moved = beyond.select(one, wide::exp(s, over.min(far)));
        let none = Sum::new(s, zero);
        let mut sum = [none; 4];
        at[6] = zero;
        for (part, grown) in [(a, swap.select(moved, kept)), (b, swap.select(kept, moved))] {
            // Above 1 only where the other part has nothing of a, whose frame then says nothing.
            let factor = self.0.factor(s, &part.at, &at);
            let shift = ((part.at[3] - at[3]) + (part.at[4] - at[4])) * self.0.inv();
            let (grow, phi) = (wide::exp(s, shift), wide::exp_m1_minus(s, shift));
            let [a, mean, g, b] = part.sum;
            // A mean beyond the range is in G too, with the other sign.
            let mean = Sum::select(mean.hi.abs().simd_lt(f64::INFINITY), mean, none);
            let (mass_a, scaled) = (a.times(factor), mean.times(factor));
            let mut apart =
                sum[2].plus(g.times(factor).times(grow)).plus(mass_a.times(phi)).plus(scaled.times(phi + shift));
            let mut grown_b = b.times(factor).times(grow);
            let far = !shift.abs().simd_lt(far);
            // A part without mass is nowhere, however far.
            let empty = mass_a.hi.simd_eq(zero);
            let shift = empty.select(zero, shift);
            at[5] = at[5].max(part.at[5]).max(shift.abs());
            at[6] += rounded(s, part.at[6], g.hi.simd_lt(f64::INFINITY).select(g.hi, zero)) * factor;
            if far.any_true() {
                // The factor and e^shift may leave the range where their product does not.
                grown_b = Sum::select(far, b.times(grown), grown_b);
                // G as Q − S − M: the part's own cancels against its mean where that is far beyond Q.
                let factor = empty.select(zero, factor);
                let less = a.times(factor * (shift + 1.0)).plus(mean.times(factor)).times(W::splat(s, -1.0));
                let lone = Sum::select(g.hi.simd_lt(f64::INFINITY), grown_b.plus(less), g);
                apart = Sum::select(far, sum[2].plus(lone), apart);
            }
            sum[0] = sum[0].plus(mass_a);
            sum[1] = sum[1].plus(scaled).plus(mass_a.times(shift));
            sum[2] = apart;
            sum[3] = sum[3].plus(grown_b);
        }
        Part { at, sum }
    }

    #[inline(always)]
    fn finish<S: Simd>(self, s: S, part: Part<S, 7, 4>, second: bool, _: [W<S>; 1]) -> Done<S, 2, 7, 1> {
        let [mass_a, mean, g, mass_b] = each(part.sum, |x| x.value(s));
        let (zero, infinity) = (W::splat(s, 0.0), W::splat(s, f64::INFINITY));
        let (g, mu) = (g / mass_a, mean / mass_a);
        let x = g + mu;
        // Errors of g and μ enter as (δg − x·δμ)/(1 + x). About the mean itself, where the second pass is, x is g.
        // Roundings of a G that was re-centred far are no longer small beside it.
        let near = if second { g.simd_ge(zero) } else { x.simd_gt(-0.5) & part.at[5].simd_lt(1.0) };
        let close = near & x.simd_lt(2.0);
        let kl = close.select(g + wide::ln_1p_minus(s, close.select(x, zero)), wide::ln(s, mass_b / mass_a) - mu);
        // Of close rows what cancels is at most 1; ln(Q/S) − μ is only as exact as 1.
        let rounded = rounded(s, part.at[6] / mass_a, g.max((x * mu).abs() * 0.5)) / (x + 1.0);
        let cancels = rounded.simd_gt(kl * 2.0) & kl.simd_lt(2.0);
        let again = (close & cancels) | (!close & (mu.abs().simd_gt(kl * 3.9) | kl.simd_lt(1.0)));
        let again = again & g.simd_lt(f64::INFINITY);
        let kl = kl.simd_lt(zero).select(zero, kl);
        let kl = g.simd_eq(infinity).select(infinity, kl);
        let usual = mass_a.simd_gt(zero) & mass_b.simd_gt(zero);
        let lse_a = self.0.ln(s, &part.at, mass_a);
        let (centre, error) = two_sum(part.at[3], fma(mu, W::splat(s, self.0.t()), part.at[4]));
        Done {
            value: [usual.select(kl, W::splat(s, f64::NAN))],
            mass: [lse_a, self.0.ln(s, &part.at, mass_b) + (part.at[3] + part.at[4]) * self.0.inv()],
            again: if second { zero.simd_gt(zero) } else { again & usual },
            hint: [zero, zero, zero, centre, error, zero, zero],
        }
    }
}
