//! Sums over rows on a fixed tree: within a chunk in order, then chunk by chunk, each with its rounding errors kept.
//! Chunks depend on the shape alone, so the bits depend on neither threads nor timing.

/// A sum of `f64` with what rounding left, and how many were added.
#[derive(Clone, Copy, Default, Debug)]
pub struct Total {
    hi: f64,
    lo: f64,
    count: usize,
}

impl Total {
    /// Adds one value.
    #[inline]
    pub fn push(&mut self, x: f64) {
        self.merge(Total { hi: x, lo: 0.0, count: 1 });
    }

    /// Adds another total.
    #[inline]
    pub fn merge(&mut self, other: Total) {
        let h = self.hi + other.hi;
        let t = h - self.hi;
        let e = (self.hi - (h - t)) + (other.hi - t);
        self.hi = h;
        if h.is_finite() {
            self.lo += e + other.lo;
        }
        self.count += other.count;
    }

    /// The sum, rounded once.
    pub fn sum(&self) -> f64 {
        if self.hi.is_finite() { self.hi + self.lo } else { self.hi }
    }

    /// The mean; NaN of nothing.
    pub fn mean(&self) -> f64 {
        self.sum() / self.count as f64
    }
}

#[cfg(test)]
mod tests {
    use super::Total;

    #[test]
    fn keeps_what_rounding_loses() {
        let mut total = Total::default();
        for x in [1e16, 1.0, 1.0, -1e16] {
            total.push(x);
        }
        assert_eq!(total.sum(), 2.0);
        assert_eq!(total.mean(), 0.5);
        assert!(Total::default().mean().is_nan());
        assert_eq!(Total::default().sum(), 0.0);
    }
}
