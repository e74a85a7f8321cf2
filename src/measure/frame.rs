//! What the sums of a block refer to, in each of the two spaces, and how blocks with different frames are joined.

use crate::math::{Math, wide};
use crate::simd::*;

/// Numbers in the frame of a row of logarithms: base, shift, floor, top.
pub const LOG: usize = 4;
/// Numbers in the frame of a row of masses: scale, top.
pub const LIN: usize = 2;

/// e^{x/T}: the constants of its range reduction with the temperature T folded in.
///
/// With an integer N near m·log₂e/T, m the row's maximum, the kernels form 2^{−N}·e^{x/T} = 2^{n−N}·e^r straight from x,
/// where r = (x − n·T·ln 2)/T is exact but for its last rounding; fl(x − m) alone would cost up to 4 ulp on a flat tail
/// and a multiplication by 1/T up to 14. Only where abs(m)/T exceeds 2^12 (`f32`; `f64`: 2^20) is a base near m, a
/// multiple of a power of two, subtracted first: exactly, but for classes whose mass is less than e^{−4096} of the
/// largest.
#[derive(Clone, Copy)]
pub struct Scale<E> {
    t: f64,
    inv: f64,
    unit: f64,
    /// T·ln 2 in two parts, the first short enough that whole numbers below 2^21 times it are exact.
    ln2: (f64, f64),
    log2_e: E,
    /// 1/T as head and tail.
    inv_e: [E; 2],
    /// T·ln 2 in three parts, the first two (`f32`) or the first (`f64`) short enough in the same sense.
    parts: [E; 3],
}

/// A number with only its first bits kept.
fn shortened(x: f64, bits: u32) -> f64 {
    f64::from_bits(x.to_bits() >> (53 - bits) << (53 - bits))
}

impl<E: Math> Scale<E> {
    /// The scale of a temperature; `None` where its constants leave the normal range of `E`.
    pub fn new(t: f64) -> Option<Self> {
        let single = E::LANES == 16;
        let reach = if single { 1e25 } else { 1e290 };
        if !(t > 1.0 / reach && t < reach) {
            return None;
        }
        let (ln2, ln2_tail) = (std::f64::consts::LN_2, 2.319_046_813_846_299_6e-17);
        let product = t * ln2;
        let error = t.mul_add(ln2, -product) + t * ln2_tail;
        let head = shortened(product, 32);
        let rest = (product - head) + error;
        let parts = if single {
            // |n| < 2^13.
            let first = shortened(product, 11);
            let second = shortened(product - first, 11);
            [first, second, (product - first - second) + error]
        } else {
            [head, rest, 0.0]
        };
        let inv = 1.0 / t;
        let inv_head = E::from_f64(inv);
        let inv_tail = E::from_f64((inv - inv_head.to_f64()) + (-inv).mul_add(t, 1.0) / t);
        Some(Scale {
            t,
            inv,
            unit: f64::from_bits((if single { 8192.0 * t } else { 2_097_152.0 * t }).to_bits() >> 52 << 52),
            ln2: (head, rest),
            log2_e: E::from_f64(std::f64::consts::LOG2_E / t),
            inv_e: [inv_head, inv_tail],
            parts: parts.map(E::from_f64),
        })
    }

    /// The frame of 8 rows (or blocks) with these maxima.
    #[inline(always)]
    pub fn frame<S: Simd>(self, s: S, max: W<S>) -> [W<S>; LOG] {
        let finite = max.abs().simd_lt(f64::INFINITY);
        let m = finite.select(max, W::splat(s, 0.0));
        // A little beyond one half still 0: of classes below unit/2 the difference to a unit would be rounded.
        let units = m * (1.0 / self.unit);
        let base = units.abs().simd_lt(0.53).select(W::splat(s, 0.0), units.round_ties_even()) * self.unit;
        let top = m - base;
        let n = (top * (std::f64::consts::LOG2_E * self.inv)).round_ties_even();
        let (magic, bias) = (E::MAGIC.to_f64(), E::EXP_BIAS.to_f64());
        let shift = W::splat(s, magic + bias) - n;
        let floor = (n - bias) * (std::f64::consts::LN_2 * self.t);
        [base, shift, floor, top]
    }

