//! The one door into vector code: element types, their 64-byte logical vectors, levels and dispatch.
//!
//! Every level computes on the same logical vector (16 lanes of `f32`, 8 of `f64`) with correctly fused
//! multiply-add, so that the order of summation, and with it every bit of a result, does not depend on the machine.
//! The portable level of x86-64 is SSE2 with a multiply-add in software; other SSE levels would only add to the size.

mod environment;

use std::mem::MaybeUninit;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU8, Ordering};

pub use environment::in_default_environment;
pub use fearless_simd::prelude::*;
pub use fearless_simd::{Level, Simd, f32x16, f64x8, i32x16, i64x8, prelude, u64x8};

/// 8 lanes of `f64`: what sums, frames and results of 8 rows are kept in, whatever the element.
pub type W<S> = f64x8<S>;
/// The logical vector of an element.
pub type V<S, E> = <E as Element>::V<S>;
/// A choice per lane of `V`.
pub type M<S, E> = <V<S, E> as SimdBase<S>>::Mask;

/// Whether this is the portable level of x86-64, for processors older than 2013. Half of all that is compiled would be
/// for it, so that what only makes things faster leaves it out: `if const { is_portable::<S>() }` compiles one branch.
pub const fn is_portable<S: Simd>() -> bool {
    cfg!(target_arch = "x86_64") && size_of::<S::f32s>() == 16
}

/// Whether a level has the driver across rows.
pub fn goes_across(level: Level) -> bool {
    fn of<S: Simd>(_: S) -> bool {
        !is_portable::<S>()
    }
    dispatch!(level, s => of(s))
}

/// Whether one register holds a logical vector, and there are 32 of them: AVX-512.
pub const fn is_wide<S: Simd>() -> bool {
    size_of::<S::f32s>() == 64
}

/// `a·b + c`, rounded once on every level.
#[inline(always)]
pub fn fma<S: Simd, T: SimdFloat<S>>(a: T, b: T, c: T) -> T {
    match a.token().level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(_) | Level::Avx2(_) => a.mul_add(b, c),
        #[cfg(target_arch = "aarch64")]
        Level::Neon(_) => a.mul_add(b, c),
        _ => fma_portable(a, b, c),
    }
}

/// One call a vector: inlined, hundreds of instructions a product would be most of what is compiled.
#[inline(never)]
fn fma_portable<S: Simd, T: SimdFloat<S>>(a: T, b: T, c: T) -> T {
    a.mul_add_precise(b, c)
}

/// `a + b` exactly, as a rounded sum and its error.
#[inline(always)]
pub fn two_sum<S: Simd, T: SimdFloat<S>>(a: T, b: T) -> (T, T) {
    let h = a + b;
    let t = h - a;
    (h, (a - (h - t)) + (b - t))
}

/// `a − b` exactly, as a rounded difference and its error.
#[inline(always)]
pub fn two_diff<S: Simd, T: SimdFloat<S>>(a: T, b: T) -> (T, T) {
    let h = a - b;
    let t = h - a;
    (h, (a - (h - t)) - (b + t))
}

/// [`std::array::from_fn`] that is certain to be inlined: a call out of it would leave the level's features behind.
#[inline(always)]
pub fn array<T: Copy, const N: usize>(mut make: impl FnMut(usize) -> T) -> [T; N] {
    let mut items = [const { MaybeUninit::<T>::uninit() }; N];
    for (i, item) in items.iter_mut().enumerate() {
        item.write(make(i));
    }
    // SAFETY: every item has been written, and `MaybeUninit` has the layout of what it holds.
    unsafe { std::ptr::from_ref(&items).cast::<[T; N]>().read() }
}

/// `map` of an array, likewise.
#[inline(always)]
pub fn each<T: Copy, U: Copy, const N: usize>(items: [T; N], mut make: impl FnMut(T) -> U) -> [U; N] {
    array(|i| make(items[i]))
}

