//! Sums without rounding: the total of any number of floating-point numbers, or of their products, as one wide integer.
//!
//! A finite `f64` is an integer times a power of two, and so is a product of two of them. [`ExactSum`] keeps their
//! total in fixed point wide enough for all of them (2⁻²¹⁷⁶ to beyond 2²¹¹¹) in 32-bit limbs with deferred carries,
//! the small superaccumulator of R. M. Neal, "Fast exact summation using small and large superaccumulators" (2015).
//! Integer addition is associative: any order, any chunks and any tree of merges give the same state, and
//! [`ExactSum::round`] rounds it once, to nearest even.
//!
//! Slices do not go through the limbs element by element. In a block of 512 numbers below 2^(e+1) in magnitude, adding
//! and taking away σ = 1.5·2^(e+9) splits each number x into q, a multiple of 2^(e−43), and x − q, both without
//! rounding (S. M. Rump, T. Ogita and S. Oishi, "Accurate floating-point summation I", 2008). The 512 q add up without
//! rounding in `f64`, in any order, and enter the limbs as one number; what is left is 44 bits smaller and goes round
//! again. These loops are plain arithmetic on arrays, compiled for every instruction set; being exact, they give the same
//! bits on all of them.
//!
//! [`GroupSums`] is the small sibling for a sum per group (a document, a sequence), 16 bytes each.

use crate::simd::{self, dispatch};

const LIMB_BITS: i32 = 32;
const LIMB_MASK: i64 = 0xFFFF_FFFF;
/// Weight of the lowest limb's unit, as a power of two: the multiple of 32 at or below 2⁻²¹⁴⁸, the unit of a product
/// of two subnormals.
pub const UNIT_EXPONENT: i32 = -2176;
/// Products stay below 2²⁰⁴⁸, so 2⁶³ of them below 2²¹¹¹ = 2^(UNIT_EXPONENT + 32·134 − 1).
pub const LIMBS: usize = 134;
/// An addition changes each limb by less than 2³²: after this many a limb is still below 2⁶².
const CARRY_EVERY: u32 = 1 << 29;
/// Numbers split off together: 4 KiB, half of the smallest L1 cache in use with room for the inputs.
const BLOCK: usize = 512;
/// Independent running sums in a block, so that no addition waits for the one before.
const LANES: usize = 16;
/// A block is split at most this often (132 bits of range); what remains of it goes through the limbs.
const PASSES: u32 = 3;

/// An exact sum of `f64` or `f32` numbers and products; infinities and NaNs are counted beside it.
///
/// ```
/// # use kullback::exact_sum::ExactSum;
/// let mut sum = ExactSum::new();
/// sum.add_slice(&[1e100, 1.0, -1e100]);
/// assert_eq!(sum.round(), 1.0);
/// ```
#[derive(Clone, Debug)]
pub struct ExactSum {
    limbs: [i64; LIMBS],
    additions: u32,
    nan: u64,
    positive_infinities: u64,
    negative_infinities: u64,
}

impl Default for ExactSum {
    fn default() -> Self {
        Self::new()
    }
}

impl ExactSum {
    /// The sum of nothing, 0.
    pub const fn new() -> Self {
        Self { limbs: [0; LIMBS], additions: 0, nan: 0, positive_infinities: 0, negative_infinities: 0 }
    }

    /// Adds every element.
    pub fn add_slice(&mut self, values: &[f64]) {
        dispatch!(simd::level(), s => self.add_blocks(values));
    }

    /// Adds every element.
    pub fn add_slice_f32(&mut self, values: &[f32]) {
        dispatch!(simd::level(), s => self.add_blocks(values));
    }

    /// Adds the exact product of each pair. The shorter slice decides how many there are.
    pub fn add_products(&mut self, a: &[f64], b: &[f64]) {
        dispatch!(simd::level(), s => self.add_product_blocks(a, b));
    }

    /// Adds the exact product of each pair. The shorter slice decides how many there are.
    pub fn add_products_f32(&mut self, a: &[f32], b: &[f32]) {
        dispatch!(simd::level(), s => self.add_product_blocks_f32(a, b));
    }

    /// Adds what another sum holds.
    pub fn merge(&mut self, other: &Self) {
        self.carry();
        let mut other = other.clone();
        other.carry();
        for (limb, more) in self.limbs.iter_mut().zip(other.limbs) {
            *limb += more;
        }
        self.nan += other.nan;
        self.positive_infinities += other.positive_infinities;
        self.negative_infinities += other.negative_infinities;
        self.carry();
    }