    /// e^{(x + more)/T}·2^{−N} for x already less the base, and x itself, not less than the floor, below which the
    /// result is 0 (2^{−bias} of the row's largest). NaN stays NaN.
    #[inline(always)]
    pub fn exp<S: Simd>(self, s: S, at: &[V<S, E>], x: V<S, E>, more: Option<V<S, E>>) -> (V<S, E>, V<S, E>) {
        let [shift, floor] = [at[1], at[2]];
        let x = x.simd_lt(floor).select(floor, x);
        let t = fma(x, V::<S, E>::splat(s, self.log2_e), shift);
        let n = t - shift;
        let minus = |i: usize| V::<S, E>::splat(s, E::from_f64(-self.parts[i].to_f64()));
        let mut r = fma(n, minus(1), fma(n, minus(0), x));
        if E::LANES == 16 {
            r = fma(n, minus(2), r);
        }
        if let Some(more) = more {
            r += more;
        }
        let r = r * V::<S, E>::splat(s, self.inv_e[0]);
        (E::exp_reduced(s, r) * E::pow2_of_magic(s, t), x)
    }

    /// e^{x/T}·2^{−N} for x already less the base, to a factor of √2: the nearest power of two.
    #[inline(always)]
    pub fn power<S: Simd>(self, s: S, at: &[V<S, E>], x: V<S, E>) -> V<S, E> {
        E::pow2_of_magic(s, fma(x.max(at[2]), V::<S, E>::splat(s, self.log2_e), at[1]))
    }

    /// 1/T in the kernels' precision, as head and tail: rounded to one `f32` it would move the divergence of close rows,
    /// which goes with the square of their gap, by up to 1.2e-7 of itself.
    #[inline(always)]
    pub fn inverse<S: Simd>(self, s: S) -> [V<S, E>; 2] {
        each(self.inv_e, |x| V::<S, E>::splat(s, x))
    }

    /// T.
    pub fn t(self) -> f64 {
        self.t
    }

    /// 1/T.
    pub fn inv(self) -> f64 {
        self.inv
    }

    /// N of a frame.
    #[inline(always)]
    fn n<S: Simd>(self, s: S, at: &[W<S>]) -> W<S> {
        W::splat(s, E::MAGIC.to_f64() + E::EXP_BIAS.to_f64()) - at[1]
    }

    /// e^{x/T}·2^k for whole k.
    #[inline(always)]
    pub fn exp_wide<S: Simd>(self, s: S, x: W<S>, k: W<S>) -> W<S> {
        let r = fma(k, W::splat(s, self.ln2.1), fma(k, W::splat(s, self.ln2.0), x));
        wide::exp(s, r * self.inv)
    }

    /// e^{m/T} in the frame's units, m being the frame's maximum.
    #[inline(always)]
    pub fn top<S: Simd>(self, s: S, at: &[W<S>]) -> W<S> {
        self.exp_wide(s, at[3], -self.n(s, at))
    }

    /// The logarithm of a sum in the frame's units, in units of 1 (not of T).
    #[inline(always)]
    pub fn ln<S: Simd>(self, s: S, at: &[W<S>], sum: W<S>) -> W<S> {
        at[0] * self.inv + (wide::ln(s, sum) + self.n(s, at) * std::f64::consts::LN_2)
    }

    /// The log-sum-exp of the second of two rows less that of the first, in units of T, as head and tail: taken between
    /// the frames of the sums, so that a common offset costs nothing.
    #[inline(always)]
    pub fn gap<S: Simd>(self, s: S, at: [&[W<S>]; 2], sum: [W<S>; 2]) -> [W<S>; 2] {
        let n = self.n(s, at[1]) - self.n(s, at[0]);
        let (frames, error) = two_sum(at[1][0] - at[0][0], n * self.ln2.0);
        let ratio = (wide::ln(s, sum[1]) - wide::ln(s, sum[0])) * self.t;
        let (gap, more) = two_sum(frames, fma(n, W::splat(s, self.ln2.1), ratio));
        let head = E::head(gap);
        [head, (gap - head) + (error + more)]
    }

