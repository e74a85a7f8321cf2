//! The core without an interpreter, on one thread and on data that stays in a 2 MB cache: every quantity, space and
//! instruction set of this machine. `cargo bench --bench kernels -- 'kl/logits.*avx2'` runs a part.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kullback::registry::{Quantity, Symmetric, run};
use kullback::rows::Dtype;
use kullback::score::{Given, Job, Operand, Out};
use kullback::simd;

/// Elements of one input: 1 MB of `f32`.
const ELEMENTS: usize = 250_000;

/// Rows of few, some and many classes; [`ELEMENTS`] hold one row of the last and more.
const CLASSES: [usize; 5] = [3, 10, 100, 1000, 128_256];

/// Uniform numbers in [0, 1): a multiplicative generator's high bits.
struct Uniform(u64);

impl Uniform {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 24) as f32
    }

    /// Nearly normal, with deviation 1: the sum of 12 less its mean.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.next()).sum::<f32>() - 6.0
    }
}

/// Two arrays of rows of logits, the second the first with noise, or their softmax.
struct Pair {
    given: Given,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Pair {
    fn new(given: Given, rows: usize, classes: usize, noise: f32) -> Self {
        let mut random = Uniform(7);
        let mut first: Vec<f32> = (0..rows * classes).map(|_| 3.0 * random.normal()).collect();
        let mut second: Vec<f32> = first.iter().map(|x| x + noise * random.normal()).collect();
        if given == Given::Probs {
            for x in [&mut first, &mut second] {
                x.chunks_mut(classes).for_each(softmax);
            }
        }
        Pair { given, first, second }
    }
}

fn softmax(row: &mut [f32]) {
    let total: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
    for x in row {
        *x = (f64::from(*x).exp() / total) as f32;
    }
}

/// A call with `inputs` of contiguous arrays, which it does not own.
fn job(inputs: &[*const u8], dtype: Dtype, given: Given, columns: bool, classes: usize, out: &mut [f64]) -> Job {
    let (rows, size) = (out.len(), dtype.size() as isize);
    let (class_stride, lead) = if columns { (size * rows as isize, size) } else { (size, size * classes as isize) };
    let operands = inputs.iter().zip(["p", "q"]).map(|(data, name)| Operand {
        given,
        ..Operand::new(name, *data, dtype, class_stride, [lead].as_slice().into())
    });
    Job {
        invalid_is_nan: false,
        check_sums: true,
        out: Some(Out { data: out.as_mut_ptr().cast(), single: false, lead: [8].as_slice().into() }),
        ..Job::new(operands, [rows].as_slice(), classes, 1)
    }
}

/// Times a job, in bytes read a second.
fn time(c: &mut Criterion, group: &str, id: BenchmarkId, quantity: Quantity, job: &Job) {
    let bytes: usize = job.operands.iter().map(|x| x.dtype.size() * job.len() * job.classes).sum();
    let mut group = c.benchmark_group(group);
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function(id, |b| {
        b.iter(|| assert!(run(quantity, black_box(job)).is_ok()));
    });
    group.finish();
}

/// Every quantity on `f32`, over classes and instruction sets.
fn quantities(c: &mut Criterion) {
    let all = [
        ("entropy", Quantity::Entropy, 1),
        ("cross_entropy", Quantity::CrossEntropy, 2),
        ("kl", Quantity::Kl, 2),
        ("js", Quantity::Symmetric(Symmetric::Js), 2),
    ];
    for (name, quantity, inputs) in all {
        for given in [Given::Probs, Given::Logits] {
            for classes in CLASSES {
                let rows = ELEMENTS.div_ceil(classes);
                let pair = Pair::new(given, rows, classes, 0.1);
                let data = [pair.first.as_ptr().cast(), pair.second.as_ptr().cast()];
                let mut out = vec![0.0; rows];
                let job = job(&data[..inputs], Dtype::F32, pair.given, false, classes, &mut out);
                at_levels(c, &format!("{name}/{}", given.name()), &classes.to_string(), quantity, &job);
            }
        }
    }
}

/// KL of logits where it differs: unrelated rows, columns, 16 bits, double precision.
fn kinds(c: &mut Criterion) {
    let (classes, group) = (100, "kl/logits/kinds");
    let rows = ELEMENTS / classes;
    let near = Pair::new(Given::Logits, rows, classes, 0.1);
    let far = Pair::new(Given::Logits, rows, classes, 4.0);
    let half = |x: &[f32]| -> Vec<u16> { x.iter().map(|x| (x.to_bits() >> 16) as u16).collect() };
    let double = |x: &[f32]| -> Vec<f64> { x.iter().map(|x| f64::from(*x)).collect() };
    let (half, double) = ([half(&near.first), half(&near.second)], [double(&near.first), double(&near.second)]);
    let mut out = vec![0.0; rows];
    let kinds: [(&str, [*const u8; 2], Dtype, bool); 5] = [
        ("near", [near.first.as_ptr().cast(), near.second.as_ptr().cast()], Dtype::F32, false),
        ("unrelated", [far.first.as_ptr().cast(), far.second.as_ptr().cast()], Dtype::F32, false),
        ("column-major", [near.first.as_ptr().cast(), near.second.as_ptr().cast()], Dtype::F32, true),
        ("bf16", [half[0].as_ptr().cast(), half[1].as_ptr().cast()], Dtype::Bf16, false),
        ("f64", [double[0].as_ptr().cast(), double[1].as_ptr().cast()], Dtype::F64, false),
    ];
    for (name, data, dtype, columns) in kinds {
        let job = job(&data, dtype, Given::Logits, columns, classes, &mut out);
        at_levels(c, group, name, Quantity::Kl, &job);
    }
}

fn at_levels(c: &mut Criterion, group: &str, name: &str, quantity: Quantity, job: &Job) {
    for level in simd::levels() {
        assert!(simd::set_level(level));
        time(c, group, BenchmarkId::new(name, level), quantity, job);
    }
}

criterion_group! {
    name = kernels;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(800));
    targets = quantities, kinds
}
criterion_main!(kernels);
