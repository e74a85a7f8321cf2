//! How often each group of rows has each value: a table of counts from one reading of two columns of integers. Strings
//! become integers first.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;

use foldhash::fast::RandomState;

use crate::error::{Error, Result, copies};
use crate::parallel;

/// Rows that are numbered at a time: two stages of 8 kB stay in the first level of cache.
const STAGE: usize = 1024;

/// About how long counting a row takes, in nanoseconds: two conversions and one addition in a table in cache.
const ROW: f64 = 1.5;

/// What a table is called where there is no memory for it.
const TABLE: &str = "a table of counts";

/// A column of integers, read as numbers from 0.
pub trait Column: Sync {
    /// How many rows there are.
    fn rows(&self) -> usize;

    /// Writes the numbers of the rows `start..start + numbers.len()`.
    fn number(&self, start: usize, numbers: &mut [u64]);
}

/// Integers of one type; the number of one is its distance from `low`.
pub struct Integers<'a, T> {
    /// The column.
    pub values: &'a [T],
    /// The integer whose number is 0.
    pub low: i64,
}

/// Types of integers that can be numbered.
pub trait Integer: Copy + Sync {
    /// The integer modulo 2⁶⁴.
    fn bits(self) -> u64;
}

macro_rules! integer {
    ($($type:ty),+) => {
        $(impl Integer for $type {
            #[inline(always)]
            fn bits(self) -> u64 {
                self as i64 as u64
            }
        })+
    };
}

integer!(bool, i8, i16, i32, i64, u8, u16, u32, u64);

impl<T: Integer> Column for Integers<'_, T> {
    fn rows(&self) -> usize {
        self.values.len()
    }

    fn number(&self, start: usize, numbers: &mut [u64]) {
        for (number, value) in numbers.iter_mut().zip(&self.values[start..]) {
            *number = value.bits().wrapping_sub(self.low as u64);
        }
    }
}

/// Numbers things as they come: equal ones get the same number, a new one the next.
#[derive(Default)]
pub struct Numbering<'a> {
    numbers: HashMap<&'a [u8], i64, RandomState>,
    /// The row in which each first came.
    pub firsts: Vec<i64>,
    /// The number of each row; -1 for nothing.
    pub codes: Vec<i64>,
}

impl<'a> Numbering<'a> {
    /// Adds a row.
    #[inline]
    pub fn push(&mut self, thing: Option<&'a [u8]>) {
        let row = self.codes.len() as i64;
        let code = thing.map_or(-1, |thing| {
            *self.numbers.entry(thing).or_insert_with(|| {
                self.firsts.push(row);
                self.firsts.len() as i64 - 1
            })
        });
        self.codes.push(code);
    }
}

/// The number of rows of each of `groups` groups with each of `values` values: a table in order of group, then value.
pub fn count(group: &dyn Column, groups: usize, value: &dyn Column, values: usize, threads: usize) -> Result<Vec<i64>> {
    let rows = group.rows();
    if value.rows() != rows {
        return Err(Error::Value(format!("groups has {rows} rows and values has {}", value.rows())));
    }
    let cells = groups.checked_mul(values).filter(|n| *n <= isize::MAX as usize / 8);
    let Some(cells) = cells else {
        return Err(Error::Memory(format!("no memory for a table of {groups} groups by {values} values")));
    };
    // Every thread fills a table of its own; adding one up must be little beside filling it.
    let useful = if rows as f64 * ROW > parallel::WORTH_THREADS { rows / (4 * cells.max(1)) + 1 } else { 1 };
    let threads = threads.min(useful).max(1);
    let total = Mutex::new(Ok(copies(0_i64, cells, TABLE)?));
    parallel::chunks(rows, rows.div_ceil(threads).max(1), threads, |_, range| {
        let counted = count_range(group, groups, value, values, range);
        let mut total = total.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match (&mut *total, counted) {
            (Ok(total), Ok(part)) => total.iter_mut().zip(part).for_each(|(a, b)| *a += b),
            (Ok(_), Err(error)) => *total = Err(error),
            (Err(_), _) => {}
        }
    });
    total.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn count_range(
    group: &dyn Column,
    groups: usize,
    value: &dyn Column,
    values: usize,
    range: Range<usize>,
) -> Result<Vec<i64>> {
    let mut table = copies(0_i64, groups * values, TABLE)?;
    let (mut of_group, mut of_value) = ([0; STAGE], [0; STAGE]);
    for start in range.clone().step_by(STAGE) {
        let length = STAGE.min(range.end - start);
        let (of_group, of_value) = (&mut of_group[..length], &mut of_value[..length]);
        group.number(start, of_group);
        value.number(start, of_value);
        for (i, (g, v)) in of_group.iter().zip(of_value.iter()).enumerate() {
            if *g >= groups as u64 || *v >= values as u64 {
                let (what, number, most) =
                    if *g >= groups as u64 { ("group", g, groups) } else { ("value", v, values) };
                return Err(Error::Value(format!(
                    "{what} {} of row {} is out of range for {most}",
                    *number as i64,
                    start + i
                )));
            }
            table[*g as usize * values + *v as usize] += 1;
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_every_row() {
        let groups: Vec<i16> = (0..200_000).map(|i| (i % 7) as i16 - 3).collect();
        let values: Vec<u64> = (0..200_000_u64).map(|i| u64::MAX - i % 5).collect();
        for threads in [1, 3] {
            let group = Integers { values: &groups, low: -3 };
            let value = Integers { values: &values, low: (u64::MAX - 4) as i64 };
            let table = count(&group, 7, &value, 5, threads).unwrap();
            for g in 0..7 {
                for v in 0..5 {
                    let expected = (0..200_000).filter(|i| i % 7 == g && 4 - i % 5 == v).count();
                    assert_eq!(table[g * 5 + v], expected as i64);
                }
            }
        }
    }

    #[test]
    fn numbers_things_as_they_come() {
        let mut numbering = Numbering::default();
        for thing in [Some("b"), None, Some("a"), Some("b"), Some("")] {
            numbering.push(thing.map(str::as_bytes));
        }
        assert_eq!((numbering.codes, numbering.firsts), (vec![0, -1, 1, 0, 2], vec![0, 2, 4]));
    }

    #[test]
    fn refuses_what_has_no_cell() {
        let (groups, values) = ([0_i32, 1], [0_u8, 2]);
        let group = Integers { values: &groups, low: 0 };
        let value = Integers { values: &values, low: 0 };
        let message = |result: Result<Vec<i64>>| format!("{:?}", result.unwrap_err());
        assert!(message(count(&group, 2, &value, 2, 1)).contains("value 2 of row 1 is out of range for 2"));
        assert!(message(count(&group, 1, &value, 3, 1)).contains("group 1 of row 1 is out of range for 1"));
        let short = Integers { values: &values[..1], low: 0 };
        assert!(message(count(&group, 2, &short, 3, 1)).contains("groups has 2 rows and values has 1"));
        assert!(matches!(count(&group, usize::MAX, &value, 2, 1), Err(Error::Memory(_))));
        assert_eq!(
            count(&Integers { values: &groups[..0], low: 0 }, 0, &Integers { values: &values[..0], low: 0 }, 3, 2),
            Ok(vec![])
        );
    }
}
