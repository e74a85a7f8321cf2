//! Rows in cache, between a step that writes them and one that reads them.

use super::{Dtype, Input, Lead, Map, Rows, SHORT, Target};
use crate::math::Math;

/// Bytes of a line of the cache, on which rows begin: a vector that straddles two takes twice as long.
const LINE: usize = 64;

/// Room for the rows of a batch as elements: short rows, and those that come so, class by class, as the driver across rows
/// reads them without a transpose, the others one after the other.
pub struct Cached<E> {
    room: Vec<E>,
    first: usize,
    classes: usize,
    /// Bytes from class to class, and from row to row.
    strides: [isize; 2],
}

impl<E: Math> Cached<E> {
    /// Room for so many rows like these.
    pub fn new<const I: usize>(n: usize, like: &Rows<'_, E, I>) -> Self {
        let (size, line, classes) = (size_of::<E>(), LINE / size_of::<E>(), like.classes);
        let (class, row, len) = if classes <= SHORT || like.are_columns() {
            // An odd number of lines, lest the classes of a row share a set of the cache.
            let class = (n.next_multiple_of(line) / line | 1) * line;
            (class, 1, class * classes)
        } else {
            let row = classes.next_multiple_of(line);
            (1, row, n * row)
        };
        let room = Vec::<E>::with_capacity(len + line);
        let first = room.as_ptr().align_offset(LINE).min(line);
        Cached { room, first, classes, strides: [class * size, row * size].map(|x| x as isize) }
    }

    /// The room as a place to write a batch to.
    pub fn target(&mut self) -> Target<'_> {
        let [class_stride, row] = self.strides;
        let data = self.room.as_mut_ptr().wrapping_add(self.first).cast();
        Target { data, dtype: Dtype::of::<E>(), class_stride, lead: &[], packed: Some(row) }
    }

    /// What has been written as the rows of the same batch.
    ///
    /// # Safety
    /// All classes of these rows must have been written.
    pub unsafe fn rows<'a>(&'a self, lead: Lead<'a>) -> Rows<'a, E, 1> {
        let [class_stride, row] = self.strides;
        let input = Input {
            data: self.room.as_ptr().wrapping_add(self.first).cast(),
            dtype: Dtype::of::<E>(),
            swapped: false,
            class_stride,
            lead: &[],
            packed: Some(row),
            mask: None,
            map: Map::Keep,
        };
        // SAFETY: the room holds every class of a batch, and lives as long as the value.
        unsafe { Rows::new([input], lead, self.classes) }
    }
}