    /// The factor from the units of one frame to those of another: a power of two, exactly, where their bases are the same.
    /// At most 1e300, so that a part without mass stays without.
    ///
    /// Of the exponent only what is no whole power of two is rounded: all of it, a hundred, would be off by 2^−53 of itself.
    #[inline(always)]
    pub fn factor<S: Simd>(self, s: S, from: &[W<S>], to: &[W<S>]) -> W<S> {
        let (x, n) = (from[0] - to[0], self.n(s, from) - self.n(s, to));
        let (least, most) = (W::splat(s, -2000.0), W::splat(s, 2000.0));
        let k = fma(x, W::splat(s, std::f64::consts::LOG2_E * self.inv), n).round_ties_even();
        let k = k.simd_lt(least).select(least, k);
        let k = k.simd_gt(most).select(most, k);
        let rest = fma(n - k, W::splat(s, self.ln2.1), fma(n - k, W::splat(s, self.ln2.0), x));
        wide::exp_scaled(s, rest * self.inv, k).min(W::splat(s, 1e300))
    }

    /// How far the largest b of one part is above that of another, in units of T, as head and tail; their frames end in
    /// c = max b − max a, head and tail.
    #[inline(always)]
    pub fn rise<S: Simd>(self, s: S, from: &[W<S>], to: &[W<S>]) -> (W<S>, W<S>) {
        let n = self.n(s, from) - self.n(s, to);
        let ((base, x), (c, y)) = (two_diff(from[0], to[0]), two_diff(from[3], to[3]));
        let (sum, error) = two_sum(base, c);
        let (rise, more) = two_sum(sum, n * self.ln2.0);
        two_sum(rise, fma(n, W::splat(s, self.ln2.1), (from[4] - to[4]) + ((x + y) + (error + more))))
    }

    /// The frame that two parts of the same rows are referred to, and how each is; `count` of each part's maxima.
    #[inline(always)]
    pub fn join<S: Simd>(self, s: S, [a, b]: [&[W<S>]; 2], count: [Sum<S>; 2]) -> Join<S, LOG> {
        let none = W::splat(s, f64::NEG_INFINITY);
        let zero = W::splat(s, 0.0);
        // A part none of whose classes is its maximum has no mass (or no finite maximum).
        let (absent_a, absent_b) = (count[0].hi.simd_eq(zero), count[1].hi.simd_eq(zero));
        // Exact where it matters: bases are multiples of one power of two, tops small.
        let swap = !absent_b & (absent_a | ((b[0] - a[0]) + (b[3] - a[3])).simd_gt(zero));
        let at: [W<S>; LOG] = array(|i| swap.select(b[i], a[i]));
        let mut join = Join { at, apart: [zero; 2], factor: [zero; 2], top: [zero; 2] };
        for (i, (x, absent)) in [(a, absent_a), (b, absent_b)].into_iter().enumerate() {
            join.apart[i] = absent.select(none, (x[0] - at[0]) + (x[3] - at[3]));
            join.factor[i] = absent.select(zero, self.factor(s, x, &at));
            join.top[i] = absent.select(zero, self.top(s, x) * join.factor[i]);
        }
        join
    }
}

/// How two parts of the same rows, `a` and `b`, are referred to the frame of the one with the larger maximum.
pub struct Join<S: Simd, const N: usize> {
    /// The frame kept.
    pub at: [W<S>; N],
    /// Logarithm of each part's maximum less that of the frame kept (in units of T): 0 or negative.
    pub apart: [W<S>; 2],
    /// Factor from each part's units to those kept.
    pub factor: [W<S>; 2],
    /// Each part's largest mass in the units kept.
    pub top: [W<S>; 2],
}

impl<S: Simd, const N: usize> Join<S, N> {
    /// Sums in units of mass.
    #[inline(always)]
    pub fn scaled(&self, [a, b]: [Sum<S>; 2]) -> Sum<S> {
        a.times(self.factor[0]).plus(b.times(self.factor[1]))
    }

