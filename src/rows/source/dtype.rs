//! How elements are stored: dtypes, and the numbers of each read and written.

use crate::simd::Element;

/// Evaluates an expression with `T` standing for what a dtype's elements are stored as.
macro_rules! stored {
    ($dtype:expr, $t:ident => $body:expr) => {{
        use $crate::rows::source::dtype::{Bf16, Bool, Dtype, F16};
        match $dtype {
            Dtype::F64 => {
                type $t = f64;
                $body
            }
            Dtype::F32 => {
                type $t = f32;
                $body
            }
            Dtype::F16 => {
                type $t = F16;
                $body
            }
            Dtype::Bf16 => {
                type $t = Bf16;
                $body
            }
            Dtype::I8 => {
                type $t = i8;
                $body
            }
            Dtype::I16 => {
                type $t = i16;
                $body
            }
            Dtype::I32 => {
                type $t = i32;
                $body
            }
            Dtype::I64 => {
                type $t = i64;
                $body
            }
            Dtype::U8 => {
                type $t = u8;
                $body
            }
            Dtype::U16 => {
                type $t = u16;
                $body
            }
            Dtype::U32 => {
                type $t = u32;
                $body
            }
            Dtype::U64 => {
                type $t = u64;
                $body
            }
            Dtype::Bool => {
                type $t = Bool;
                $body
            }
        }
    }};
}
pub(crate) use stored;

/// What an element of an input is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
}

impl Dtype {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 | Dtype::U64 => 8,
            Dtype::F32 | Dtype::I32 | Dtype::U32 => 4,
            Dtype::F16 | Dtype::Bf16 | Dtype::I16 | Dtype::U16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
        }
    }

    /// Whether elements are floating numbers.
    pub fn is_floating(self) -> bool {
        matches!(self, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16)
    }

    /// Distance from 1 to the next number, for floating dtypes.
    pub fn epsilon(self) -> f64 {
        match self {
            Dtype::F32 => f64::from(f32::EPSILON),
            Dtype::F16 => 1.0 / 1024.0,
            Dtype::Bf16 => 1.0 / 128.0,
            _ => f64::EPSILON,
        }
    }

    /// Whether results and kernels of these inputs are `f32`: NumPy's promotion, with `f32` for the half precisions and
    /// `f64` where nothing is floating.
    pub fn single(dtypes: impl Iterator<Item = Dtype> + Clone) -> bool {
        let floating = dtypes.clone().any(|d| matches!(d, Dtype::F32 | Dtype::F16 | Dtype::Bf16));
        let brain = dtypes.clone().any(|d| d == Dtype::Bf16);
        let fits = |d: Dtype| match d {
            Dtype::F32 | Dtype::F16 | Dtype::Bf16 => true,
            d => d.size() == 1 || (d.size() == 2 && !brain),
        };
        floating && dtypes.clone().all(fits)
    }

    /// The number stored at an address.
    ///
    /// # Safety
    /// Its bytes must be readable.
    #[inline]
    pub unsafe fn number(self, at: *const u8, swapped: bool) -> f64 {
        // SAFETY: as the caller vouches.
        stored!(self, T => unsafe { T::read(at, swapped) })
    }

    /// The integer stored at an address; 0 for other dtypes.
    ///
    /// # Safety
    /// Its bytes must be readable.
    #[inline]
    pub unsafe fn integer(self, at: *const u8, swapped: bool) -> i128 {
        // SAFETY: as the caller vouches.
        stored!(self, T => unsafe { T::integer(at, swapped) })
    }

    /// Stores a number, rounded once; for floating dtypes.
    ///
    /// # Safety
    /// The bytes of the number must be writable.
    pub unsafe fn store(self, x: f64, at: *mut u8) {
        // SAFETY: as the caller vouches.
        unsafe {
            match self {
                Dtype::F32 => at.cast::<f32>().write_unaligned(x as f32),
                Dtype::F16 => at.cast::<u16>().write_unaligned(half::f16::from_f32(to_odd(x)).to_bits()),
                Dtype::Bf16 => at.cast::<u16>().write_unaligned(half::bf16::from_f32(to_odd(x)).to_bits()),
                _ => at.cast::<f64>().write_unaligned(x),
            }
        }
    }

    /// That of elements `E`.
    pub(crate) fn of<E: Element>() -> Self {
        if E::LANES == 16 { Dtype::F32 } else { Dtype::F64 }
    }

    /// Whether `E` is this dtype.
    pub(crate) fn is<E: Element>(self) -> bool {
        self == Self::of::<E>()
    }
}

/// The `f32` next to x whose last bit says whether there was more: rounding it again is rounding x once.
fn to_odd(x: f64) -> f32 {
    let y = x as f32;
    let (wide, bits) = (f64::from(y), y.to_bits());
    if wide == x || !wide.is_finite() || bits & 1 == 1 {
        return y;
    }
    f32::from_bits(if wide.abs() < x.abs() { bits + 1 } else { bits - 1 })
}