    /// The sum, rounded once to the nearest `f64` (ties to even); what IEEE addition gives where there is a NaN or an
    /// infinity. The sum of nothing, and any sum that cancels, is +0.
    pub fn round(&self) -> f64 {
        match (self.nan, self.positive_infinities, self.negative_infinities) {
            (0, 0, 0) => self.round_finite(),
            (0, _, 0) => f64::INFINITY,
            (0, 0, _) => f64::NEG_INFINITY,
            _ => f64::NAN,
        }
    }

    /// The state as integers: how many NaN, +inf and −inf, then the limbs, lowest first, each in 0 … 2³² − 1 but the
    /// last, which carries the sign. The finite part is Σ limbᵢ·2^(32 i + [`UNIT_EXPONENT`]). Equal sums of the
    /// same numbers have equal states.
    pub fn to_i64s(&self) -> Vec<i64> {
        let mut canonical = self.clone();
        canonical.carry();
        let counts = [self.nan, self.positive_infinities, self.negative_infinities];
        counts.iter().map(|&n| n as i64).chain(canonical.limbs).collect()
    }

    /// The sum whose [`ExactSum::to_i64s`] this is; None where it cannot be one.
    pub fn from_i64s(state: &[i64]) -> Option<Self> {
        let (counts, limbs) = state.split_at_checked(3)?;
        let limbs: [i64; LIMBS] = limbs.try_into().ok()?;
        let (_, low) = limbs.split_last()?;
        if counts.iter().any(|&n| n < 0) || low.iter().any(|limb| !(0..=LIMB_MASK).contains(limb)) {
            return None;
        }
        let [nan, positive_infinities, negative_infinities] = [counts[0] as u64, counts[1] as u64, counts[2] as u64];
        Some(Self { limbs, additions: 0, nan, positive_infinities, negative_infinities })
    }

    /// Adds one number.
    #[inline]
    pub fn add(&mut self, x: f64) {
        if x.is_finite() {
            let (mantissa, exponent) = decompose(x);
            self.add_integer(u128::from(mantissa), exponent, x.is_sign_negative());
        } else {
            self.count_non_finite(x);
        }
    }

    /// Adds one product, without rounding it.
    #[inline]
    pub fn add_product(&mut self, a: f64, b: f64) {
        if a.is_finite() && b.is_finite() {
            let ((ma, ea), (mb, eb)) = (decompose(a), decompose(b));
            let product = u128::from(ma) * u128::from(mb);
            self.add_integer(product, ea + eb, a.is_sign_negative() != b.is_sign_negative());
        } else {
            self.count_non_finite(a * b);
        }
    }

    #[cold]
    fn count_non_finite(&mut self, x: f64) {
        match x {
            f64::INFINITY => self.positive_infinities += 1,
            f64::NEG_INFINITY => self.negative_infinities += 1,
            _ => self.nan += 1,
        }
    }

    /// Adds ±mantissa·2^exponent, mantissa below 2¹⁰⁶.
    #[inline]
    fn add_integer(&mut self, mantissa: u128, exponent: i32, negative: bool) {
        if self.additions == CARRY_EVERY {
            self.carry();
        }
        self.additions += 1;
        let position = (exponent - UNIT_EXPONENT) as u32;
        let (first, shift) = ((position / 32) as usize, position % 32);
        // The low limb's share is shifted by itself so that 106 + 31 bits need no wider integer.
        let mut rest = mantissa >> (32 - shift);
        let low = ((mantissa << shift) as i64) & LIMB_MASK;
        let sign = if negative { -1 } else { 1 };
        self.limbs[first] += sign * low;
        let mut at = first + 1;
        while rest != 0 {
            self.limbs[at] += sign * (rest as i64 & LIMB_MASK);
            rest >>= 32;
            at += 1;
        }
    }

    #[inline(always)]
    fn add_blocks<T: Copy + Into<f64>>(&mut self, values: &[T]) {
        let mut block = [0.0; BLOCK];
        for chunk in values.chunks(BLOCK) {
            widen(&mut block, chunk);
            self.add_block(&mut block);
        }
    }

