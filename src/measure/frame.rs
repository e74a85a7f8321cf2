//! What the sums of a block refer to, in each of the two spaces, and how blocks with different frames are joined.

use crate::math::{Math, wide};
use crate::simd::*;


/// Numbers in the frame of a row of logarithms: base, shift, floor, top.
pub const LOG: usize = 4;
/// Numbers in the frame of a row of masses: scale, top.
pub const LIN: usize = 2;

/// e^{x/T}: the constants of its range reduction with the temperature T folded in.
///
/// With base a multiple of a power of two near 256·T that is close to the row's maximum m, and an integer N near
/// (m − base)·log₂e/T, the kernels form 2^{−N}·e^{(x−base)/T} = 2^{n−N}·e^r straight from x, where
/// r = ((x − base) − n·T·ln 2)/T. x − base is exact wherever e^x is not negligible; fl(x − m) alone would cost up to
/// 4 ulp on a flat tail and a multiplication by 1/T up to 14.
#[derive(Clone, Copy)]
pub struct Scale<E> {
    t: f64,
    inv: f64,
    unit: f64,
    log2_e: E,
    inv_e: E,
    hi: E,
    lo: E,
}

impl<E: Math> Scale<E> {
    /// The scale of a temperature; `None` where its constants leave the normal range of `E`.
    pub fn new(t: f64) -> Option<Self> {
        let reach = if E::LANES == 16 { 1e25 } else { 1e290 };
        if !(t > 1.0 / reach && t < reach) {
            return None;
        }
        // T·ln 2 as a head short enough that n·head is exact for |n| < 2^11, and a tail.
        let (ln2, ln2_tail) = (std::f64::consts::LN_2, 2.319_046_813_846_299_6e-17);
        let product = t * ln2;
        let error = t.mul_add(ln2, -product) + t * ln2_tail;
        let keep = if E::LANES == 16 { 53 - (24 - 11) } else { 11 };
        let head = f64::from_bits(product.to_bits() >> keep << keep);
        Some(Scale {
            t,
            inv: 1.0 / t,
            unit: f64::from_bits((256.0 * t).to_bits() >> 52 << 52),
            log2_e: E::from_f64(std::f64::consts::LOG2_E / t),
            inv_e: E::from_f64(1.0 / t),
            hi: E::from_f64(head),
            lo: E::from_f64((product - head) + error),
        })
    }

    /// The frame of 8 rows (or blocks) with these maxima.
    #[inline(always)]
    pub fn frame<S: Simd>(self, s: S, max: W<S>) -> [W<S>; LOG] {
        let finite = max.abs().simd_lt(f64::INFINITY);
        let m = finite.select(max, W::splat(s, 0.0));
        let base = (m * (1.0 / self.unit)).round_ties_even() * self.unit;
        let top = m - base;
        let n = (top * (std::f64::consts::LOG2_E * self.inv)).round_ties_even();
        let (magic, bias) = (E::MAGIC.to_f64(), E::EXP_BIAS.to_f64());
        let shift = W::splat(s, magic + bias) - n;
        let floor = (n - bias) * (std::f64::consts::LN_2 * self.t);
        [base, shift, floor, finite.select(top, max)]
    }

    /// e^{(x + more)/T}·2^{−N} for x already less the base, and x itself, not less than the floor, below which the
    /// result is 0 (2^{−bias} of the row's largest). NaN stays NaN.
    #[inline(always)]
    pub fn exp<S: Simd>(self, s: S, at: &[V<S, E>], x: V<S, E>, more: Option<V<S, E>>) -> (V<S, E>, V<S, E>) {
        let [shift, floor] = [at[1], at[2]];
        let x = x.simd_lt(floor).select(floor, x);
        let t = fma(x, V::<S, E>::splat(s, self.log2_e), shift);
        let n = t - shift;
        let r = fma(n, V::<S, E>::splat(s, E::from_f64(-self.hi.to_f64())), x);
        let mut r = fma(n, V::<S, E>::splat(s, E::from_f64(-self.lo.to_f64())), r);
        if let Some(more) = more {
            r = r + more;
        }
        let r = r * V::<S, E>::splat(s, self.inv_e);
        (E::exp_reduced(s, r) * E::pow2_of_magic(s, t), x)
    }