/// A stored number that an `f64` holds, exactly or (64-bit integers) rounded.
pub trait Scalar: Copy {
    /// Bytes of the number.
    const SIZE: isize;
    /// Reads the number at an address, in the other byte order if `swapped`.
    ///
    /// # Safety
    /// The bytes of the number must be readable.
    unsafe fn read(from: *const u8, swapped: bool) -> f64;
    /// Reads the integer at an address likewise; 0 for other dtypes.
    ///
    /// # Safety
    /// The bytes of the number must be readable.
    unsafe fn integer(from: *const u8, swapped: bool) -> i128;
}

macro_rules! scalar {
    ($($t:ty, $bits:ty, $get:expr, $integer:expr;)*) => { $(
        impl Scalar for $t {
            const SIZE: isize = size_of::<$bits>() as isize;
            #[inline(always)]
            unsafe fn read(from: *const u8, swapped: bool) -> f64 {
                // SAFETY: as the caller vouches.
                let bits = unsafe { from.cast::<$bits>().read_unaligned() };
                let get: fn($bits) -> f64 = $get;
                get(if swapped { bits.swap_bytes() } else { bits })
            }
            #[inline(always)]
            unsafe fn integer(from: *const u8, swapped: bool) -> i128 {
                // SAFETY: as the caller vouches.
                let bits = unsafe { from.cast::<$bits>().read_unaligned() };
                let get: fn($bits) -> i128 = $integer;
                get(if swapped { bits.swap_bytes() } else { bits })
            }
        }
    )* };
}

#[derive(Clone, Copy)]
pub struct F16;
#[derive(Clone, Copy)]
pub struct Bf16;
#[derive(Clone, Copy)]
pub struct Bool;

scalar! {
    f64, u64, f64::from_bits, |_| 0;
    f32, u32, |b| f64::from(f32::from_bits(b)), |_| 0;
    F16, u16, |b| f64::from(widen_f16(b)), |_| 0;
    Bf16, u16, |b| f64::from(f32::from_bits(u32::from(b) << 16)), |_| 0;
    i8, i8, f64::from, i128::from;
    i16, i16, f64::from, i128::from;
    i32, i32, f64::from, i128::from;
    i64, i64, |b| b as f64, i128::from;
    u8, u8, f64::from, i128::from;
    u16, u16, f64::from, i128::from;
    u32, u32, f64::from, i128::from;
    u64, u64, |b| b as f64, i128::from;
    Bool, u8, |b| f64::from(u8::from(b != 0)), |_| 0;
}

/// The half-precision number with these bits. Branch-free, so that a loop of it becomes vector code on every level.
#[inline(always)]
fn widen_f16(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    // The exponent field is 112 short of f32's; multiplying by 2^112 is exact and makes subnormals normal.
    let value = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let infinite = if magnitude >= 0x0f80_0000 { 0x7f80_0000 | magnitude } else { 0 };
    f32::from_bits(value.to_bits() | infinite | (u32::from(bits & 0x8000) << 16))
}

#[cfg(test)]
mod tests {
    use super::{Dtype, widen_f16};

    #[test]
    fn halves_are_rounded_once() {
        let stored = |dtype: Dtype, x: f64| {
            let mut bits = 0u16;
            // SAFETY: two bytes are writable.
            unsafe { dtype.store(x, (&raw mut bits).cast()) };
            bits
        };
        let tiny = 2f64.powi(-40);
        for (x, f16, bf16) in [
            (1.0 + 2f64.powi(-11), 1.0, 1.0),
            (1.0 + 2f64.powi(-11) + tiny, 1.0 + 2f64.powi(-10), 1.0),
            (1.0 + 2f64.powi(-8) + tiny, 1.0 + 2f64.powi(-8), 1.0 + 2f64.powi(-7)),
            (1.0 + 3.0 * 2f64.powi(-8) - tiny, 1.0 + 3.0 * 2f64.powi(-8), 1.0 + 2f64.powi(-7)),
        ] {
            assert_eq!(stored(Dtype::F16, x), half::f16::from_f64(f16).to_bits(), "{x}");
            assert_eq!(stored(Dtype::Bf16, x), half::bf16::from_f64(bf16).to_bits(), "{x}");
            assert_eq!(stored(Dtype::Bf16, -x), half::bf16::from_f64(-bf16).to_bits(), "{x}");
        }
    }

    #[test]
    fn every_half_widens_exactly() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (widen_f16(bits), half::f16::from_bits(bits).to_f32());
            assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()), "{bits:#06x}: {ours} {theirs}");
        }
    }
}