    #[inline(always)]
    fn add_product_blocks(&mut self, a: &[f64], b: &[f64]) {
        let (mut block, mut error) = ([0.0; BLOCK], [0.0; BLOCK]);
        for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
            if split_products(&mut block, &mut error, a, b) {
                self.add_block(&mut block);
                self.add_block(&mut error);
            } else {
                a.iter().zip(b).for_each(|(&a, &b)| self.add_product(a, b));
            }
        }
    }

    #[inline(always)]
    fn add_product_blocks_f32(&mut self, a: &[f32], b: &[f32]) {
        let (mut block, mut other) = ([0.0; BLOCK], [0.0; BLOCK]);
        for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
            widen(&mut block, a);
            widen(&mut other, b);
            // 24 and 24 bits fit 53, and 2⁻²⁹⁸ … 2²⁵⁶ the exponents.
            for (x, y) in block.iter_mut().zip(&other) {
                *x *= y;
            }
            self.add_block(&mut block);
        }
    }

    /// Adds a block of finite or non-finite numbers and leaves nothing of use in it.
    #[inline(always)]
    fn add_block(&mut self, block: &mut [f64; BLOCK]) {
        let (mut largest, finite) = magnitude(block);
        // Within these limits σ and every part of the splitting are normal numbers.
        const LOW: f64 = f64::from_bits((1023 - 900) << 52);
        const HIGH: f64 = f64::from_bits((1023 + 900) << 52);
        if finite && largest < HIGH {
            for _ in 0..PASSES {
                if largest < LOW {
                    break;
                }
                let (sum, rest) = split_off(block, largest);
                self.add(sum);
                largest = rest;
            }
            if largest == 0.0 {
                return;
            }
        }
        for &x in block.iter().filter(|&&x| x != 0.0) {
            self.add(x);
        }
    }

    /// Brings every limb but the last into 0 … 2³² − 1: the canonical state of the sum.
    fn carry(&mut self) {
        let mut carry = 0;
        let (last, low) = self.limbs.split_last_mut().expect("LIMBS > 0");
        for limb in low {
            let total = *limb + carry;
            *limb = total & LIMB_MASK;
            carry = total >> LIMB_BITS;
        }
        *last += carry;
        self.additions = 0;
    }

    fn round_finite(&self) -> f64 {
        let mut canonical = self.clone();
        canonical.carry();
        let negative = canonical.limbs[LIMBS - 1] < 0;
        if negative {
            canonical.limbs.iter_mut().for_each(|limb| *limb = -*limb);
            canonical.carry();
        }
        let word = |i: usize| match i {
            LIMBS => (canonical.limbs[LIMBS - 1] >> LIMB_BITS) as u32,
            _ => canonical.limbs.get(i).map_or(0, |&limb| limb as u32),
        };
        let Some(top) = (0..=LIMBS).rev().find(|&i| word(i) != 0) else {
            return 0.0;
        };
        let highest = LIMB_BITS * top as i32 + 31 - word(top).leading_zeros() as i32;
        // Where the result's last bit lies: 52 below its first, or at the unit of the subnormals.
        let last = (highest - 52).max(-1074 - UNIT_EXPONENT) as usize;
        let (first, shift) = (last / 32, last % 32);
        let window = (first..first + 3).rev().fold(0u128, |bits, i| bits << 32 | u128::from(word(i)));
        let mut mantissa = (window >> shift) as u64;
        let (half, below) = ((last - 1) / 32, (last - 1) % 32);
        if word(half) >> below & 1 == 1 {
            let beyond_half = word(half) & ((1 << below) - 1) != 0 || (0..half).any(|i| word(i) != 0);
            mantissa += u64::from(beyond_half || mantissa & 1 == 1);
        }
        // The exponent field counts from the unit of the subnormals. The leading bit of a normal mantissa adds one to
        // it, and one more where the mantissa was rounded up to a power of two: into infinity at the very end.
        let field = (last as i32 + UNIT_EXPONENT + 1074) as u64;
        let value = if field > 2045 { f64::INFINITY } else { f64::from_bits((field << 52) + mantissa) };
        if negative { -value } else { value }
    }
}

/// The mantissa and exponent of |x| = mantissa·2^exponent, for finite x.
#[inline]
fn decompose(x: f64) -> (u64, i32) {
    let bits = x.to_bits();
    let field = (bits >> 52 & 0x7FF) as i32;
    let fraction = bits & ((1 << 52) - 1);
    if field == 0 { (fraction, -1074) } else { (fraction | 1 << 52, field - 1075) }
}