    /// The sum outside the maximum and the count at it, from those of the parts.
    #[inline(always)]
    pub fn masses(&self, s: S, others: [Sum<S>; 2], count: [Sum<S>; 2]) -> [Sum<S>; 2] {
        let zero = W::splat(s, 0.0);
        let mut total = self.scaled(others);
        let mut at_top = Sum::new(s, zero);
        for (i, count) in count.into_iter().enumerate() {
            let stays = self.apart[i].simd_eq(zero);
            let count = count.value(s);
            total = total.plus(Sum::new(s, self.top[i]).times(stays.select(zero, count)));
            at_top = at_top.plus(Sum::new(s, stays.select(count, zero)));
        }
        [total, at_top]
    }

    /// Sums of mass times logarithm over the maximum, where `mass` is the parts' mass in their own units, and
    /// `apart` says how far each part's maximum is below the one kept.
    #[inline(always)]
    pub fn moments(&self, s: S, apart: [W<S>; 2], moment: [Sum<S>; 2], mass: [W<S>; 2]) -> Sum<S> {
        let zero = W::splat(s, 0.0);
        let [a, b]: [Sum<S>; 2] = array(|i| {
            // A part without mass has nothing to shift, and its `apart` is infinite.
            let shift = apart[i].abs().simd_lt(f64::INFINITY).select(apart[i], zero);
            let sum = moment[i].plus(Sum::new(s, mass[i]).times(shift)).times(self.factor[i]);
            // Nor has one whose masses vanish beside the other's, though its shift may overflow; what is out of support is.
            let none = self.factor[i].simd_eq(zero);
            let least = W::splat(s, f64::NEG_INFINITY);
            let outside = moment[i].hi.simd_eq(least).select(least, zero);
            Sum::select(none, Sum::new(s, outside), sum)
        });
        a.plus(b)
    }
}

/// ln k + ln(1 + others/(k·top)): the log-sum-exp less the maximum, which for a confident row is tiny and must not be
/// taken of 1.000000002. NaN where the row has no mass or its maximum is not finite.
#[inline(always)]
pub fn ln_over_top<S: Simd>(s: S, top: W<S>, others: Sum<S>, count: W<S>) -> Sum<S> {
    let over = wide::ln_1p_parts(s, others.over(Sum::new(s, top).times(count)));
    if count.simd_eq(W::splat(s, 1.0)).all_true() {
        return over;
    }
    let sum = wide::ln_parts(s, count).plus(over);
    Sum::select(count.simd_gt(W::splat(s, 0.0)), sum, Sum::new(s, W::splat(s, f64::NAN)))
}

/// Whether a row's largest mass could be scaled to near 1; rows at the very ends of the element's range could not, and
/// are passed once more in double precision or scaled.
#[inline(always)]
pub fn in_range<S: Simd>(s: S, top: W<S>) -> <W<S> as SimdBase<S>>::Mask {
    top.simd_ge(W::splat(s, 0.5)) & top.simd_le(W::splat(s, 4.0))
}

/// Whether sums of masses between these are far from both ends of the element's range; rows whose are not are scaled and
/// passed once more. Above, a term may be as much as its mass times the logarithm of a ratio, at most 1490.
#[inline(always)]
pub fn sums_in_range<S: Simd, E: Element>(least: W<S>, largest: W<S>) -> <W<S> as SimdBase<S>>::Mask {
    least.simd_gt(E::LEAST) & largest.simd_lt(E::MOST / 4096.0)
}