/// `f32` or `f64`: an element of the compiled kernels. Every other dtype is widened to one of them while it is read.
pub trait Element: SimdFloatElement + PartialOrd + Send + Sync + 'static {
    /// Lanes of the logical vector.
    const LANES: usize;
    /// Smallest positive normal number.
    const TINY: Self;
    /// Largest power of two that is kept clear of overflow, for scales.
    const MOST: f64;
    /// Sums of masses from here on are far from losing digits to underflow.
    const LEAST: f64;
    /// Bounds within which neither a ratio nor a sum of a chain of such numbers leaves the normal range.
    const RATIOS: (Self, Self);
    /// 0.
    const ZERO: Self;
    /// ∞.
    const INFINITY: Self;
    /// The canonical NaN.
    const NAN: Self;
    /// −∞: no mass in a row of logarithms.
    const NEG_INFINITY: Self;
    /// The logical vector.
    type V<S: Simd>: SimdFloat<S, Element = Self>;
    /// Wide accumulators, one a lane: `f64` for `f32`, double-double for `f64`.
    type Acc<S: Simd>: Copy;

    /// The element nearest to an `f64`.
    fn from_f64(x: f64) -> Self;
    /// Exactly this value as `f64`.
    fn to_f64(self) -> f64;
    /// All lanes as `f64`: 8 lanes, then the other 8 of an `f32` vector (an `f64` vector repeats its own).
    fn widen<S: Simd>(v: Self::V<S>) -> [W<S>; 2];
    /// The same lanes rounded to the element's precision.
    #[inline(always)]
    fn head<S: Simd>(w: W<S>) -> W<S> {
        Self::widen(Self::narrow([w, w]))[0]
    }
    /// The vector nearest to 16 (`f32`) or the first 8 (`f64`) lanes.
    fn narrow<S: Simd>(w: [W<S>; 2]) -> Self::V<S>;
    /// Accumulators at zero.
    fn acc_zero<S: Simd>(s: S) -> Self::Acc<S>;
    /// Accumulators that hold one vector.
    fn acc_of<S: Simd>(s: S, v: Self::V<S>) -> Self::Acc<S>;
    /// Adds one vector, exactly or with its rounding error kept.
    fn acc_add<S: Simd>(acc: Self::Acc<S>, v: Self::V<S>) -> Self::Acc<S>;
    /// Adds lane to lane.
    fn acc_join<S: Simd>(a: Self::Acc<S>, b: Self::Acc<S>) -> Self::Acc<S>;
    /// All lanes of 8 accumulators, one a row, on the tree 8-4-2-1.
    fn acc_fold<S: Simd>(acc: [Self::Acc<S>; 8]) -> Sum<S>;
    /// The accumulators as sums of 8 rows, twice.
    fn acc_rows<S: Simd>(s: S, acc: Self::Acc<S>) -> [Sum<S>; 2];
}

/// Sums of 8 rows, each a head and a much smaller tail.
#[derive(Clone, Copy)]
pub struct Sum<S: Simd> {
    /// The rounded sum.
    pub hi: W<S>,
    /// What rounding left; meaningless where `hi` is not finite.
    pub lo: W<S>,
}

impl<S: Simd> Sum<S> {
    /// Sums without a tail.
    #[inline(always)]
    pub fn new(s: S, hi: W<S>) -> Self {
        Sum { hi, lo: W::splat(s, 0.0) }
    }

    /// The sums rounded to `f64`.
    #[inline(always)]
    pub fn value(self, s: S) -> W<S> {
        let finite = self.hi.abs().simd_lt(W::splat(s, f64::INFINITY));
        finite.select(self.hi + self.lo, self.hi)
    }

    /// The first sums in these lanes, the second in the others.
    #[inline(always)]
    pub fn select(lanes: <W<S> as SimdBase<S>>::Mask, a: Self, b: Self) -> Self {
        Sum { hi: lanes.select(a.hi, b.hi), lo: lanes.select(a.lo, b.lo) }
    }

    /// Adds sums of the same rows.
    #[inline(always)]
    pub fn plus(self, b: Self) -> Self {
        let (hi, e) = two_sum(self.hi, b.hi);
        Sum { hi, lo: e + (self.lo + b.lo) }
    }

    /// The same numbers as the only such pairs whose heads are what the sums round to.
    #[inline(always)]
    pub fn normalised(self) -> Self {
        let (hi, lo) = two_sum(self.hi, self.lo);
        let finite = self.hi.abs().simd_lt(f64::INFINITY);
        Sum { hi: finite.select(hi, self.hi), lo }
    }

