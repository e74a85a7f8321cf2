//! Rows of 16-bit codes, as llama.cpp writes log-probabilities, and what they do not tell: entries that are clamped, of
//! which the code says only "at most this".
//!
//! A row of codes starts with a step and a minimum (two `f32` in the place of four codes); a code stands for the
//! log-probability step · code + minimum, in `f32` as llama.cpp decodes it. Where a row reaches `REACH` below its
//! largest, code 0 is a clamped entry.

use std::sync::Mutex;

use crate::math::{Math, wide};
use crate::parallel;
use crate::simd::{Simd, SimdBase, W, dispatch, level};

/// Codes before the first class: step and minimum.
pub const HEAD: usize = 4;

/// How far below its largest a row is stored, less what rounding the step makes of it.
const REACH: f64 = 16.0 * (1.0 - 1e-4);

/// Classes looked at at once: what is made of them on the way stays in the first level of cache.
const BLOCK: usize = 512;

/// How far below a row's largest logarithm a class lies that has been made part of another. The kernels take e^−60 for
/// whatever is smaller, which adds to no sum; −∞ would send every vector that holds one to the careful terms, at half
/// the speed.
const ABSENT: f64 = 300.0;

/// Log-probabilities of the base up to which llama.cpp's divergence leaves a term out.
const LEAST: f64 = -16.0;

/// One of the matrices whose rows are compared.
#[derive(Clone, Copy)]
pub enum Matrix<'a> {
    /// Codes, so many a row.
    Codes(&'a [u16], usize),
    /// Logarithms of masses, in single or double precision.
    Logs(Floats<'a>),
    /// Masses.
    Masses(Floats<'a>),
}

/// Elements row after row.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub enum Floats<'a> {
    Single(&'a [f32]),
    Double(&'a [f64]),
}

/// A row of codes.
#[derive(Clone, Copy)]
struct Codes<'a> {
    step: f32,
    minimum: f32,
    codes: &'a [u16],
}

impl<'a> Codes<'a> {
    fn new(row: &'a [u16], classes: usize) -> Self {
        let float = |i: usize| f32::from_bits(u32::from(row[i]) | u32::from(row[i + 1]) << 16);
        Codes { step: float(0), minimum: float(2), codes: &row[HEAD..HEAD + classes] }
    }

    /// Whether code 0 stands for "at most this".
    fn clamps(&self) -> bool {
        f64::from(self.step) * 65_535.0 >= REACH
    }

    #[inline(always)]
    fn value(&self, code: u16) -> f32 {
        self.step * f32::from(code) + self.minimum
    }
}

/// What becomes of one matrix.
pub struct Merged {
    /// Its rows with the classes that some matrix clamps made one, the last of one class more.
    pub rows: Elements,
    /// The mass of that one class, a number a row.
    pub mass: Vec<f64>,
    /// The first of the largest classes of each row.
    pub top: Vec<i64>,
}

/// Elements row after row, in the precision of their matrix; of codes, in single precision.
#[allow(missing_docs)]
pub enum Elements {
    Single(Vec<f32>),
    Double(Vec<f64>),
}

impl Merged {
    fn new(matrix: &Matrix<'_>, rows: usize, width: usize) -> Self {
        let elements = match matrix {
            Matrix::Logs(Floats::Double(_)) | Matrix::Masses(Floats::Double(_)) => {
                Elements::Double(vec![0.0; rows * width])
            }
            _ => Elements::Single(vec![0.0; rows * width]),
        };
        Merged { rows: elements, mass: vec![0.0; rows], top: vec![0; rows] }
    }

    /// The rows one by one: each is lent to the thread that has its number.
    fn lend(&mut self, width: usize) -> Vec<Mutex<Lent<'_>>> {
        let rows: Vec<Lane<'_>> = match &mut self.rows {
            Elements::Single(all) => all.chunks_mut(width).map(Lane::Single).collect(),
            Elements::Double(all) => all.chunks_mut(width).map(Lane::Double).collect(),
        };
        let numbers = self.mass.iter_mut().zip(&mut self.top);
        rows.into_iter().zip(numbers).map(|(row, (mass, top))| Mutex::new(Lent { row, mass, top })).collect()
    }
}