#[inline(always)]
fn widen<T: Copy + Into<f64>>(block: &mut [f64; BLOCK], chunk: &[T]) {
    for (wide, &x) in block.iter_mut().zip(chunk) {
        *wide = x.into();
    }
    block[chunk.len()..].fill(0.0);
}

/// The largest |x|, and whether all are finite.
#[inline(always)]
fn magnitude(block: &[f64; BLOCK]) -> (f64, bool) {
    let (mut largest, mut probe) = ([0.0f64; LANES], [0.0f64; LANES]);
    for chunk in block.chunks_exact(LANES) {
        for lane in 0..LANES {
            let x = chunk[lane].abs();
            largest[lane] = if x > largest[lane] { x } else { largest[lane] };
            // NaN for an infinity or a NaN, else 0.
            probe[lane] += x * 0.0;
        }
    }
    (largest.into_iter().fold(0.0, f64::max), probe.iter().sum::<f64>() == 0.0)
}

/// Takes the leading bits off every number: gives their sum (exact) and the largest magnitude of what is left.
/// `largest` is the largest magnitude now, 2⁻⁹⁰⁰ to 2⁹⁰⁰.
#[inline(always)]
fn split_off(block: &mut [f64; BLOCK], largest: f64) -> (f64, f64) {
    // 512 numbers below 2^(e+1) sum to less than 2^(e+10), and as multiples of 2^(e−43) need 53 bits.
    const GUARD_BITS: u64 = BLOCK.trailing_zeros() as u64;
    let exponent = largest.to_bits() >> 52;
    let sigma = f64::from_bits((exponent + GUARD_BITS) << 52) * 1.5;
    let (mut sums, mut rest) = ([0.0f64; LANES], [0.0f64; LANES]);
    for chunk in block.chunks_exact_mut(LANES) {
        for lane in 0..LANES {
            let leading = (sigma + chunk[lane]) - sigma;
            let left = chunk[lane] - leading;
            chunk[lane] = left;
            sums[lane] += leading;
            rest[lane] = if left.abs() > rest[lane] { left.abs() } else { rest[lane] };
        }
    }
    (sums.into_iter().sum(), rest.into_iter().fold(0.0, f64::max))
}

/// Each product as a rounded one plus its error (T. J. Dekker, 1971), which is exact while no part of it can overflow
/// or underflow. False, with the results of no use, where a magnitude other than 0 lies outside 2⁻⁴⁰⁰ … 2⁴⁰⁰.
#[inline(always)]
fn split_products(block: &mut [f64; BLOCK], error: &mut [f64; BLOCK], a: &[f64], b: &[f64]) -> bool {
    const LOW: f64 = f64::from_bits((1023 - 400) << 52);
    const HIGH: f64 = f64::from_bits((1023 + 400) << 52);
    // Rounding x·(2²⁷ + 1) splits x into two halves of at most 26 bits and a sign.
    const SPLIT: f64 = 134_217_729.0;
    let halves = |x: f64| {
        let scaled = SPLIT * x;
        let high = scaled - (scaled - x);
        (high, x - high)
    };
    let within = |x: f64| (x == 0.0) | ((x.abs() >= LOW) & (x.abs() <= HIGH));
    let used = a.len().min(b.len());
    let mut all_within = true;
    for i in 0..used {
        let (x, y) = (a[i], b[i]);
        all_within &= within(x) & within(y);
        let product = x * y;
        let ((xh, xl), (yh, yl)) = (halves(x), halves(y));
        block[i] = product;
        error[i] = ((xh * yh - product) + xh * yl + xl * yh) + xl * yl;
    }
    block[used..].fill(0.0);
    error[used..].fill(0.0);
    all_within
}

/// Sums per group on a grid of 2⁻⁸⁰, in 128-bit integers: order, chunks and merges do not change a bit of them.
///
/// A number is rounded to the grid as it enters; an `f32` of at least 2⁻⁵⁶ is on it. These sums are for standard errors
/// of means, where 10⁻²⁴ is nothing. A group whose sum reaches ±2⁴⁶, or that meets an infinity or a NaN, is spoilt
/// for good and reads [`GroupSums::SPOILT`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSums {
    sums: Vec<i128>,
}

impl GroupSums {
    /// What the sum of a spoilt group reads.
    pub const SPOILT: i128 = i128::MIN;
    /// The grid is 2 to this power.
    pub const UNIT_EXPONENT: i32 = -80;
    const LIMIT: i128 = 1 << 126;
    /// Numbers added in 64 bits before they are widened: 2¹² of less than 2⁵¹.
    const PART: usize = 1 << 12;

