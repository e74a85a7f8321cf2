//! What a call is about, as memory: the rows, the labels and flags that go with them, and where results go.

use smallvec::SmallVec;

use crate::rows::source::dtype::{Scalar, stored};
use crate::rows::{Dtype, Lead, Map};

/// One number an axis. Arrays of up to four take no allocation: with eleven of them a call on one row took twice as long.
pub type Axes<T> = SmallVec<[T; 4]>;

/// How a row is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// Masses that sum to 1.
    Probs,
    /// Masses.
    Counts,
    /// Logarithms of masses that sum to 1.
    LogProbs,
    /// Logarithms of masses.
    Logits,
}

impl Given {
    /// All of them by name.
    pub const NAMES: [(&'static str, Given); 4] =
        [("probs", Given::Probs), ("counts", Given::Counts), ("log_probs", Given::LogProbs), ("logits", Given::Logits)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, g)| *g == self).map_or("", |(name, _)| name)
    }

    /// Whether elements are logarithms.
    pub fn is_log(self) -> bool {
        matches!(self, Given::LogProbs | Given::Logits)
    }

    /// Whether rows must be normalised.
    pub(super) fn is_normalised(self) -> bool {
        matches!(self, Given::Probs | Given::LogProbs)
    }
}

/// Memory of one byte an element.
#[derive(Clone, Debug)]
pub struct Bytes {
    /// The first byte.
    pub data: *const u8,
    /// Bytes from class to class; 0 where there is no class axis.
    pub class_stride: isize,
    /// Bytes from row to row along each leading axis.
    pub lead: Axes<isize>,
}

/// One input of a call.
#[derive(Clone, Debug)]
pub struct Operand {
    /// What messages call it.
    pub name: &'static str,
    /// The first element.
    pub data: *const u8,
    /// How elements are stored.
    pub dtype: Dtype,
    /// Whether in the other byte order.
    pub swapped: bool,
    /// Bytes from class to class.
    pub class_stride: isize,
    /// Bytes from row to row along each leading axis.
    pub lead: Axes<isize>,
    /// The space of its rows.
    pub given: Given,
    /// What its logarithms are divided by.
    pub temperature: f64,
}

impl Operand {
    /// Logits at temperature 1, or mere numbers, in the machine's byte order.
    pub fn new(name: &'static str, data: *const u8, dtype: Dtype, class_stride: isize, lead: Axes<isize>) -> Self {
        Operand { name, data, dtype, swapped: false, class_stride, lead, given: Given::Logits, temperature: 1.0 }
    }

    /// How its elements become logarithms at temperature 1 while they are staged.
    pub fn as_logs(&self) -> Map {
        match self.given.is_log() {
            false => Map::Ln(1.0),
            true if self.temperature != 1.0 => Map::Divide(self.temperature),
            true => Map::Keep,
        }
    }

    /// Whether the constants of its temperature leave what single precision holds.
    pub fn is_far(&self) -> bool {
        !(1e-20..1e20).contains(&self.temperature)
    }
}

/// The labels of the rows.
#[derive(Clone, Debug)]
pub struct Labels {
    /// The first label.
    pub data: *const u8,
    /// An integer dtype.
    pub dtype: Dtype,
    /// Whether in the other byte order.
    pub swapped: bool,
    /// Bytes from row to row along each leading axis.
    pub lead: Axes<isize>,
    /// The label of rows that do not count.
    pub ignore: Option<i64>,
}

impl Labels {
    /// The label of a row.
    #[inline]
    pub fn get(&self, lead: &Lead<'_>, row: usize) -> i128 {
        let at = self.data.wrapping_offset(lead.offset(&self.lead, row));
        // SAFETY: the array has the shape of the leading axes.
        unsafe { self.dtype.integer(at, self.swapped) }
    }

    /// Calls `see` with the place and the label of each of at least one row. The dtype is looked at once: to do so for every
    /// label was a fifth of the time of `nll` of ten classes.
    #[inline(always)]
    pub(super) fn each(&self, lead: &Lead<'_>, rows: &[usize], mut see: impl FnMut(usize, i128)) {
        let (first, step) = (lead.offset(&self.lead, rows[0]), lead.step(&self.lead, rows));
        stored!(self.dtype, T => {
            // SAFETY: the array has the shape of the leading axes, and offsets are those of its rows.
            let get = |offset| unsafe { T::integer(self.data.wrapping_offset(offset), self.swapped) };
            match step {
                Some(step) => (0..rows.len()).for_each(|k| see(k, get(first + k as isize * step))),
                None => lead.offsets(&self.lead, rows, |k, at| see(k, get(at))),
            }
        });
    }
}

/// Where results go.
#[derive(Clone, Debug)]
pub struct Out {
    /// The first result.
    pub data: *mut u8,
    /// Whether results are `f32` (else `f64`).
    pub single: bool,
    /// Bytes from row to row along each leading axis.
    pub lead: Axes<isize>,
}

/// Numbers of rows, in their order.
#[derive(Clone, Copy, Debug)]
pub struct Numbers(pub *mut f64);

// SAFETY: every number is written by one thread only, or only read.
unsafe impl Sync for Numbers {}
// SAFETY: as above.
unsafe impl Send for Numbers {}

impl Numbers {
    /// Those from the i-th on.
    pub fn skip(self, i: usize) -> Self {
        Numbers(self.0.wrapping_add(i))
    }

    /// Stores one.
    pub fn set(self, i: usize, x: f64) {
        // SAFETY: the binding makes room for every row that is asked for.
        unsafe { self.0.add(i).write(x) }
    }

    /// One of them.
    pub fn get(self, i: usize) -> f64 {
        // SAFETY: as above.
        unsafe { self.0.add(i).read() }
    }
}

/// Numbers a row that its gradient needs: the log-sum-exps of both operands and the result in nats.
pub const KNOWN: usize = 3;