/// The results of one row.
struct Lent<'a> {
    row: Lane<'a>,
    mass: &'a mut f64,
    top: &'a mut i64,
}

/// The elements of one row.
enum Lane<'a> {
    Single(&'a mut [f32]),
    Double(&'a mut [f64]),
}

/// Makes one class of all that is clamped in any of the matrices, which have so many rows and classes each.
pub fn merge(matrices: &[Matrix<'_>], rows: usize, classes: usize, threads: usize) -> Vec<Merged> {
    let mut merged: Vec<Merged> = matrices.iter().map(|m| Merged::new(m, rows, classes + 1)).collect();
    let lent: Vec<Vec<Mutex<Lent<'_>>>> = merged.iter_mut().map(|m| m.lend(classes + 1)).collect();
    let work = 3.0 * (classes * matrices.len()) as f64;
    let threads = if work * rows as f64 > parallel::WORTH_THREADS { threads } else { 1 };
    let level = level();
    parallel::chunks(rows, parallel::chunk_rows(work, 1), threads, |_, range| {
        let mut unknown = vec![0_u8; classes];
        for row in range {
            dispatch!(level, s => {
                unknown.fill(0);
                for (k, matrix) in matrices.iter().enumerate() {
                    mark_clamped(matrix, row, classes, k, &mut unknown);
                }
                for (k, matrix) in matrices.iter().enumerate() {
                    let mut lent = lent[k][row].lock().unwrap_or_else(|e| e.into_inner());
                    merge_row(s, matrix, row, classes, &unknown, k, &mut lent);
                }
            });
        }
    });
    drop(lent);
    merged
}

/// Sets bit `k` of the classes that a row of matrix `k` clamps.
#[inline(always)]
fn mark_clamped(matrix: &Matrix<'_>, row: usize, classes: usize, k: usize, unknown: &mut [u8]) {
    let Matrix::Codes(all, width) = matrix else { return };
    let codes = Codes::new(&all[row * width..(row + 1) * width], classes);
    if codes.clamps() {
        for (u, code) in unknown.iter_mut().zip(codes.codes) {
            *u |= u8::from(*code == 0) << k;
        }
    }
}

#[inline(always)]
fn merge_row<S: Simd>(
    s: S,
    matrix: &Matrix<'_>,
    row: usize,
    classes: usize,
    unknown: &[u8],
    k: usize,
    lent: &mut Lent<'_>,
) {
    let span = row * classes..(row + 1) * classes;
    match (matrix, &mut lent.row) {
        (Matrix::Codes(all, width), Lane::Single(out)) => {
            let row_codes = Codes::new(&all[row * width..(row + 1) * width], classes);
            let mut largest = 0;
            for code in row_codes.codes {
                largest = largest.max(*code);
            }
            let absent = row_codes.value(largest) - ABSENT as f32;
            let mut masses = Masses::new(s, 1 << k);
            let mut clamped = 0;
            for start in (0..classes).step_by(BLOCK) {
                let n = BLOCK.min(classes - start);
                let (codes, unknown) = (&row_codes.codes[start..start + n], &unknown[start..start + n]);
                let (mut value, mut ln) = ([0.0_f32; BLOCK], [f64::NEG_INFINITY; BLOCK]);
                for i in 0..n {
                    value[i] = row_codes.value(codes[i]);
                }
                for i in 0..n {
                    out[start + i] = if unknown[i] == 0 { value[i] } else { absent };
                }
                for i in 0..n {
                    // A clamped entry of its own has no mass that is known.
                    ln[i] = if unknown[i] >> k & 1 == 1 { f64::NEG_INFINITY } else { f64::from(value[i]) };
                }
                clamped += unknown.iter().filter(|u| **u >> k & 1 == 1).count();
                masses.add(s, &ln, unknown);
            }
            let most = (clamped as f64 * exp(s, f64::from(row_codes.minimum))).min(1.0);
            let (all, hidden) = (masses.all(), masses.hidden);
            *lent.mass = (1.0 - all).max(0.0).min(most) + hidden;
            out[classes] = ln(s, *lent.mass) as f32;
            *lent.top = row_codes.codes.iter().position(|c| *c == largest).unwrap_or(0) as i64;
        }
        (Matrix::Logs(Floats::Single(x)), Lane::Single(out)) => logs(s, &x[span], unknown, out, lent.mass, lent.top),
        (Matrix::Logs(Floats::Double(x)), Lane::Double(out)) => logs(s, &x[span], unknown, out, lent.mass, lent.top),
        (Matrix::Masses(Floats::Single(x)), Lane::Single(out)) => masses(&x[span], unknown, out, lent.mass, lent.top),
        (Matrix::Masses(Floats::Double(x)), Lane::Double(out)) => masses(&x[span], unknown, out, lent.mass, lent.top),
        _ => unreachable!("results are of their matrix's precision"),
    }
}

/// A row of logarithms.
#[inline(always)]
fn logs<S: Simd, E: Math>(s: S, x: &[E], unknown: &[u8], out: &mut [E], mass: &mut f64, top: &mut i64) {
    let mut largest = E::NEG_INFINITY;
    for v in x {
        largest = if *v > largest { *v } else { largest };
    }
    let origin = largest.to_f64();
    let absent = E::from_f64(origin - ABSENT);
    let mut masses = Masses::new(s, 0);
    for start in (0..x.len()).step_by(BLOCK) {
        let n = BLOCK.min(x.len() - start);
        let (x, unknown) = (&x[start..start + n], &unknown[start..start + n]);
        let mut ln = [f64::NEG_INFINITY; BLOCK];
        for i in 0..n {
            ln[i] = x[i].to_f64() - origin;
        }
        for i in 0..n {
            out[start + i] = if unknown[i] == 0 { x[i] } else { absent };
        }
        masses.add(s, &ln, unknown);
    }
    let hidden = masses.hidden;
    out[x.len()] = E::from_f64(if hidden > 0.0 { origin + ln(s, hidden) } else { f64::NEG_INFINITY });
    *mass = hidden / masses.all();
    *top = x.iter().position(|v| *v == largest).unwrap_or(0) as i64;
}

/// A row of masses.
#[inline(always)]
fn masses<E: Math>(x: &[E], unknown: &[u8], out: &mut [E], mass: &mut f64, top: &mut i64) {
    let (mut largest, mut hidden, mut known) = (E::NEG_INFINITY, 0.0, 0.0);
    for ((v, u), out) in x.iter().zip(unknown).zip(&mut *out) {
        largest = if *v > largest { *v } else { largest };
        (hidden, known) = if *u == 0 { (hidden, known + v.to_f64()) } else { (hidden + v.to_f64(), known) };
        *out = if *u == 0 { *v } else { E::ZERO };
    }
    out[x.len()] = E::from_f64(hidden);
    *mass = hidden / (known + hidden);
    *top = x.iter().position(|v| *v == largest).unwrap_or(0) as i64;
}

/// Sums of the masses of a row's classes.
struct Masses<S: Simd> {
    lanes: W<S>,
    /// The bit of the matrix itself among those of the matrices that clamp a class.
    own: u8,
    /// The mass of the classes that another matrix clamps.
    hidden: f64,
}

impl<S: Simd> Masses<S> {
    #[inline(always)]
    fn new(s: S, own: u8) -> Self {
        Masses { lanes: W::splat(s, 0.0), own, hidden: 0.0 }
    }

    /// Adds classes by the logarithms of their masses; −∞ stands for none.
    #[inline(always)]
    fn add(&mut self, s: S, ln: &[f64; BLOCK], unknown: &[u8]) {
        let mut mass = [0.0; BLOCK];
        for start in (0..unknown.len()).step_by(8) {
            let e = wide::exp(s, W::from_slice(s, &ln[start..start + 8]));
            e.store_slice(&mut mass[start..start + 8]);
            self.lanes += e;
        }
        let mut any = 0;
        for u in unknown {
            any |= if *u & self.own == 0 { *u } else { 0 };
        }
        if any != 0 {
            let others = unknown.iter().zip(&mass).filter(|(u, _)| **u != 0 && **u & self.own == 0);
            self.hidden += others.map(|(_, mass)| mass).sum::<f64>();
        }
    }

    /// The mass of all classes.
    #[inline(always)]
    fn all(&self) -> f64 {
        self.lanes.to_array().iter().sum()
    }
}

#[inline(always)]
fn exp<S: Simd>(s: S, x: f64) -> f64 {
    wide::exp(s, W::splat(s, x)).to_array()[0]
}

#[inline(always)]
fn ln<S: Simd>(s: S, x: f64) -> f64 {
    wide::ln(s, W::splat(s, x)).to_array()[0]
}

/// llama.cpp's divergence of each row: the sum of p (ln p − ln q) over the classes whose ln p is above `LEAST`, as the
/// rows stand, in double precision. Logarithms of a row are less the row's number in `shifts`.
pub fn divergence(matrices: [Matrix<'_>; 2], shifts: [&[f64]; 2], classes: usize, out: &mut [f64], threads: usize) {
    let rows = out.len();
    let lent: Vec<Mutex<&mut f64>> = out.iter_mut().map(Mutex::new).collect();
    let work = 6.0 * classes as f64;
    let threads = if work * rows as f64 > parallel::WORTH_THREADS { threads } else { 1 };
    let level = level();
    parallel::chunks(rows, parallel::chunk_rows(work, 1), threads, |_, range| {
        for row in range {
            let mut sums = [0.0_f64; 8];
            dispatch!(level, s => {
                let mut x = [[0.0_f64; BLOCK]; 2];
                for start in (0..classes).step_by(BLOCK) {
                    let n = BLOCK.min(classes - start);
                    for (k, x) in x.iter_mut().enumerate() {
                        widen(&matrices[k], row, classes, start, &mut x[..n]);
                        x[..n].iter_mut().for_each(|v| *v -= shifts[k][row]);
                    }
                    // Beyond the last class nothing counts.
                    x[0][n..].fill(f64::NEG_INFINITY);
                    for i in (0..n).step_by(8) {
                        let (p, q) = (W::from_slice(s, &x[0][i..i + 8]), W::from_slice(s, &x[1][i..i + 8]));
                        let term = (wide::exp(s, p) * (p - q)).to_array();
                        for l in 0..8 {
                            sums[l] += if x[0][i + l] > LEAST { term[l] } else { 0.0 };
                        }
                    }
                }
            });
            **lent[row].lock().unwrap_or_else(|e| e.into_inner()) = sums.iter().sum();
        }
    });
}

/// Some elements of a row in double precision.
#[inline(always)]
fn widen(matrix: &Matrix<'_>, row: usize, classes: usize, start: usize, out: &mut [f64]) {
    let at = row * classes + start;
    match matrix {
        Matrix::Codes(all, width) => {
            let codes = Codes::new(&all[row * width..(row + 1) * width], classes);
            out.iter_mut().zip(&codes.codes[start..]).for_each(|(v, c)| *v = f64::from(codes.value(*c)));
        }
        Matrix::Logs(Floats::Single(x)) | Matrix::Masses(Floats::Single(x)) => {
            out.iter_mut().zip(&x[at..]).for_each(|(v, x)| *v = f64::from(*x));
        }
        Matrix::Logs(Floats::Double(x)) | Matrix::Masses(Floats::Double(x)) => {
            out.copy_from_slice(&x[at..at + out.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(step: f32, minimum: f32, codes: &[u16]) -> Vec<u16> {
        let mut row = Vec::new();
        for x in [step, minimum] {
            row.extend([x.to_bits() as u16, (x.to_bits() >> 16) as u16]);
        }
        row.extend(codes);
        row
    }

    fn merged(matrices: &[Matrix<'_>], classes: usize) -> Vec<(Vec<f32>, f64, i64)> {
        let row = |m: Merged| match m.rows {
            Elements::Single(row) => (row, m.mass[0], m.top[0]),
            Elements::Double(row) => (row.into_iter().map(|x| x as f32).collect(), m.mass[0], m.top[0]),
        };
        merge(matrices, 1, classes, 2).into_iter().map(row).collect()
    }

    #[test]
    fn clamped_entries_of_either_are_one_class() {
        let step = 16.0 / 65_535.0;
        let probs = [0.6_f64, 0.3, 0.0999];
        let code = |p: f64| ((p.ln() - (probs[0].ln() - 16.0)) / f64::from(step)).round() as u16;
        let minimum = (probs[0].ln() - 16.0) as f32;
        let row = packed(step, minimum, &[code(probs[1]), 0, code(probs[0]), code(probs[2]), 0, 0]);
        let logits = [1.0_f32, 2.0, 3.0, 0.5, -1.0, f32::NEG_INFINITY];
        let found = merged(&[Matrix::Codes(&row, row.len()), Matrix::Logs(Floats::Single(&logits))], 6);
        let (p, mass, top) = &found[0];
        assert_eq!(*top, 2);
        assert!([1, 4, 5].into_iter().all(|i| f64::from(p[i]) < probs[0].ln() - 299.0));
        assert!((f64::from(p[2]) - probs[0].ln()).abs() < 2e-4);
        // Three entries at most as large as the smallest that is stored.
        let most = 3.0 * f64::from(minimum).exp();
        assert!((mass - most).abs() < 1e-12 && (f64::from(p[6]) - most.ln()).abs() < 1e-5, "{mass} {most}");
        let (q, mass, top) = &found[1];
        assert_eq!(*top, 2);
        let all: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        let tail = 2f64.exp() + (-1f64).exp();
        assert!((mass - tail / all).abs() < 1e-14 && (f64::from(q[6]) - tail.ln()).abs() < 1e-6);
    }

    #[test]
    fn nothing_is_clamped_in_a_row_that_does_not_reach_so_far() {
        let row = packed(1e-4, -3.0, &[0, 10_000, 20_000]);
        let found = merged(&[Matrix::Codes(&row, row.len())], 3);
        let (p, mass, top) = &found[0];
        assert_eq!((p[0], *mass, *top, p[3]), (-3.0, 0.0, 2, f32::NEG_INFINITY));
    }

    #[test]
    fn llamas_divergence_is_its_sum() {
        for classes in [1, 7, 8, 513, 1030] {
            let base: Vec<f32> = (0..classes).map(|i| -(i as f32) * 0.31 - 0.2).collect();
            let other: Vec<f64> = (0..classes).map(|i| -(i as f64) * 0.29 - 0.3).collect();
            let mut out = [0.0];
            let shift = 0.125;
            let matrices = [Matrix::Logs(Floats::Single(&base)), Matrix::Logs(Floats::Double(&other))];
            divergence(matrices, [&[0.0], &[shift]], classes, &mut out, 1);
            let terms = base.iter().zip(&other).map(|(p, q)| (f64::from(*p), q - shift));
            let expected: f64 = terms.filter(|(p, _)| *p > -16.0).map(|(p, q)| p.exp() * (p - q)).sum();
            assert!((out[0] - expected).abs() < 1e-14, "{classes}: {} {expected}", out[0]);
        }
    }
}