    /// 1/T in the kernels' precision.
    #[inline(always)]
    pub fn inverse<S: Simd>(self, s: S) -> V<S, E> {
        V::<S, E>::splat(s, self.inv_e)
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

    /// e^{x/T}·2^k, where x/T need not be a float.
    #[inline(always)]
    pub fn exp_wide<S: Simd>(self, s: S, x: W<S>, k: W<S>) -> W<S> {
        let q = x * self.inv;
        let rest = fma(q, W::splat(s, -self.t), x) * self.inv;
        let e = wide::exp_scaled(s, q, k);
        let finite = rest.abs().simd_lt(1.0);
        finite.select(fma(e, rest, e), e)
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

    /// Logarithm of the second sum over the first, each in its frame's units, without the frames' bases.
    #[inline(always)]
    pub fn ln_units<S: Simd>(self, s: S, at: [&[W<S>]; 2], sum: [W<S>; 2]) -> W<S> {
        let n = self.n(s, at[1]) - self.n(s, at[0]);
        fma(n, W::splat(s, std::f64::consts::LN_2), wide::ln(s, sum[1]) - wide::ln(s, sum[0]))
    }

    /// The factor from the units of one frame to those of another.
    #[inline(always)]
    pub fn factor<S: Simd>(self, s: S, from: &[W<S>], to: &[W<S>]) -> W<S> {
        self.exp_wide(s, from[0] - to[0], self.n(s, from) - self.n(s, to))
    }

    /// The frame that two parts of the same rows are referred to, and how each is.
    #[inline(always)]
    pub fn join<S: Simd>(self, s: S, a: &[W<S>], b: &[W<S>]) -> Join<S, LOG> {
        let none = W::splat(s, f64::NEG_INFINITY);
        let zero = W::splat(s, 0.0);
        let (absent_a, absent_b) = (a[3].simd_eq(none), b[3].simd_eq(none));
        // Exact where it matters: bases are multiples of one power of two, tops small.
        let swap = !absent_b & (absent_a | ((b[0] - a[0]) + (b[3] - a[3])).simd_gt(zero));
        let at: [W<S>; LOG] = array(|i| swap.select(b[i], a[i]));
        let mut join = Join { at, apart: [zero; 2], factor: [zero; 2], top: [zero; 2] };
        for (i, (x, absent)) in [(a, absent_a), (b, absent_b)].into_iter().enumerate() {
            join.apart[i] = absent.select(none, (x[0] - at[0]) + (x[3] - at[3]));
            join.factor[i] = absent.select(zero, self.factor(s, x, &at));
            join.top[i] = absent.select(zero, self.exp_wide(s, x[3] + (x[0] - at[0]), -self.n(s, &at)));
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
        a.mul(self.factor[0]).add(b.mul(self.factor[1]))
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
            total = total.add(Sum::new(s, self.top[i]).mul(stays.select(zero, count)));
            at_top = at_top.add(Sum::new(s, stays.select(count, zero)));
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
            moment[i].add(Sum::new(s, mass[i]).mul(shift)).mul(self.factor[i])
        });
        a.add(b)
    }
}

/// ln k + ln(1 + others/(k·top)): the log-sum-exp less the maximum, which for a confident row is tiny and must not be
/// taken of 1.000000002. NaN where the row has no mass or its maximum is not finite.
#[inline(always)]
pub fn ln_over_top<S: Simd>(s: S, max: W<S>, top: W<S>, others: W<S>, count: W<S>) -> W<S> {
    let x = wide::ln(s, count) + wide::ln_1p(s, others / (count * top));
    max.abs().simd_lt(f64::INFINITY).select(x, W::splat(s, f64::NAN))
}

/// The frame of rows of masses with these maxima: a power of two that brings the maximum near 1, and the maximum so
/// scaled. The scale stays within what a normal `f32` holds.
#[inline(always)]
pub fn lin_frame<S: Simd>(s: S, max: W<S>) -> [W<S>; LIN] {
    let m = max.max(W::splat(s, 0.0));
    let exponent = m.to_bits() & W::<S>::splat(s, f64::INFINITY).to_bits();
    let pow2: W<S> = W::from_bits(exponent);
    let most = W::splat(s, f64::from_bits((1023 + 126) << 52));
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
pub fn gap<S: Simd, E: Math>(x: V<S, E>, y: V<S, E>, head: V<S, E>, tail: V<S, E>, inv: V<S, E>) -> V<S, E> {
    let (h, l) = two_diff(y, x);
    ((h - head) + (l - tail)) * inv
}

/// [`gap`] with infinities: ±∞ where one of the masses is absent (or the difference overflows), 0 where both are.
#[inline(always)]
pub fn gap_anywhere<S: Simd, E: Math>(
    s: S,
    x: V<S, E>,
    y: V<S, E>,
    head: V<S, E>,
    tail: V<S, E>,
    inv: V<S, E>,
) -> V<S, E> {
    let zero = V::<S, E>::splat(s, E::ZERO);
    let (h, l) = two_diff(y, x);
    let l = h.abs().simd_lt(E::INFINITY).select(l, zero);
    let both = x.simd_eq(E::NEG_INFINITY) & y.simd_eq(E::NEG_INFINITY);
    both.select(zero, ((h - head) + (l - tail)) * inv)
}
