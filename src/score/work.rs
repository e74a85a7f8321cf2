//! How much work rows are, and how threads share it.

use super::Job;
use crate::parallel;
use crate::rows::{BATCH, GROUP, SHORT};

/// What a row takes on one thread, to decide about threads and chunks: the slowest kernels take about 1 ns an element.
pub fn nanoseconds_a_row(classes: usize, inputs: usize) -> f64 {
    10.0 + 0.5 * (classes * inputs) as f64
}

/// Rows that are handed to a thread together: a batch of short rows, of longer ones a tile of columns, and single rows where
/// one is much work. With whole batches 200 rows of 128 256 classes made two chunks, one nearly twice the other.
pub fn grain(classes: usize, nanoseconds: f64) -> usize {
    match nanoseconds {
        _ if classes <= SHORT => BATCH,
        ..20_000.0 => 16,
        _ => 1,
    }
}

impl Job {
    /// About how many nanoseconds all rows take on one thread.
    pub fn work(&self) -> f64 {
        nanoseconds_a_row(self.classes, self.operands.len()) * self.len() as f64
    }

    /// Rows that are added up one after the other before chunks are.
    pub(super) fn chunk(&self) -> usize {
        let work = nanoseconds_a_row(self.classes, self.operands.len());
        parallel::chunk_rows(work, grain(self.classes, work))
    }

    /// Threads that rows of so much work each are spread over, and those that each row is: a few vast rows are split.
    pub fn spread(&self, nanoseconds: f64) -> [usize; 2] {
        if nanoseconds * self.len() as f64 <= parallel::WORTH_THREADS {
            [1, 1]
        } else if self.len() < 8 * self.threads && self.len() < self.classes.div_ceil(GROUP) {
            [1, self.threads]
        } else {
            [self.threads, 1]
        }
    }
}