    /// The same sums with the other sign.
    #[inline(always)]
    pub fn negated(self) -> Self {
        Sum { hi: -self.hi, lo: -self.lo }
    }

    /// Divides by other sums of the same rows.
    #[inline(always)]
    pub fn over(self, b: Self) -> Self {
        let inverse = W::splat(self.hi.token(), 1.0) / b.hi;
        let hi = self.hi * inverse;
        let lo = (fma(-hi, b.hi, self.hi) + fma(-hi, b.lo, self.lo)) * inverse;
        Sum { hi, lo }
    }

    /// Multiplies by one factor a row; an infinite sum stays what it is.
    #[inline(always)]
    pub fn times(self, w: W<S>) -> Self {
        let finite = self.hi.abs().simd_lt(f64::INFINITY);
        let hi = self.hi * w;
        let e = fma(self.hi, w, -hi);
        Sum { hi: finite.select(hi, self.hi), lo: fma(self.lo, w, e) }
    }
}

/// One step of the tree for two vectors of lanes: the upper half of each is added to its lower half, and the sums of the two
/// alternate. Three steps over rows 0 and 4, 2 and 6, 1 and 5, 3 and 7 leave one lane a row, in order.
#[inline(always)]
fn meet<S: Simd>(a: W<S>, b: W<S>) -> W<S> {
    a.zip_low(b) + a.zip_high(b)
}

/// All lanes of two sets of 8 vectors on the tree 8-4-2-1, in the element's precision.
#[inline(always)]
pub fn fold<S: Simd, E: Element>(sets: [[V<S, E>; 8]; 2]) -> [W<S>; 2] {
    let mut v: [V<S, E>; 16] = array(|i| sets[i / 8][i % 8]);
    for v in v.chunks_exact_mut(E::LANES) {
        let mut half = E::LANES / 2;
        while half > 0 {
            for k in 0..half {
                v[k] = v[k].zip_low(v[k + half]) + v[k].zip_high(v[k + half]);
            }
            half /= 2;
        }
    }
    if E::LANES == 16 { E::widen(v[0]) } else { [E::widen(v[0])[0], E::widen(v[8])[0]] }
}

/// [`meet`] of sums.
#[inline(always)]
fn meet_sums<S: Simd>(a: Sum<S>, b: Sum<S>) -> Sum<S> {
    let (low, high) = (
        Sum { hi: a.hi.zip_low(b.hi), lo: a.lo.zip_low(b.lo) },
        Sum { hi: a.hi.zip_high(b.hi), lo: a.lo.zip_high(b.lo) },
    );
    low.plus(high)
}

impl Element for f32 {
    const LANES: usize = 16;
    const TINY: f32 = f32::MIN_POSITIVE;
    // 2^126; 2^−60: of close rows a class adds 1e-15 of its mass and less
    const MOST: f64 = 8.507_059_173_023_462e37;
    const LEAST: f64 = 8.673_617_379_884_035e-19;
    const RATIOS: (f32, f32) = (1.2e-38, 8e37);
    const ZERO: f32 = 0.0;
    const INFINITY: f32 = f32::INFINITY;
    const NAN: f32 = f32::NAN;
    const NEG_INFINITY: f32 = f32::NEG_INFINITY;
    type V<S: Simd> = f32x16<S>;
    type Acc<S: Simd> = [W<S>; 2];

