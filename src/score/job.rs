//! Everything a call is about, and its rows: which count, and what they hold.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Mutex;

use smallvec::{SmallVec, smallvec};

use super::Invalid;
use super::operand::{Axes, Bytes, KNOWN, Labels, Numbers, Operand, Out};
use crate::math::Math;
use crate::rows::source::dtype::{Scalar, stored};
use crate::rows::{BATCH, Input, Lead, Map, Mask, Offsets, Rows};

/// Everything a call is about.
#[derive(Clone, Debug)]
pub struct Job {
    /// The inputs: one or two.
    pub operands: SmallVec<[Operand; 2]>,
    /// Lengths of the leading axes.
    pub lead: Axes<usize>,
    /// Number of classes.
    pub classes: usize,
    /// Which classes count.
    pub mask: Option<Bytes>,
    /// Which rows count.
    pub rows: Option<Bytes>,
    /// The labels.
    pub labels: Option<Labels>,
    /// What results are divided by.
    pub unit: f64,
    /// The largest result there can be, before the unit.
    pub most: f64,
    /// Whether the root is taken at last.
    pub root: bool,
    /// Whether invalid rows become NaN (else an error).
    pub invalid_is_nan: bool,
    /// Whether rows must be normalised where their space says so.
    pub check_sums: bool,
    /// Threads.
    pub threads: usize,
    /// Where results go; `None` where only the total is wanted.
    pub out: Option<Out>,
    /// Whether a total is wanted.
    pub total: bool,
    /// Where [`KNOWN`] numbers of every row go, if anywhere. Log-sum-exps that are not at hand are infinite.
    pub known: Option<Numbers>,
}

// SAFETY: the pointers are read (and `out` written, each result once) by the threads of one call, during which the
// caller keeps the arrays alive.
unsafe impl Sync for Job {}

impl Job {
    /// Rows as they are: no sum is checked, and a row that is no distribution is NaN.
    pub fn new(
        operands: impl IntoIterator<Item = Operand>,
        lead: impl Into<Axes<usize>>,
        classes: usize,
        threads: usize,
    ) -> Self {
        Job {
            operands: operands.into_iter().collect(),
            lead: lead.into(),
            classes,
            mask: None,
            rows: None,
            labels: None,
            unit: 1.0,
            most: f64::INFINITY,
            root: false,
            invalid_is_nan: true,
            check_sums: false,
            threads,
            out: None,
            total: false,
            known: None,
        }
    }