    /// No groups yet.
    pub const fn new() -> Self {
        Self { sums: Vec::new() }
    }

    /// Adds each number to the sum of its group; groups are numbered from 0 and begin at 0.
    /// The shorter slice decides how many numbers there are. Runs of equal groups are quicker than a mixture.
    pub fn add<T: Copy + Into<f64>>(&mut self, values: &[T], groups: &[u32]) {
        dispatch!(simd::level(), s => self.add_runs(values, groups));
    }

    /// Adds group i of another to this one's group `groups[i]`.
    pub fn merge(&mut self, other: &Self, groups: &[u32]) {
        self.grow(groups);
        for (&step, &group) in other.sums.iter().zip(groups) {
            let sum = &mut self.sums[group as usize];
            *sum = Self::plus(*sum, step);
        }
    }

    /// The sums in units of 2⁻⁸⁰, by group.
    pub fn sums(&self) -> &[i128] {
        &self.sums
    }

    /// Two integers a group: the low 64 bits of its sum, as they are, and the high ones.
    pub fn to_i64s(&self) -> Vec<i64> {
        self.sums.iter().flat_map(|&sum| [sum as i64, (sum >> 64) as i64]).collect()
    }

    /// The sums whose [`GroupSums::to_i64s`] this is; None where it cannot be one.
    pub fn from_i64s(state: &[i64]) -> Option<Self> {
        let (pairs, []) = state.as_chunks::<2>() else { return None };
        Some(Self { sums: pairs.iter().map(|&[low, high]| i128::from(high) << 64 | i128::from(low as u64)).collect() })
    }

    #[inline(always)]
    fn add_runs<T: Copy + Into<f64>>(&mut self, values: &[T], groups: &[u32]) {
        let mut values = &values[..values.len().min(groups.len())];
        let groups = &groups[..values.len()];
        self.grow(groups);
        for run in groups.chunk_by(PartialEq::eq) {
            let (these, later) = values.split_at(run.len());
            values = later;
            let sum = &mut self.sums[run[0] as usize];
            *sum = these.chunks(Self::PART).fold(*sum, |sum, part| Self::add_part(sum, part));
        }
    }

    fn grow(&mut self, groups: &[u32]) {
        let needed = groups.iter().max().map_or(0, |&highest| highest as usize + 1);
        if self.sums.len() < needed {
            self.sums.resize(needed, 0);
        }
    }

    /// Adds numbers to a sum. Those below 2¹¹ are taken as whole·2⁻⁴⁰ + rest·2⁻⁸⁰ in plain arithmetic on arrays: adding
    /// 1.5·2⁵² rounds to an integer and leaves it in the low bits. Only `rest` can be inexact, by the rounding to the
    /// grid; larger numbers are on the grid already.
    #[inline(always)]
    fn add_part<T: Copy + Into<f64>>(sum: i128, part: &[T]) -> i128 {
        const SCALE: f64 = (1u64 << 40) as f64;
        const INTEGERS: f64 = (3u64 << 51) as f64;
        let (mut whole, mut rest, mut all_small) = (0i64, 0i64, true);
        for &value in part {
            let x: f64 = value.into();
            all_small &= x.abs() < 2048.0;
            let rounded = x * SCALE + INTEGERS;
            let left = (x * SCALE - (rounded - INTEGERS)) * SCALE + INTEGERS;
            whole = whole.wrapping_add(rounded.to_bits().wrapping_sub(INTEGERS.to_bits()) as i64);
            rest = rest.wrapping_add(left.to_bits().wrapping_sub(INTEGERS.to_bits()) as i64);
        }
        if all_small {
            return Self::plus(sum, (i128::from(whole) << 40) + i128::from(rest));
        }
        part.iter().fold(sum, |sum, &value| Self::plus(sum, Self::on_grid(value.into())))
    }

    fn on_grid(x: f64) -> i128 {
        let scaled = x * (1u128 << 80) as f64;
        if scaled.abs() < Self::LIMIT as f64 { scaled.round_ties_even() as i128 } else { Self::SPOILT }
    }