/// The frame of rows of masses with these maxima: a power of two that brings the maximum near 1, and the maximum so
/// scaled. The scale stays within what the element holds as a normal number.
#[inline(always)]
pub fn lin_frame<S: Simd, E: Element>(s: S, max: W<S>) -> [W<S>; LIN] {
    let m = max.max(W::splat(s, 0.0));
    let exponent = m.to_bits() & W::<S>::splat(s, f64::INFINITY).to_bits();
    let pow2: W<S> = W::from_bits(exponent);
    let most = W::splat(s, E::MOST);
    let scale = (W::splat(s, 1.0) / pow2).min(most).max(W::splat(s, 1.0) / most);
    // An infinite maximum gets a scale of 0, which makes the row NaN.
    let scale = m.simd_lt(f64::INFINITY).select(scale, W::splat(s, 0.0));
    [scale, m * scale]
}

/// [`Scale::join`] for rows of masses: the factors are powers of two.
#[inline(always)]
pub fn join_lin<S: Simd>(s: S, a: &[W<S>], b: &[W<S>]) -> Join<S, LIN> {
    let swap = (b[1] / b[0]).simd_gt(a[1] / a[0]);
    let at: [W<S>; LIN] = array(|i| swap.select(b[i], a[i]));
    let zero = W::splat(s, 0.0);
    let mut join = Join { at, apart: [zero; 2], factor: [zero; 2], top: [zero; 2] };
    for (i, x) in [a, b].into_iter().enumerate() {
        join.factor[i] = at[0] / x[0];
        join.top[i] = x[1] * join.factor[i];
        // Zero where the maxima are equal, for that is what tells whether a part's maximum stays one.
        join.apart[i] = join.top[i].simd_eq(at[1]).select(zero, wide::ln(s, join.top[i] / at[1]));
    }
    join
}

/// ln(mass ratio) of two logarithms on rows whose log-sum-exps differ by head + tail, as an exact difference:
/// a common offset costs nothing. NaN where either is infinite.
#[inline(always)]
pub fn gap<S: Simd, E: Math>(x: V<S, E>, y: V<S, E>, head: V<S, E>, tail: V<S, E>, inv: [V<S, E>; 2]) -> V<S, E> {
    let (h, l) = two_diff(y, x);
    // Exact where the difference is next to the head: l less the tail first would cost 2^−24 ulp of the head, and far from
    // it costs what this does.
    let high = (h - head) + l;
    fma(high, inv[0], fma(high, inv[1], -(tail * inv[0])))
}

/// [`gap`] with infinities: ±∞ where one of the masses is absent (or the difference overflows), 0 where both are.
#[inline(always)]
pub fn gap_anywhere<S: Simd, E: Math>(
    s: S,
    x: V<S, E>,
    y: V<S, E>,
    head: V<S, E>,
    tail: V<S, E>,
    inv: [V<S, E>; 2],
) -> V<S, E> {
    let zero = V::<S, E>::splat(s, E::ZERO);
    let (h, l) = two_diff(y, x);
    let (high, lost) = two_diff(h, head);
    let finite = high.abs().simd_lt(E::INFINITY);
    // Of an infinite difference the errors are NaN.
    let (low, more) = (finite.select((l + lost) - tail, zero), finite.select(high, zero));
    let both = x.simd_eq(E::NEG_INFINITY) & y.simd_eq(E::NEG_INFINITY);
    both.select(zero, fma(high, inv[0], fma(more, inv[1], low * inv[0])))
}

/// Where [`phi_doubled`] is better than eᵈ − 1 − d as it stands. That cancels by a factor of 2 at −3 and of 5 at 1.75, but
/// what d is off enters the one times 1.3 to 3, and hardly the other, whose eᵈ comes from the elements themselves.
pub const DOUBLED: (f64, f64) = (-3.0, 1.75);

/// φ(d) = eᵈ − 1 − d for −4 < d < 4 without cancellation: with u = e^h − 1, φ(2h) = u² + 2φ(h), twice, from a polynomial.
#[inline(always)]
pub fn phi_doubled<S: Simd, E: Math>(s: S, d: V<S, E>) -> V<S, E> {
    let splat = |x: f64| V::<S, E>::splat(s, E::from_f64(x));
    let h = d * splat(0.25);
    let v = h * h * E::phi(s, h);
    let u = h + v;
    let v = fma(u, u, v + v);
    let u = fma(h, splat(2.0), v);
    fma(u, u, v + v)
}