    /// Merges adjacent leading axes where all strides along them allow it, those of `more` too, and drops axes of length 1.
    pub fn collapse<'a>(&'a mut self, more: impl IntoIterator<Item = &'a mut Axes<isize>>) {
        let shape = &mut self.lead;
        let mut strides: SmallVec<[&mut Axes<isize>; 6]> = self.operands.iter_mut().map(|x| &mut x.lead).collect();
        strides.extend(self.mask.iter_mut().chain(&mut self.rows).map(|x| &mut x.lead));
        strides.extend(self.labels.iter_mut().map(|x| &mut x.lead));
        strides.extend(self.out.iter_mut().map(|x| &mut x.lead));
        strides.extend(more);
        let mut axis = 0;
        while axis < shape.len() {
            if shape[axis] == 1 {
                shape.remove(axis);
                for s in strides.iter_mut() {
                    s.remove(axis);
                }
            } else if axis > 0 && strides.iter().all(|s| s[axis - 1] == s[axis] * shape[axis] as isize) {
                shape[axis] *= shape[axis - 1];
                shape.remove(axis - 1);
                for s in strides.iter_mut() {
                    s.remove(axis - 1);
                }
            } else {
                axis += 1;
            }
        }
    }

    /// The job collapsed: itself where there is nothing to merge, for a copy takes as long as ten classes.
    pub fn collapsed(&self) -> Cow<'_, Job> {
        if self.lead.len() < 2 && !self.lead.contains(&1) {
            return Cow::Borrowed(self);
        }
        let mut job = self.clone();
        job.collapse([]);
        Cow::Owned(job)
    }

    /// A range of the first leading axis by itself.
    pub fn slice(&self, range: Range<usize>) -> Job {
        let mut job = self.clone();
        let on = |lead: &Axes<isize>| range.start as isize * lead[0];
        job.operands.iter_mut().for_each(|x| x.data = x.data.wrapping_offset(on(&x.lead)));
        job.mask.iter_mut().chain(&mut job.rows).for_each(|x| x.data = x.data.wrapping_offset(on(&x.lead)));
        job.labels.iter_mut().for_each(|x| x.data = x.data.wrapping_offset(on(&x.lead)));
        job.out.iter_mut().for_each(|x| x.data = x.data.wrapping_offset(on(&x.lead)));
        let before = range.start * job.lead[1..].iter().product::<usize>();
        job.known = job.known.map(|known| known.skip(KNOWN * before));
        job.lead[0] = range.len();
        job
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.lead.iter().product()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A row number as the caller counts rows.
    pub fn row_name(&self, row: usize) -> String {
        let shape = &self.lead;
        if shape.len() < 2 {
            return row.to_string();
        }
        let (mut rest, mut index): (usize, Axes<usize>) = (row, smallvec![0; shape.len()]);
        for (i, n) in shape.iter().enumerate().rev() {
            index[i] = rest % n;
            rest /= n;
        }
        let index: Vec<String> = index.iter().map(usize::to_string).collect();
        format!("({})", index.join(", "))
    }

    pub(super) fn input(&self, k: usize, map: Map) -> Input<'_> {
        let x = &self.operands[k];
        let absent = if x.given.is_log() { f64::NEG_INFINITY } else { 0.0 };
        Input {
            data: x.data,
            dtype: x.dtype,
            swapped: x.swapped,
            class_stride: x.class_stride,
            lead: &x.lead,
            packed: None,
            mask: self.mask.as_ref().map(|m| Mask {
                data: m.data,
                class_stride: m.class_stride,
                lead: &m.lead,
                absent,
            }),
            map,
        }
    }

    /// The rows as `I` inputs of elements `E`.
    pub fn inputs<E: Math, const I: usize>(&self, map: [Map; I]) -> Rows<'_, E, I> {
        let inputs = std::array::from_fn(|k| self.input(k, map[k]));
        // SAFETY: the binding derives shapes and strides from arrays that it keeps alive during the call.
        unsafe { Rows::new(inputs, Lead { shape: &self.lead }, self.classes) }
    }

    /// Calls `see` with the rows of a range that count, up to [`BATCH`] at a time.
    pub fn batches(&self, range: Range<usize>, mut see: impl FnMut(&[usize])) {
        let (mut rows, mut which) = (SmallVec::<[usize; BATCH]>::new(), SmallVec::<[usize; BATCH]>::new());
        let mut first = range.start;
        while first < range.end {
            let (end, cut) = self.window(first, range.end);
            rows.clear();
            rows.extend(first..end);
            first = end;
            let counted = self.counted(&rows);
            if which.is_empty() && counted.iter().all(|counts| *counts) {
                see(&rows);
                continue;
            }
            for (row, _) in rows.iter().zip(&counted).filter(|(_, counts)| **counts) {
                which.push(*row);
                if which.len() == BATCH {
                    see(&which);
                    which.clear();
                }
            }
            if cut && which.len() >= BATCH / 2 {
                see(&which);
                which.clear();
            }
        }
        if !which.is_empty() {
            see(&which);
        }
    }

    /// Where a batch of rows from `first` ends, and whether where a long last axis does: rows from there on are no neighbours.
    fn window(&self, first: usize, end: usize) -> (usize, bool) {
        let (end, lead) = (end.min(first + BATCH), Lead { shape: &self.lead });
        match self.lead.as_slice() {
            [_, .., n] if lead.is_long(self.classes) && first - first % n + n <= end => (first - first % n + n, true),
            _ => (end, false),
        }
    }

    /// Calls `see` with each row of a range and whether it counts.
    pub fn flags(&self, range: Range<usize>, mut see: impl FnMut(usize, bool)) {
        let mut rows = SmallVec::<[usize; BATCH]>::new();
        for first in range.clone().step_by(BATCH) {
            rows.clear();
            rows.extend(first..range.end.min(first + BATCH));
            rows.iter().zip(&self.counted(&rows)).for_each(|(row, counts)| see(*row, *counts));
        }
    }

    /// How many rows count.
    pub fn count(&self) -> usize {
        if self.all_count() {
            return self.len();
        }
        let mut count = 0;
        self.flags(0..self.len(), |_, counts| count += usize::from(counts));
        count
    }

    /// Whether every row counts.
    pub fn all_count(&self) -> bool {
        self.rows.is_none() && self.labels.as_ref().is_none_or(|l| l.ignore.is_none())
    }

    /// Whether each of at least one row counts.
    pub fn counted(&self, rows: &[usize]) -> SmallVec<[bool; BATCH]> {
        let lead = Lead { shape: &self.lead };
        let mut found = smallvec![true; rows.len()];
        let counted: &mut [bool] = &mut found;
        if let Some(flags) = &self.rows {
            // SAFETY: the array has the shape of the leading axes.
            lead.offsets(&flags.lead, rows, |k, at| counted[k] = unsafe { flags.data.offset(at).read() } != 0);
        }
        if let Some((labels, ignore)) = self.labels.as_ref().and_then(|labels| Some((labels, labels.ignore?))) {
            labels.each(&lead, rows, |k, label| counted[k] &= label != i128::from(ignore));
        }
        found
    }

    /// The class that each of at least one row is labelled with; none where the label is no class, or there are no labels.
    pub fn classes_of(&self, rows: &[usize]) -> SmallVec<[Option<usize>; BATCH]> {
        let mut found = smallvec![None; rows.len()];
        let classes: &mut [Option<usize>] = &mut found;
        if let Some(labels) = &self.labels {
            labels.each(&Lead { shape: &self.lead }, rows, |k, label| {
                classes[k] = usize::try_from(label).ok().filter(|class| *class < self.classes);
            });
        }
        found
    }

    /// The same of rows all of which count, noting those whose label is no class.
    pub fn classes_or_note(&self, rows: &[usize], invalid: &Mutex<Invalid>) -> SmallVec<[Option<usize>; BATCH]> {
        let classes = self.classes_of(rows);
        for (row, class) in rows.iter().zip(&classes) {
            if class.is_none() {
                self.note_label(*row, invalid);
            }
        }
        classes
    }

    /// What the rows of an operand hold at these classes: no mass where one is excluded, 0 where there is none.
    pub fn elements_at(&self, k: usize, rows: &[usize], classes: &[Option<usize>]) -> SmallVec<[f64; BATCH]> {
        let input = self.input(k, Map::Keep);
        let offsets = Offsets::new(&input, &Lead { shape: &self.lead }, rows);
        let mut found = smallvec![0.0; rows.len()];
        stored!(input.dtype, T => {
            for (i, (found, class)) in found.iter_mut().zip(classes).enumerate() {
                if let Some(class) = class {
                    // SAFETY: the operand has this class of this row.
                    *found = unsafe { T::read(input.at(offsets.get(i).0, *class), input.swapped) };
                }
            }
        });
        if let Some(mask) = input.mask {
            for (i, (found, class)) in found.iter_mut().zip(classes).enumerate() {
                // SAFETY: the mask has this class of this row.
                if class.is_some_and(|class| unsafe { mask.excludes(offsets.get(i).1, class) }) {
                    *found = mask.absent;
                }
            }
        }
        found
    }

    /// One element of a row as it is stored; no mass where it is excluded.
    pub fn class(&self, k: usize, row: usize, column: usize) -> f64 {
        let lead = Lead { shape: &self.lead };
        let input = self.input(k, Map::Keep);
        // SAFETY: the operand and the mask have this class of this row.
        unsafe {
            input.class((lead.offset(input.lead, row), input.mask.map_or(0, |m| lead.offset(m.lead, row))), column)
        }
    }

    /// What [`Map::Divide`] subtracts from the elements of a row.
    pub fn origin(&self, k: usize, row: usize) -> f64 {
        let lead = Lead { shape: &self.lead };
        let input = self.input(k, Map::Keep);
        // SAFETY: a row with a label in range has a class.
        unsafe { input.origin(lead.offset(input.lead, row)) }
    }

    /// The elements of a row of one operand as they are stored; excluded classes left out.
    pub fn elements(&self, k: usize, row: usize, mut see: impl FnMut(usize, f64)) {
        let lead = Lead { shape: &self.lead };
        let input = self.input(k, Map::Keep);
        let at = lead.offset(input.lead, row);
        let mask = input.mask.map(|m| (m, lead.offset(m.lead, row)));
        for column in 0..self.classes {
            // SAFETY: the mask has this class of this row.
            if mask.is_some_and(|(m, at)| unsafe { m.excludes(at, column) }) {
                continue;
            }
            // SAFETY: the operand has this class of this row.
            see(column, unsafe { input.element(at, column) });
        }
    }
}
