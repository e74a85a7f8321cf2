//! Rows that are no distributions: what is wrong with one, and with all of a call.

use std::sync::Mutex;

use super::Job;
use crate::error::{Flaw, Result, invalid_rows, label_out_of_range};
use crate::rows::{Dtype, Lead};

/// What became of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// A distribution.
    Right,
    /// Holds a NaN, or has no mass: the result is NaN.
    Nothing,
    /// Not of its space: which operand, and why.
    Wrong(usize, Flaw),
}

impl Job {
    /// The largest distance of a row sum from 1 that is accepted: storage rounds every element.
    pub fn tolerance(dtype: Dtype) -> f64 {
        dtype.epsilon().sqrt().max(1e-3)
    }

    /// Notes that the label of a row is no class.
    #[cold]
    pub fn note_label(&self, row: usize, invalid: &Mutex<Invalid>) {
        if let Some(labels) = &self.labels {
            let label = labels.get(&Lead { shape: &self.lead }, row);
            invalid.lock().unwrap_or_else(|e| e.into_inner()).push_label(row, label);
        }
    }

    /// Looks at every element of a row: slow, for rows whose result is NaN or whose sum is off.
    pub fn inspect(&self, row: usize) -> Verdict {
        let mut verdict = Verdict::Right;
        for (k, x) in self.operands.iter().enumerate() {
            let (log, mut flaw, mut sum, mut largest) = (x.given.is_log(), None, 0.0, f64::NEG_INFINITY);
            let mut nan = false;
            self.elements(k, row, |column, value| {
                nan |= value.is_nan();
                let right = if log { value < f64::INFINITY } else { (0.0..f64::INFINITY).contains(&value) };
                if !right && flaw.is_none() {
                    flaw = Some(Flaw::Element { column, value });
                }
                largest = value.max(largest);
                sum += value;
            });
            let empty = if log { largest == f64::NEG_INFINITY } else { largest <= 0.0 };
            if nan || (empty && flaw.is_none()) {
                return Verdict::Nothing;
            }
            if log {
                let mut exps = 0.0;
                self.elements(k, row, |_, value| exps += ((value - largest) / x.temperature).exp());
                sum = largest / x.temperature + exps.ln();
            }
            if flaw.is_none() && self.check_sums && x.given.is_normalised() {
                let off = if log { sum } else { sum - 1.0 };
                if off.abs() > Self::tolerance(x.dtype) {
                    flaw = Some(if log { Flaw::LogSum(sum) } else { Flaw::Sum(sum) });
                }
            }
            if let (Verdict::Right, Some(flaw)) = (verdict, flaw) {
                verdict = Verdict::Wrong(k, flaw);
            }
        }
        verdict
    }
}

/// The rows found invalid so far: the lowest, and how many.
#[derive(Default)]
pub struct Invalid {
    lowest: Option<(usize, usize, Flaw)>,
    count: usize,
    label: Option<(usize, i128)>,
}

impl Invalid {
    /// Notes an invalid row.
    pub fn push(&mut self, row: usize, operand: usize, flaw: Flaw) {
        self.count += 1;
        if self.lowest.is_none_or(|(lowest, ..)| row < lowest) {
            self.lowest = Some((row, operand, flaw));
        }
    }

    /// The lowest row whose label is no class, and the label.
    pub fn label(&self) -> Option<(usize, i128)> {
        self.label
    }

    /// Notes a label out of range.
    fn push_label(&mut self, row: usize, label: i128) {
        if self.label.is_none_or(|(lowest, _)| row < lowest) {
            self.label = Some((row, label));
        }
    }

    /// Adds those of rows of which `first` come before.
    pub fn merge(&mut self, other: Invalid, first: usize) {
        if let Some((row, label)) = other.label {
            self.push_label(first + row, label);
        }
        if let Some((row, operand, flaw)) = other.lowest {
            self.push(first + row, operand, flaw);
            self.count += other.count - 1;
        }
    }

    /// The error they make.
    pub fn check(&self, job: &Job) -> Result<()> {
        if let Some((row, label)) = self.label {
            return Err(label_out_of_range(label, &job.row_name(row), job.classes));
        }
        match self.lowest {
            Some((row, operand, flaw)) => {
                let x = &job.operands[operand];
                let tolerance = Job::tolerance(x.dtype);
                Err(invalid_rows(x.name, x.given.name(), &job.row_name(row), flaw, tolerance, self.count))
            }
            None => Ok(()),
        }
    }
}
