//! Arrays in any layout, in just as much memory as they reach.

use std::cell::UnsafeCell;

use arbitrary::{Result, Unstructured};
use kullback::rows::Dtype;
use kullback::score::{Axes, Bytes, Given};

pub const FLOATING: [Dtype; 6] = [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::Bf16, Dtype::F32, Dtype::F64];
/// Those that labels may have come first.
pub const INTEGERS: [Dtype; 9] =
    [Dtype::I64, Dtype::I32, Dtype::I16, Dtype::I8, Dtype::U8, Dtype::U16, Dtype::U32, Dtype::U64, Dtype::Bool];
const SPECIAL: [f64; 16] = [
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    0.0,
    -0.0,
    -1.0,
    1.0,
    5e-324,
    1e-310,
    1e-45,
    1e-40,
    3e-38,
    1e38,
    -3e38,
    1e308,
    -1e-12,
];

/// Lengths of the leading axes, then the number of classes; the latter may be left out.
#[derive(Clone, Debug)]
pub struct Shape {
    dims: Vec<usize>,
    classed: bool,
}

impl Shape {
    pub fn any(u: &mut Unstructured<'_>) -> Result<Self> {
        // Now and then as many rows as are worth threads.
        if u.ratio(1, 60)? {
            let (rows, classes) = (u.int_in_range(8_000..=25_000)?, u.int_in_range(1..=7)?);
            return Ok(Shape { dims: vec![rows, classes], classed: true });
        }
        let classes = match u.int_in_range(0..=9)? {
            0..5 => u.int_in_range(0..=40)?,
            5..7 => u.int_in_range(100..=140)?,
            7..9 => u.int_in_range(1..=600)?,
            _ => *u.choose(&[2047, 2048, 2049, 4100])?,
        };
        let most = if classes > 600 { 3 } else { (4000 / (classes + 20)).max(if classes > 128 { 64 } else { 0 }) };
        let (mut dims, mut rows) = (Vec::new(), 1);
        for _ in 0..u.int_in_range(0..=3)? {
            let n = if u.ratio(1, 30)? { 0 } else { u.int_in_range(1..=(most / rows).max(1))? };
            rows *= n.max(1);
            dims.push(n);
        }
        dims.push(classes);
        Ok(Shape { dims, classed: true })
    }

    /// The leading axes alone.
    pub fn rows(&self) -> Self {
        Shape { dims: self.dims[..self.dims.len() - 1].to_vec(), classed: false }
    }

    pub fn classes(&self) -> usize {
        *self.dims.last().expect("classes")
    }

    pub fn lead(&self) -> Axes<usize> {
        self.rows().dims.into_iter().collect()
    }
}

#[derive(Debug)]
pub struct Array {
    pub dtype: Dtype,
    pub swapped: bool,
    shape: Shape,
    strides: Vec<isize>,
    /// Where the first element is.
    start: usize,
    memory: Box<[UnsafeCell<u8>]>,
}

/// Numbers that need not come from the fuzzer one by one.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    /// Between 0 and 1.
    fn uniform(&mut self) -> f64 {
        self.bits() as f64 / (1u64 << 53) as f64
    }

    /// Roughly normal.
    fn normal(&mut self) -> f64 {
        (0..6).map(|_| self.uniform() - 0.5).sum::<f64>() * std::f64::consts::SQRT_2
    }
}

impl Array {
    fn new(shape: Shape, dtype: Dtype, swapped: bool, strides: Vec<isize>) -> Self {
        let (mut low, mut high) = (0isize, 0isize);
        for (n, stride) in shape.dims.iter().zip(&strides) {
            let reach = (n.max(&1) - 1) as isize * stride;
            (low, high) = (low + reach.min(0), high + reach.max(0));
        }
        let empty = shape.dims.contains(&0);
        let bytes = if empty { 0 } else { (high - low) as usize + dtype.size() };
        let memory = (0..bytes).map(|_| UnsafeCell::new(0)).collect();
        Array { dtype, swapped, shape, strides, start: if empty { 0 } else { -low as usize }, memory }
    }