    #[inline]
    fn plus(sum: i128, step: i128) -> i128 {
        if sum == Self::SPOILT || step == Self::SPOILT {
            return Self::SPOILT;
        }
        // Both are below 2¹²⁷ in magnitude by a factor of two.
        let total = sum + step;
        if total.abs() < Self::LIMIT { total } else { Self::SPOILT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64 (G. Steele, D. Lea, C. Flood, 2014).
    struct Random(u64);

    impl Random {
        fn bits(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ z >> 31
        }

        fn below(&mut self, n: usize) -> usize {
            (self.bits() % n as u64) as usize
        }

        /// A random sign and mantissa under an exponent in 2^low … 2^high.
        fn number(&mut self, low: i32, high: i32) -> f64 {
            let exponent = low + self.below((high - low + 1) as usize) as i32;
            let bits = self.bits();
            let mantissa = f64::from_bits(bits >> 12 | 1023 << 52) * if bits & 1 == 0 { 1.0 } else { -1.0 };
            // In two steps, so that subnormals are reached.
            mantissa * 2f64.powi(exponent / 2) * 2f64.powi(exponent - exponent / 2)
        }

        fn shuffle<T>(&mut self, items: &mut [T]) {
            for i in (1..items.len()).rev() {
                items.swap(i, self.below(i + 1));
            }
        }
    }

    /// The blocked way, in random chunks.
    fn sum_in_chunks(values: &[f64], random: &mut Random) -> ExactSum {
        let (mut sum, mut rest) = (ExactSum::new(), values);
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at(1 + random.below(rest.len().min(1500)));
            sum.add_slice(chunk);
            rest = later;
        }
        sum
    }

    /// The plain way: every number through the limbs.
    fn sum_one_by_one(values: &[f64]) -> ExactSum {
        let mut sum = ExactSum::new();
        values.iter().for_each(|&x| sum.add(x));
        sum
    }

    const RANGES: [(i32, i32); 9] =
        [(-1, 1), (-30, 2), (-60, 60), (-300, 300), (-1074, 1023), (-1074, -1000), (900, 1023), (-905, -895), (0, 0)];

    #[test]
    fn blocks_add_what_single_numbers_add() {
        let mut random = Random(1);
        for (low, high) in RANGES {
            for length in [0, 1, 2, 15, 16, 17, 511, 512, 513, 5000] {
                let values: Vec<f64> = (0..length).map(|_| random.number(low, high)).collect();
                let expected = sum_one_by_one(&values).to_i64s();
                assert_eq!(sum_in_chunks(&values, &mut random).to_i64s(), expected, "2^{low} … 2^{high}, {length}");
            }
        }
    }

    #[test]
    fn every_order_and_every_tree_of_merges_gives_the_same_state() {
        let mut random = Random(2);
        for (low, high) in RANGES {
            let mut values: Vec<f64> = (0..3000).map(|_| random.number(low, high)).collect();
            let expected = sum_one_by_one(&values).to_i64s();
            random.shuffle(&mut values);
            let mut parts: Vec<ExactSum> = values.chunks(317).map(|part| sum_in_chunks(part, &mut random)).collect();
            while parts.len() > 1 {
                let part = parts.swap_remove(random.below(parts.len()));
                let into = random.below(parts.len());
                parts[into].merge(&part);
            }
            assert_eq!(parts[0].to_i64s(), expected, "2^{low} … 2^{high}");
        }
    }

    #[test]
    fn a_sum_of_two_is_the_rounded_ieee_sum() {
        let mut random = Random(3);
        for (low, high) in RANGES {
            for _ in 0..20_000 {
                let (x, y) = (random.number(low, high), random.number(low, high));
                let sum = sum_one_by_one(&[x, y]).round();
                assert_eq!(sum.to_bits(), (x + y).to_bits(), "{x:e} + {y:e}");
            }
        }
    }

    #[test]
    fn rounding_meets_ties_subnormals_and_overflow() {
        let tiny = f64::from_bits(1);
        let half_ulp = f64::EPSILON / 2.0;
        for (values, expected) in [
            (&[][..], 0.0),
            (&[-0.0], 0.0),
            (&[1.0, -1.0], 0.0),
            (&[1e100, 1.0, -1e100], 1.0),
            (&[1.0, half_ulp], 1.0),
            (&[1.0, half_ulp, tiny], 1.0 + f64::EPSILON),
            (&[1.0, half_ulp, -tiny], 1.0),
            (&[1.0 + f64::EPSILON, half_ulp], 1.0 + 2.0 * f64::EPSILON),
            (&[-1.0, -half_ulp, -tiny], -1.0 - f64::EPSILON),
            (&[2.0, -half_ulp / 2.0], 2.0),
            (&[tiny, tiny], 2.0 * tiny),
            (&[f64::MIN_POSITIVE, -tiny], f64::MIN_POSITIVE - tiny),
            (&[f64::MAX, f64::MAX, -f64::MAX], f64::MAX),
            (&[f64::MAX, f64::MAX], f64::INFINITY),
            (&[-f64::MAX, -f64::MAX], f64::NEG_INFINITY),
            // Half of MAX's last place is a tie that goes up to 2¹⁰²⁴; anything less stays.
            (&[f64::MAX, 2f64.powi(970)], f64::INFINITY),
            (&[f64::MAX, 2f64.powi(970), -tiny], f64::MAX),
        ] {
            assert_eq!(sum_one_by_one(values).round().to_bits(), expected.to_bits(), "{values:?}");
            let mut blocked = ExactSum::new();
            blocked.add_slice(values);
            assert_eq!(blocked.round().to_bits(), expected.to_bits(), "{values:?} in a block");
        }
    }

    #[test]
    fn products_below_the_subnormals_round_to_the_nearest() {
        let tiny = f64::from_bits(1);
        let mut sum = ExactSum::new();
        sum.add_product(tiny, 0.5);
        assert_eq!(sum.round(), 0.0);
        sum.add_product(tiny, tiny);
        assert_eq!(sum.round(), tiny);
        sum.add_product(tiny, -tiny);
        sum.add_product(tiny, 0.5);
        assert_eq!(sum.round(), tiny);
    }

    #[test]
    fn infinities_and_nans_behave_as_in_ieee_addition() {
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        for values in
            [&[inf, 1.0][..], &[-inf, 1.0], &[inf, -inf], &[nan, inf], &[1.0, nan], &[inf, f64::MAX, f64::MAX]]
        {
            let mut blocked = ExactSum::new();
            blocked.add_slice(values);
            let expected: f64 = values.iter().sum();
            assert!(blocked.round() == expected || (blocked.round().is_nan() && expected.is_nan()), "{values:?}");
        }
        let mut sum = ExactSum::new();
        sum.add_slice(&[1.0, inf, 2.0, inf, nan]);
        assert_eq!(sum.to_i64s()[..3], [1, 2, 0]);
        let mut product = ExactSum::new();
        product.add_products(&[inf, inf, -1.0], &[0.0, 2.0, inf]);
        assert_eq!(product.to_i64s()[..3], [1, 1, 1]);
    }

    #[test]
    fn products_are_exact() {
        let mut random = Random(4);
        for (low, high) in RANGES {
            let a: Vec<f64> = (0..1300).map(|i| if i % 50 == 0 { 0.0 } else { random.number(low, high) }).collect();
            let b: Vec<f64> = (0..1300).map(|_| random.number(low, high)).collect();
            let mut expected = ExactSum::new();
            a.iter().zip(&b).for_each(|(&a, &b)| expected.add_product(a, b));
            let mut blocked = ExactSum::new();
            blocked.add_products(&a, &b);
            assert_eq!(blocked.to_i64s(), expected.to_i64s(), "2^{low} … 2^{high}");
            // (a + b)(a − b) = a² − b², over integers that all of them hold.
            let (a, b) = ((random.bits() >> 12) as f64, (random.bits() >> 12) as f64);
            let mut square = ExactSum::new();
            square.add_product(a + b, a - b);
            square.add_product(-a, a);
            square.add_product(b, b);
            assert_eq!(square.to_i64s(), ExactSum::new().to_i64s());
        }
    }

    #[test]
    fn single_precision_goes_the_same_way() {
        let mut random = Random(5);
        for (low, high) in [(-1, 1), (-30, 2), (-149, 127)] {
            let a: Vec<f32> = (0..3000).map(|_| random.number(low, high) as f32).collect();
            let b: Vec<f32> = (0..3000).map(|_| random.number(low, high) as f32).collect();
            let wide: Vec<f64> = a.iter().map(|&x| f64::from(x)).collect();
            let mut sum = ExactSum::new();
            sum.add_slice_f32(&a);
            assert_eq!(sum.to_i64s(), sum_one_by_one(&wide).to_i64s());
            let products: Vec<f64> = a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).collect();
            let mut sum = ExactSum::new();
            sum.add_products_f32(&a, &b);
            assert_eq!(sum.to_i64s(), sum_one_by_one(&products).to_i64s());
        }
    }

