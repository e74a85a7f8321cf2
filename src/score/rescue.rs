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
    /// Times the square of their distance, what a divergence must be above.
    share: f64,
}

/// Divergences below this are bounded by a share of 1e-29, which rows not too far apart keep: so those of cold rows, nothing at
/// all more often than not, are not looked at twice.
const LEAST: f64 = 3e-30;
/// The least divergence of rows 2^15 apart: what is less may be all that rounding has left of more than 1e-29.
const FAR: f64 = 1.0 / (1u128 << 70) as f64;

impl Reach {
    /// That of elements `E` for a call, if it has one: whether it is the `difference` of rows of logarithms, and how those come.
    pub fn new<E: Math>(difference: bool, map: [Map; 2]) -> Option<Self> {
        let between = Self::between::<E>(map);
        let divided = map.iter().any(|map| matches!(map, Map::Divide(_)));
        if difference {
            return Some(between);
        }
        divided.then_some(Reach { apart: f64::INFINITY, share: 0.0, ..between })
    }

    /// That of two rows of logarithms that are taken from each other. Head and tail of their gap, `f32` each, hold 2^22 to 2^−26,
    /// `f64` more; what is left of it moves a divergence by up to 2e-37 of its square (two classes 72 apart, rows 5e6: a third of
    /// 4e-25). A class less a far origin is rounded: to 2^−33 at 2^20.
    pub fn between<E: Math>(map: [Map; 2]) -> Self {
        let single = E::LANES == 16;
        Reach {
            apart: 2f64.powi(if single { 22 } else { 52 }),
            from: map.map(|map| if matches!(map, Map::Divide(_)) { 2f64.powi(20) } else { f64::INFINITY }),
            share: if single { 2f64.powi(-100) } else { 0.0 },
        }
    }

    /// Whether rows with these log-sum-exps, and this divergence, are beyond it.
    pub fn exceeded(&self, [p, q]: [f64; 2], value: f64) -> bool {
        let least = (p - q) * (p - q) * self.share;
        let tiny = (value < least) & ((value > LEAST) | (least > FAR));
        let inside = !tiny & ((p - q).abs() <= self.apart) & (p.abs() <= self.from[0]) & (q.abs() <= self.from[1]);
        !inside
    }
}