    /// An array of any layout; elements share memory (strides of 0) only if `repeats`.
    pub fn any(u: &mut Unstructured<'_>, shape: &Shape, dtype: Dtype, repeats: bool) -> Result<Self> {
        let axes = shape.dims.len();
        let mut order: Vec<usize> = (0..axes).rev().collect();
        let style = u.int_in_range(0..=7)?;
        if style >= 4 && axes > 1 {
            if style == 4 {
                order.reverse();
            } else {
                for i in 1..axes {
                    order.swap(i, u.int_in_range(0..=i)?);
                }
            }
        }
        let mut strides = vec![0isize; axes];
        let mut step = dtype.size() as isize;
        for axis in order {
            let n = shape.dims[axis].max(1) as isize;
            let (mut stride, mut next) = (step, step * n);
            if style >= 6 {
                match u.int_in_range(0..=7)? {
                    0 if repeats => (stride, next) = (0, step),
                    1 => (stride, next) = (-step, step * n),
                    2 => (stride, next) = (2 * step, 2 * step * n),
                    3 => (stride, next) = (step + 1, (step + 1) * n),
                    4 => next += 3,
                    _ => {}
                }
            }
            strides[axis] = stride;
            step = next;
        }
        let swapped = style == 7 && dtype.size() > 1 && repeats && u.arbitrary()?;
        Ok(Array::new(shape.clone(), dtype, swapped, strides))
    }

    /// The same elements in C order and native byte order.
    pub fn plain(&self) -> Self {
        let mut strides = vec![self.dtype.size() as isize; self.shape.dims.len()];
        for axis in (1..strides.len()).rev() {
            strides[axis - 1] = strides[axis] * self.shape.dims[axis] as isize;
        }
        let to = Array::new(self.shape.clone(), self.dtype, false, strides);
        for i in 0..self.len() {
            let mut bytes = self.bytes(i);
            if self.swapped {
                bytes.reverse();
            }
            to.set(i, &bytes);
        }
        to
    }

    pub fn len(&self) -> usize {
        self.shape.dims.iter().product()
    }

    pub fn first(&self) -> *const u8 {
        self.memory.as_ptr().cast::<u8>().wrapping_add(self.start)
    }

    pub fn class_stride(&self) -> isize {
        if self.shape.classed { *self.strides.last().expect("classes") } else { 0 }
    }

    /// Of the leading axes.
    pub fn lead(&self) -> Axes<isize> {
        self.strides[..self.strides.len() - usize::from(self.shape.classed)].iter().copied().collect()
    }

    /// Of all axes.
    pub fn strides(&self) -> Axes<isize> {
        self.strides.iter().copied().collect()
    }

    /// As the mask of a job.
    pub fn flags(&self) -> Bytes {
        Bytes { data: self.first(), class_stride: self.class_stride(), lead: self.lead() }
    }

    /// Where element `i` in C order is.
    fn place(&self, mut i: usize) -> usize {
        let mut at = self.start as isize;
        for (n, stride) in self.shape.dims.iter().zip(&self.strides).rev() {
            at += (i % n) as isize * stride;
            i /= n;
        }
        at as usize
    }

    fn bytes(&self, i: usize) -> Vec<u8> {
        let at = self.place(i);
        // SAFETY: nothing writes while this reads.
        self.memory[at..at + self.dtype.size()].iter().map(|b| unsafe { *b.get() }).collect()
    }

    fn set(&self, i: usize, bytes: &[u8]) {
        let at = self.place(i);
        for (to, from) in self.memory[at..].iter().zip(bytes) {
            // SAFETY: nothing else reads or writes meanwhile.
            unsafe { *to.get() = *from };
        }
    }

    pub fn number(&self, i: usize) -> f64 {
        // SAFETY: the element lies in the memory.
        unsafe { self.dtype.number(self.bytes(i).as_ptr(), self.swapped) }
    }

    pub fn clear(&self) {
        for byte in &self.memory {
            // SAFETY: nothing else reads or writes meanwhile.
            unsafe { *byte.get() = 0xa5 };
        }
    }