    #[test]
    fn many_equal_additions_carry_in_time() {
        // All ones in the low limb, as many times as limbs may go without a carry, is simulated by setting the count.
        let mut sum = ExactSum::new();
        let x = f64::from_bits(1023 << 52 | ((1 << 52) - 1));
        sum.additions = CARRY_EVERY - 3;
        (0..10).for_each(|_| sum.add(x));
        assert_eq!(sum.round(), 10.0 * x);
        assert!(sum.additions < 10);
    }

    #[test]
    fn the_state_makes_the_sum_again() {
        let mut random = Random(6);
        let values: Vec<f64> = (0..700).map(|_| random.number(-1074, 1023)).collect();
        let mut sum = sum_in_chunks(&values[..350], &mut random);
        let mut again = ExactSum::from_i64s(&sum.to_i64s()).unwrap();
        sum.add_slice(&values[350..]);
        again.add_slice(&values[350..]);
        assert_eq!(sum.to_i64s(), again.to_i64s());
        let state = sum.to_i64s();
        assert!(ExactSum::from_i64s(&state[1..]).is_none());
        assert!(ExactSum::from_i64s(&[]).is_none());
        for (at, bad) in [(0, -1), (3, -1), (3, 1 << 32)] {
            let mut state = state.clone();
            state[at] = bad;
            assert!(ExactSum::from_i64s(&state).is_none());
        }
    }