    #[inline(always)]
    fn from_f64(x: f64) -> f32 {
        x as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn widen<S: Simd>(v: f32x16<S>) -> [W<S>; 2] {
        let (lo, hi) = v.widen();
        [lo, hi]
    }
    #[inline(always)]
    fn narrow<S: Simd>(w: [W<S>; 2]) -> f32x16<S> {
        w[0].narrow(w[1])
    }
    #[inline(always)]
    fn acc_zero<S: Simd>(s: S) -> [W<S>; 2] {
        [W::splat(s, 0.0); 2]
    }
    #[inline(always)]
    fn acc_of<S: Simd>(_: S, v: f32x16<S>) -> [W<S>; 2] {
        Self::widen(v)
    }
    #[inline(always)]
    fn acc_add<S: Simd>(acc: [W<S>; 2], v: f32x16<S>) -> [W<S>; 2] {
        let (lo, hi) = v.widen();
        [acc[0] + lo, acc[1] + hi]
    }
    #[inline(always)]
    fn acc_join<S: Simd>(a: [W<S>; 2], b: [W<S>; 2]) -> [W<S>; 2] {
        [a[0] + b[0], a[1] + b[1]]
    }
    #[inline(always)]
    fn acc_fold<S: Simd>(acc: [[W<S>; 2]; 8]) -> Sum<S> {
        let [a, b, c, d, e, f, g, h] = each(acc, |acc| acc[0] + acc[1]);
        let first = meet(meet(a, e), meet(c, g));
        let hi = meet(first, meet(meet(b, f), meet(d, h)));
        Sum::new(hi.token(), hi)
    }
    #[inline(always)]
    fn acc_rows<S: Simd>(s: S, acc: [W<S>; 2]) -> [Sum<S>; 2] {
        [Sum::new(s, acc[0]), Sum::new(s, acc[1])]
    }
}

impl Element for f64 {
    const LANES: usize = 8;
    const TINY: f64 = f64::MIN_POSITIVE;
    // 2^1022, 2^−900
    const MOST: f64 = 4.494_232_837_155_79e307;
    const LEAST: f64 = 1.183_052_186_166_774_7e-271;
    const RATIOS: (f64, f64) = (2.3e-308, 4e307);
    const ZERO: f64 = 0.0;
    const INFINITY: f64 = f64::INFINITY;
    const NAN: f64 = f64::NAN;
    const NEG_INFINITY: f64 = f64::NEG_INFINITY;
    type V<S: Simd> = f64x8<S>;
    type Acc<S: Simd> = Sum<S>;