    /// Stores a number, rounded or clamped to the dtype.
    fn store(&self, i: usize, x: f64) {
        let mut bytes = [0u8; 8];
        match self.dtype {
            // SAFETY: eight bytes are writable.
            Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16 => unsafe { self.dtype.store(x, bytes.as_mut_ptr()) },
            Dtype::Bool => bytes[0] = u8::from(x > 0.0),
            dtype => {
                let bits = 8 * dtype.size() as i32;
                let most = 2f64.powi(bits - 1);
                let signed = matches!(dtype, Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64);
                let x = if signed { x.clamp(-most, most - 1.0) } else { x.clamp(0.0, 2.0 * most - 1.0) };
                bytes = if signed { (x as i64).to_le_bytes() } else { (x as u64).to_le_bytes() };
            }
        }
        let bytes = &mut bytes[..self.dtype.size()];
        if self.swapped {
            bytes.reverse();
        }
        self.set(i, bytes);
    }

    /// Fills with what `draw` gives, element by element, in native byte order.
    pub fn fill_with(
        &mut self,
        mut draw: impl FnMut(&mut Unstructured<'_>) -> Result<Vec<u8>>,
        u: &mut Unstructured<'_>,
    ) -> Result<()> {
        for i in 0..self.len() {
            let mut bytes = draw(u)?;
            if self.swapped {
                bytes.reverse();
            }
            self.set(i, &bytes);
        }
        Ok(())
    }

    /// Rows of a space, some elements replaced by special ones; or any bytes.
    pub fn fill(&mut self, u: &mut Unstructured<'_>, given: Given, temperature: f64) -> Result<()> {
        if self.len() == 0 {
            return Ok(());
        }
        if u.ratio(1, 8)? {
            let size = self.dtype.size();
            return self.fill_with(|u| (0..size).map(|_| u.arbitrary()).collect(), u);
        }
        let mut random = Random(u.arbitrary::<u32>()? as u64 * 0x9e37_79b9 + 1);
        let spread = *u.choose(&[1.0, 1e-4, 4.0, 30.0, 90.0, 1e3, 1e20])?;
        let (offset, total) = (*u.choose(&[0.0, 0.0, 1e2, -1e4, 1e30])?, *u.choose(&[1.0, 1e3, 1e6, 1e-30, 1e300])?);
        let zeros = if u.ratio(1, 3)? { 0.3 } else { 0.0 };
        let c = self.shape.classes();
        for row in 0..self.len() / c {
            let mut x: Vec<f64> = (0..c)
                .map(|_| if random.uniform() < zeros { f64::NEG_INFINITY } else { random.normal() * spread })
                .collect();
            if given != Given::Logits {
                let most = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum = most + x.iter().map(|x| (x - most).exp()).sum::<f64>().ln();
                x.iter_mut().for_each(|x| *x -= sum);
            }
            for (i, x) in x.into_iter().enumerate() {
                let value = match given {
                    Given::Probs => x.exp(),
                    Given::Counts => x.exp() * total,
                    Given::LogProbs => x,
                    Given::Logits => (x + offset) * temperature,
                };
                self.store(row * c + i, value);
            }
        }
        for _ in 0..u.int_in_range(0..=4)? {
            let at = u.int_in_range(0..=self.len() - 1)?;
            self.store(at, *u.choose(&SPECIAL)?);
        }
        Ok(())
    }

    /// A row next to each: its numbers a few units in the last place, or a little, away.
    pub fn near(&self, u: &mut Unstructured<'_>) -> Result<Self> {
        let mut random = Random(u.arbitrary::<u32>()? as u64 * 0x9e37_79b9 + 1);
        let share = *u.choose(&[0.0, 0.0, 1e-7, 1e-5, 1e-3, 0.1])?;
        let to = Array::new(self.shape.clone(), self.dtype, self.swapped, self.strides.clone());
        for i in 0..self.len() {
            to.set(i, &self.bytes(i));
        }
        for i in 0..self.len() {
            let x = self.number(i);
            let near = x * (1.0 + share * random.normal());
            if share > 0.0 {
                to.store(i, near);
            } else if x.is_finite() && x != 0.0 && FLOATING.contains(&self.dtype) {
                let mut bytes = self.bytes(i);
                let low = if self.swapped { bytes.len() - 1 } else { 0 };
                bytes[low] ^= (random.bits() & 1) as u8;
                to.set(i, &bytes);
            }
        }
        Ok(to)
    }
}
