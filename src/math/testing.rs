//! What the tests of this folder share: evaluation at every level, ulp distances, the reference vectors.

use super::Math;
pub use crate::simd::all_levels as levels;
use crate::simd::prelude::*;
use crate::simd::{Level, Simd, V, dispatch};

/// A function of one vector.
pub trait Op<E: Math> {
    fn eval<S: Simd>(s: S, x: V<S, E>) -> V<S, E>;
}

/// An [`Op`] written as an expression in `s` and `x`.
macro_rules! op {
    ($name:ident: $element:ty, $s:ident, $x:ident => $body:expr) => {
        struct $name;
        impl $crate::math::testing::Op<$element> for $name {
            #[inline(always)]
            fn eval<S: $crate::simd::Simd>($s: S, $x: $crate::simd::V<S, $element>) -> $crate::simd::V<S, $element> {
                $body
            }
        }
    };
}
pub(crate) use op;

#[inline(always)]
fn fill<S: Simd, E: Math, O: Op<E>>(s: S, x: &[E], y: &mut [E]) {
    for (x, y) in x.chunks_exact(E::LANES).zip(y.chunks_exact_mut(E::LANES)) {
        O::eval(s, V::<S, E>::from_slice(s, x)).store_slice(y);
    }
}

/// The values at one level. The last input is repeated up to whole vectors.
pub fn at_level<E: Math, O: Op<E>>(level: Level, x: &[E]) -> Vec<E> {
    let mut x = x.to_vec();
    let count = x.len();
    x.resize(count.next_multiple_of(E::LANES), *x.last().expect("inputs"));
    let mut y = x.clone();
    dispatch!(level, s => fill::<_, E, O>(s, &x, &mut y));
    y.truncate(count);
    y
}

/// The values, after checking that every level gives the same bits (NaN equals NaN). The lower levels see every
/// `stride`-th input: without optimisation the portable one takes microseconds for each.
pub fn at_every_level<E: Math, O: Op<E>>(x: &[E], stride: usize) -> Vec<E> {
    let levels = levels();
    let y = at_level::<E, O>(levels[0], x);
    let sample: Vec<E> = x.iter().copied().step_by(stride).collect();
    for level in &levels[1..] {
        for ((a, b), x) in y.iter().step_by(stride).zip(at_level::<E, O>(*level, &sample)).zip(&sample) {
            let (x, a, b) = (x.to_f64(), a.to_f64(), b.to_f64());
            let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            assert!(same, "{}: {level:?} gives {b:e}, {:?} {a:e} at {x:e}", std::any::type_name::<O>(), levels[0]);
        }
    }
    y
}

/// The largest error and the input it was met at.
#[derive(Clone, Copy)]
pub struct Worst {
    pub ulp: f64,
    pub at: f64,
}

impl std::fmt::Display for Worst {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:.3} ulp at {:e}", self.ulp, self.at)
    }
}

impl Worst {
    pub const NONE: Worst = Worst { ulp: 0.0, at: f64::NAN };

    /// Takes note of an error; NaN counts as infinite.
    pub fn see(&mut self, ulp: f64, at: f64) {
        if ulp > self.ulp || ulp.is_nan() {
            *self = Worst { ulp: if ulp.is_nan() { f64::INFINITY } else { ulp }, at };
        }
    }
}

/// The distance of an `f32` from a value of higher precision, in ulp of that value.
pub fn ulp_f32(got: f32, truth: f64) -> f64 {
    if f64::from(got) == truth || (got.is_nan() && truth.is_nan()) {
        return 0.0;
    }
    let exponent = ((truth.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    (f64::from(got) - truth).abs() / 2f64.powi(exponent.max(-126) - 23)
}

/// One line of `vectors.csv`: the value of the named function at `x` is `nearest` plus `rest` ulp.
pub struct Vector {
    pub x: f64,
    pub k: f64,
    pub nearest: f64,
    pub rest: f64,
}

/// The reference vectors of a function, from the file that `VECTORS` names if it is set.
pub fn vectors(function: &str) -> Vec<Vector> {
    let double = |hex: &str| f64::from_bits(u64::from_str_radix(hex, 16).expect("hex"));
    let text = match std::env::var("VECTORS") {
        Ok(file) => std::fs::read_to_string(file).expect("a file that generate.py --dense has written"),
        Err(_) => include_str!("vectors.csv").into(),
    };
    let lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let found: Vec<Vector> = lines
        .filter(|field| field[0] == function)
        .map(|field| Vector {
            x: double(field[1]),
            k: field[2].parse().expect("k"),
            nearest: double(field[3]),
            rest: field[4].parse::<f64>().expect("rest") / 65536.0,
        })
        .collect();
    assert!(found.len() > 100, "{function}: {} vectors", found.len());
    found
}

/// Floats in order as integers.
fn rank(x: f64) -> i64 {
    let bits = x.to_bits() as i64;
    if bits < 0 { i64::MIN - bits } else { bits }
}

/// The largest distance of `got` from the vectors, in ulp.
pub fn worst_of(vectors: &[Vector], got: &[f64]) -> Worst {
    let mut worst = Worst::NONE;
    for (v, y) in vectors.iter().zip(got) {
        let apart = if y.is_nan() { f64::NAN } else { (rank(*y) as i128 - rank(v.nearest) as i128) as f64 };
        worst.see((apart - v.rest).abs(), v.x);
    }
    worst
}

/// The worst error of an operation over its vectors, at every level.
pub fn check<O: Op<f64>>(function: &str, bound: f64) {
    let vectors = vectors(function);
    let x: Vec<f64> = vectors.iter().map(|v| v.x).collect();
    let worst = worst_of(&vectors, &at_every_level::<f64, O>(&x, 1));
    println!("{function} (f64): {worst}");
    assert!(worst.ulp <= bound, "{function}: {worst}, bound {bound}");
}
