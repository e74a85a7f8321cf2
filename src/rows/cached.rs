//! Rows in cache, between a step that writes them and one that reads them.

use super::{Dtype, Emit, Input, Lead, Map, Rows, SHORT, Target, emit_rows};
use crate::math::Math;
use crate::simd::{Level, Simd, V};

/// Bytes of a line of the cache, on which rows begin: a vector that straddles two takes twice as long.
const LINE: usize = 64;

/// The element itself.
#[derive(Clone, Copy)]
pub struct Same;

impl<E: Math> Emit<E, 1, 0> for Same {
    #[inline(always)]
    fn emit<S: Simd>(self, _: S, _: &[V<S, E>; 0], [x]: [V<S, E>; 1]) -> V<S, E> {
        x
    }
}

/// Room for the rows of a batch as elements: short rows, and tiles of those that come so, class by class, as the driver across rows
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
    pub fn like<const I: usize>(n: usize, rows: &Rows<'_, E, I>) -> Self {
        Self::new(n, rows.classes, rows.classes <= SHORT || (n >= E::LANES && rows.are_columns()))
    }

    /// The given rows as elements.
    pub fn of(level: Level, rows: &Rows<'_, E, 1>, which: &[usize]) -> Self {
        let mut room = Self::like(which.len(), rows);
        // SAFETY: there is room for these rows, in memory that nothing else refers to.
        unsafe { emit_rows::<E, _, 1, 0>(level, Same, rows, which, &[], &room.target()) };
        room
    }

    /// Room for so many rows, class by class or one after the other.
    fn new(n: usize, classes: usize, across: bool) -> Self {
        let (size, line) = (size_of::<E>(), LINE / size_of::<E>());
        let (class, row, len) = if across {
            // An odd number of lines, lest the classes of a row share a set of the cache.
            let class = (n.div_ceil(line) | 1) * line;
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
