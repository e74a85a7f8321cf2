//! Rows that the kernel has no exact result for, and how they are passed once more.

use crate::math::Math;
use crate::rows::Map;

/// How rows are passed once more.
pub struct Rescue<'a> {
    /// The result of a row, in nats.
    pub one: &'a (dyn Fn(usize) -> f64 + Sync),
    /// Beyond which rows need it although they have a result.
    pub reach: Option<Reach>,
}

/// The log-sum-exps up to which two rows of logarithms are exact enough for one pass.
#[derive(Clone, Copy)]
pub struct Reach {
    /// From each other, in units of the temperature.
    apart: f64,
    /// Of each row, from its origin.
    from: [f64; 2],
}

impl Reach {
    /// That of elements `E`, if there is one. Head and tail of the gap that a `difference` of two rows takes, `f32` each,
    /// hold 2^24 to 2^−24, `f64` more. A class less a far origin is rounded: to 2^−33 at 2^20.
    pub fn new<E: Math>(difference: bool, map: [Map; 2]) -> Option<Self> {
        let divided = map.map(|map| matches!(map, Map::Divide(_)));
        let digits = if E::LANES == 16 { 24 } else { 52 };
        (difference || divided != [false; 2]).then(|| Reach {
            apart: if difference { 2f64.powi(digits) } else { f64::INFINITY },
            from: divided.map(|divided| if divided { 2f64.powi(20) } else { f64::INFINITY }),
        })
    }

    /// Whether rows with these log-sum-exps are beyond it.
    pub(super) fn exceeded(&self, [p, q]: [f64; 2]) -> bool {
        let inside = ((p - q).abs() <= self.apart) & (p.abs() <= self.from[0]) & (q.abs() <= self.from[1]);
        !inside
    }
}
