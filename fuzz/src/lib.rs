//! A call made of bytes, and what it must give.
//!
//! The bytes choose quantity, spaces, dtypes, byte orders, shape, strides (negative, zero, with gaps, unaligned), masks,
//! labels, temperatures, options and the elements. Every array has just the bytes that its strides reach, so that the
//! address sanitizer sees a read past any end. The result is held against [`reference`], and its bits to those of another
//! instruction set, another number of threads, or a plain copy of the arrays.

mod double;
mod layout;
mod reference;

use arbitrary::{Result, Unstructured};
use kullback::registry::{Quantity, Symmetric, run};
use kullback::rows::Dtype;
use kullback::score::{Given, Job, Labels, Operand, Out};
use kullback::simd;
use layout::{Array, FLOATING, INTEGERS, Shape};

const QUANTITIES: [Quantity; 4] = [Quantity::Entropy, Quantity::CrossEntropy, Quantity::Kl, Quantity::Nll];
const GIVEN: [Given; 4] = [Given::Probs, Given::Counts, Given::LogProbs, Given::Logits];
const TEMPERATURES: [f64; 10] = [1.0, 1.0, 1.0, 0.7, 3.0, 1e-3, 1e3, 1e-30, 1e30, 1e-200];

/// The arrays of a call, and the call.
struct Call {
    quantity: Quantity,
    operands: Vec<Array>,
    mask: Option<Array>,
    rows: Option<Array>,
    labels: Option<Array>,
    out: Array,
    job: Job,
}

impl Call {
    fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        let symmetric = u.ratio(1, 4)?;
        let quantity =
            if symmetric { Quantity::Symmetric(*u.choose(Symmetric::ALL)?) } else { *u.choose(&QUANTITIES)? };
        let inputs = if matches!(quantity, Quantity::Entropy | Quantity::Nll) { 1 } else { 2 };
        let shape = Shape::any(u)?;
        let given = [*u.choose(&GIVEN)?, *u.choose(&GIVEN)?];
        let temperature = [*u.choose(&TEMPERATURES)?, *u.choose(&TEMPERATURES)?];
        // Pairs in one space and at one temperature are most of what there is to go wrong.
        let given = if u.ratio(2, 3)? { [given[0]; 2] } else { given };
        let temperature = if u.ratio(3, 4)? { [temperature[0]; 2] } else { temperature };
        let mut operands = Vec::new();
        for k in 0..inputs {
            let dtype = if u.ratio(3, 4)? { *u.choose(&FLOATING)? } else { *u.choose(&INTEGERS)? };
            let mut x = Array::any(u, &shape, dtype, true)?;
            x.fill(u, given[k], temperature[k])?;
            operands.push(x);
        }
        if inputs == 2 && u.ratio(1, 4)? {
            operands[1] = operands[0].near(u)?;
        }
        let mut flags = |classes: bool| -> Result<Option<Array>> {
            if !u.ratio(1, 4)? {
                return Ok(None);
            }
            let shape = if classes { shape.clone() } else { shape.rows() };
            let mut x = Array::any(u, &shape, Dtype::Bool, true)?;
            x.fill_with(|u| Ok(vec![*u.choose(&[1, 1, 1, 0, 2])?]), u)?;
            Ok(Some(x))
        };
        let (mask, rows) = (flags(true)?, flags(false)?);
        let labels = if quantity == Quantity::Nll {
            let dtype = *u.choose(&INTEGERS[..8])?;
            let mut x = Array::any(u, &shape.rows(), dtype, true)?;
            let (c, wild) = (shape.classes() as i64, u.ratio(1, 8)?);
            x.fill_with(
                |u| {
                    let label = if wild { u.int_in_range(-2..=c)? } else { u.int_in_range(0..=(c - 1).max(0))? };
                    Ok(x_bytes(dtype, label))
                },
                u,
            )?;
            Some(x)
        } else {
            None
        };
        let single = Dtype::single(operands.iter().map(|x| x.dtype));
        let out = Array::any(u, &shape.rows(), if single { Dtype::F32 } else { Dtype::F64 }, false)?;
        let root = symmetric && u.arbitrary()?;
        let units = [1.0, std::f64::consts::LN_2, std::f64::consts::LN_10, -std::f64::consts::LN_2];
        let job = Job {
            operands: operands
                .iter()
                .enumerate()
                .map(|(k, x)| Operand {
                    name: ["p", "q"][k],
                    data: x.first(),
                    dtype: x.dtype,
                    swapped: x.swapped,
                    class_stride: x.class_stride(),
                    lead: x.lead(),
                    given: given[k],
                    temperature: if given[k] == Given::Logits { temperature[k] } else { 1.0 },
                })
                .collect(),
            lead: shape.lead(),
            classes: shape.classes(),
            check_sums: mask.is_none(),
            mask: mask.as_ref().map(Array::flags),
            rows: rows.as_ref().map(|x| kullback::score::Bytes { class_stride: 0, lead: x.strides(), data: x.first() }),
            labels: match &labels {
                None => None,
                Some(x) => Some(Labels {
                    data: x.first(),
                    dtype: x.dtype,
                    swapped: x.swapped,
                    lead: x.strides(),
                    ignore: if u.arbitrary()? { Some(0) } else { None },
                }),
            },
            unit: units[u.int_in_range(0..=if root { 2 } else { 3 })?],
            most: quantity.most(),
            root,
            invalid_is_nan: u.arbitrary()?,
            threads: 1,
            out: Some(Out { data: out.first().cast_mut(), single, lead: out.strides() }),
            total: false,
            known: None,
        };
        Ok(Call { quantity, operands, mask, rows, labels, out, job })
    }

    /// Results as the call stores them, or `None` where it is an error.
    fn run(&self) -> Option<Vec<f64>> {
        self.out.clear();
        match run(self.quantity, &self.job).and_then(|(_, invalid)| invalid.check(&self.job)) {
            Ok(()) => Some((0..self.job.len()).map(|row| self.out.number(row)).collect()),
            Err(error) => {
                assert!(!format!("{error:?}").is_empty());
                None
            }
        }
    }

    /// The same call on plain arrays.
    fn plain(&self) -> Call {
        let operands: Vec<Array> = self.operands.iter().map(Array::plain).collect();
        let (mask, rows) = (self.mask.as_ref().map(Array::plain), self.rows.as_ref().map(Array::plain));
        let (labels, out) = (self.labels.as_ref().map(Array::plain), self.out.plain());
        let mut job = self.job.clone();
        for (to, from) in job.operands.iter_mut().zip(&operands) {
            (to.data, to.swapped, to.class_stride, to.lead) =
                (from.first(), from.swapped, from.class_stride(), from.lead());
        }
        job.mask = mask.as_ref().map(Array::flags);
        if let (Some(to), Some(from)) = (&mut job.rows, &rows) {
            (to.data, to.lead) = (from.first(), from.strides());
        }
        if let (Some(to), Some(from)) = (&mut job.labels, &labels) {
            (to.data, to.swapped, to.lead) = (from.first(), from.swapped, from.strides());
        }
        if let Some(to) = &mut job.out {
            (to.data, to.lead) = (out.first().cast_mut(), out.strides());
        }
        Call { quantity: self.quantity, operands, mask, rows, labels, out, job }
    }
}