    #[test]
    fn group_sums_are_the_sums_of_their_groups_in_any_order() {
        let mut random = Random(7);
        let mut rows: Vec<(f32, u32)> =
            (0..5000).map(|_| (random.number(-40, 20) as f32, random.below(37) as u32)).collect();
        let unzip = |rows: &[(f32, u32)]| -> (Vec<f32>, Vec<u32>) { rows.iter().copied().unzip() };
        let mut sums = GroupSums::new();
        let (values, groups) = unzip(&rows);
        sums.add(&values, &groups);
        for (group, &sum) in sums.sums().iter().enumerate() {
            let mut exact = ExactSum::new();
            rows.iter().filter(|row| row.1 == group as u32).for_each(|row| exact.add(f64::from(row.0)));
            assert_eq!(sum as f64 / 2f64.powi(80), exact.round());
        }
        random.shuffle(&mut rows);
        let (values, groups) = unzip(&rows);
        let (mut left, mut right) = (GroupSums::new(), GroupSums::new());
        left.add(&values[..2000], &groups[..2000]);
        right.add(&values[2000..], &groups[2000..]);
        left.merge(&right, &(0..37).collect::<Vec<u32>>());
        assert_eq!(left, sums);
        assert_eq!(GroupSums::from_i64s(&sums.to_i64s()), Some(sums));
        assert_eq!(GroupSums::from_i64s(&[1]), None);
    }

    #[test]
    fn long_runs_sum_like_short_ones() {
        let mut random = Random(8);
        for high in [5, 15] {
            let values: Vec<f64> = (0..10_000).map(|_| random.number(-20, high)).collect();
            let mut long = GroupSums::new();
            long.add(&values, &vec![0; values.len()]);
            let mut short = GroupSums::new();
            values.iter().for_each(|&x| short.add(&[x], &[0]));
            assert_eq!(long, short);
            let one_by_one = values.iter().fold(0, |sum, &x| GroupSums::plus(sum, GroupSums::on_grid(x)));
            assert_eq!(long.sums(), [one_by_one]);
        }
    }

    #[test]
    fn group_sums_round_to_their_grid_and_know_their_limit() {
        let unit = 2f64.powi(-80);
        let mut sums = GroupSums::new();
        let values = [unit, -unit, 0.4 * unit, 0.6 * unit, -0.6 * unit, f64::from_bits(1), -3.5 * unit, 2f64.powi(45)];
        sums.add(&values, &[0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(sums.sums(), [1, -1, 0, 1, -1, 0, -4, 1 << 125]);
        let mut spoilt = GroupSums::new();
        spoilt.add(
            &[f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 2f64.powi(46), 1e300, 2f64.powi(45)],
            &[0, 1, 2, 3, 4, 5],
        );
        spoilt.add(&[2f64.powi(45), 1.0], &[5, 0]);
        assert_eq!(spoilt.sums(), [GroupSums::SPOILT; 6]);
        sums.merge(&spoilt, &[0, 1, 2, 3, 4, 5]);
        assert_eq!(sums.sums(), [&[GroupSums::SPOILT; 6][..], &[-4, 1 << 125]].concat());
    }
}