    #[inline(always)]
    fn from_f64(x: f64) -> f64 {
        x
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn widen<S: Simd>(v: f64x8<S>) -> [W<S>; 2] {
        [v, v]
    }
    #[inline(always)]
    fn narrow<S: Simd>(w: [W<S>; 2]) -> f64x8<S> {
        w[0]
    }
    #[inline(always)]
    fn acc_zero<S: Simd>(s: S) -> Sum<S> {
        Sum::new(s, W::splat(s, 0.0))
    }
    #[inline(always)]
    fn acc_of<S: Simd>(s: S, v: f64x8<S>) -> Sum<S> {
        Sum::new(s, v)
    }
    #[inline(always)]
    fn acc_add<S: Simd>(acc: Sum<S>, v: f64x8<S>) -> Sum<S> {
        let (hi, e) = two_sum(acc.hi, v);
        Sum { hi, lo: acc.lo + e }
    }
    #[inline(always)]
    fn acc_join<S: Simd>(a: Sum<S>, b: Sum<S>) -> Sum<S> {
        a.plus(b)
    }
    #[inline(always)]
    fn acc_fold<S: Simd>([a, b, c, d, e, f, g, h]: [Sum<S>; 8]) -> Sum<S> {
        let first = meet_sums(meet_sums(a, e), meet_sums(c, g));
        meet_sums(first, meet_sums(meet_sums(b, f), meet_sums(d, h)))
    }
    #[inline(always)]
    fn acc_rows<S: Simd>(_: S, acc: Sum<S>) -> [Sum<S>; 2] {
        [acc, acc]
    }
}

/// Loads one vector from memory that need not be aligned.
///
/// # Safety
/// `E::LANES` elements must be readable at `at`.
#[inline(always)]
pub unsafe fn load<S: Simd, E: Element>(s: S, at: *const E) -> V<S, E> {
    // SAFETY: the caller vouches for the bytes, and an array of floats has no invalid bit patterns. Read by value
    // through a raw pointer: Python may write to this memory meanwhile, so no reference to it is formed.
    let array = unsafe { at.cast::<<V<S, E> as SimdBase<S>>::Array>().read_unaligned() };
    V::<S, E>::load_array(s, array)
}

/// Stores one vector to memory that need not be aligned.
///
/// # Safety
/// `E::LANES` elements must be writable at `to`.
#[inline(always)]
pub unsafe fn store<S: Simd, E: Element>(v: V<S, E>, to: *mut E) {
    // SAFETY: as the caller vouches.
    unsafe { to.cast::<<V<S, E> as SimdBase<S>>::Array>().write_unaligned(v.to_array()) };
}

/// Asks for the cache line at `at`, which may be any address.
#[inline(always)]
pub fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it neither reads nor faults, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Names of the levels, best first.
const NAMES: [&str; 4] = ["avx512", "avx2", "neon", "portable"];
/// Index into `NAMES` of the level in force, plus one; 0 until first asked for.
static FORCED: AtomicU8 = AtomicU8::new(0);

/// The levels of `NAMES`, where this machine has them. Asking the processor takes a fifth of a call on one row.
static LEVELS: LazyLock<[Option<Level>; 4]> = LazyLock::new(|| NAMES.map(detect));

fn detect(name: &str) -> Option<Level> {
    let best = Level::new();
    match name {
        #[cfg(target_arch = "x86_64")]
        "avx512" => best.as_avx512().map(Level::Avx512),
        #[cfg(target_arch = "x86_64")]
        "avx2" => best.as_avx2().map(Level::Avx2),
        #[cfg(target_arch = "aarch64")]
        "neon" => best.as_neon().map(Level::Neon),
        #[cfg(target_arch = "x86_64")]
        "portable" => best.as_sse2().map(Level::Sse2),
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        "portable" => Some(Level::fallback()),
        _ => {
            let _ = best;
            None
        }
    }
}

/// The levels this machine can run, best first.
pub fn levels() -> Vec<&'static str> {
    NAMES.into_iter().zip(LEVELS.iter()).filter(|(_, level)| level.is_some()).map(|(name, _)| name).collect()
}

/// The levels themselves, best first.
pub fn all_levels() -> Vec<Level> {
    LEVELS.iter().copied().flatten().collect()
}

/// Forces a level; `false` if this machine cannot run it.
pub fn set_level(name: &str) -> bool {
    match NAMES.iter().position(|n| *n == name) {
        Some(i) if LEVELS[i].is_some() => {
            FORCED.store(i as u8 + 1, Ordering::Relaxed);
            true
        }
        _ => false,
    }
}

/// Index into `NAMES` of the level in force: the best one, or what the environment variable `KULLBACK_SIMD` names.
fn in_force() -> usize {
    match FORCED.load(Ordering::Relaxed) {
        0 => {
            let wish = std::env::var("KULLBACK_SIMD").unwrap_or_default();
            if !set_level(&wish) {
                set_level(levels()[0]);
            }
            in_force()
        }
        i => usize::from(i) - 1,
    }
}

/// The name of the level in force.
pub fn level_name() -> &'static str {
    NAMES[in_force()]
}

/// The level in force.
pub fn level() -> Level {
    LEVELS[in_force()].unwrap_or_else(Level::new)
}

/// Runs an expression with the features of a level enabled. Closures of other threads do not inherit them: dispatch
/// inside each chunk of work.
macro_rules! dispatch {
    ($level:expr, $s:ident => $body:expr) => {
        match $level {
            #[cfg(target_arch = "x86_64")]
            $crate::simd::Level::Avx512($s) => $crate::simd::Simd::vectorize(
                $s,
                #[inline(always)]
                || $body,
            ),
            #[cfg(target_arch = "x86_64")]
            $crate::simd::Level::Avx2($s) => $crate::simd::Simd::vectorize(
                $s,
                #[inline(always)]
                || $body,
            ),
            #[cfg(target_arch = "aarch64")]
            $crate::simd::Level::Neon($s) => $crate::simd::Simd::vectorize(
                $s,
                #[inline(always)]
                || $body,
            ),
            #[cfg(target_arch = "x86_64")]
            $crate::simd::Level::Sse2($s) => $crate::simd::Simd::vectorize(
                $s,
                #[inline(always)]
                || $body,
            ),
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            $crate::simd::Level::Fallback($s) => $crate::simd::Simd::vectorize(
                $s,
                #[inline(always)]
                || $body,
            ),
            _ => unreachable!("`level` gives no other"),
        }
    };
}
pub(crate) use dispatch;