/// An integer as a dtype stores it.
fn x_bytes(dtype: Dtype, x: i64) -> Vec<u8> {
    x.to_le_bytes()[..dtype.size()].to_vec()
}

fn same(a: &Option<Vec<f64>>, b: &Option<Vec<f64>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())),
        _ => false,
    }
}

/// Makes a call of the bytes and checks what it gives.
pub fn check(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let (Ok(mut call), Ok(other)) = (Call::new(&mut u), u.int_in_range(0..=9)) else { return };
    let levels = simd::levels();
    simd::set_level(levels[0]);
    let got = call.run();
    if let Err(what) = reference::check(call.quantity, &call.job, got.as_deref()) {
        panic!("{what}: {:?} {:?}", call.quantity, call.job);
    }
    let (what, again) = match other {
        0..2 => {
            simd::set_level(levels[(other + 1) % levels.len()]);
            ("another level", call.run())
        }
        2 => {
            call.job.threads = 3;
            ("three threads", call.run())
        }
        3..6 => ("plain arrays", call.plain().run()),
        _ => return,
    };
    assert!(same(&got, &again), "{what}: {got:?} became {again:?} in {:?}", call.job);
}

/// The bytes of `seed` as a generator would draw them: for runs without a fuzzer.
pub fn drawn(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Most results have a bound, and what is a little beyond it is seen.
    #[test]
    fn wrong_results_are_seen() {
        let (mut rows, mut bounded, mut seen, mut tried) = (0, 0, 0, 0);
        for seed in 0..2000 {
            let bytes = drawn(seed, 64 + (seed % 61 * 61) as usize);
            let Ok(call) = Call::new(&mut Unstructured::new(&bytes)) else { continue };
            let Some(got) = call.run() else { continue };
            let check = |got: &[f64]| reference::check(call.quantity, &call.job, Some(got));
            let has_bound = check(&got).expect("right results");
            rows += got.iter().filter(|x| !x.is_nan()).count();
            bounded += has_bound.iter().filter(|x| **x).count();
            // Of a divergence of single precision the bound is 2e-6; less than 1e-9 may all be lost.
            let off = if call.job.out.as_ref().is_some_and(|out| out.single) { 1e-5 } else { 1e-11 };
            if let Some(row) =
                (0..got.len()).find(|row| has_bound[*row] && got[*row].abs() > 1e-9 && got[*row].is_finite())
            {
                let mut wrong = got.clone();
                wrong[row] *= 1.0 + off;
                tried += 1;
                seen += usize::from(check(&wrong).is_err());
            }
        }
        println!("{bounded} of {rows} results have a bound, {seen} of {tried} wrong ones were seen");
        assert!(bounded * 10 > rows * 8 && tried > 300 && seen * 10 > tried * 9);
    }

    /// What a fuzzer does, without its guidance: `cargo test --release`, on the stable toolchain too.
    #[test]
    fn random_calls() {
        let number = |name, usual| std::env::var(name).map_or(usual, |x| x.parse().expect("a number"));
        let first = number("FIRST", 0);
        for seed in first..first + number("CALLS", 20_000) {
            check(&drawn(seed, 64 + (seed % 61 * 61) as usize));
        }
    }
}
