//! Sizes as programs have them: many small, few large.

use fastrand::Rng;

/// A size from `min` up to `max`, both powers of two: each doubling as likely as the one before.
pub fn skewed(rng: &mut Rng, min: usize, max: usize) -> usize {
    let base = min << rng.u32(..max.ilog2() - min.ilog2());
    base + rng.usize(..base)
}

/// The sum of the tags `0..count`.
pub fn sum_below(count: u64) -> u64 {
    (u128::from(count) * u128::from(count.saturating_sub(1)) / 2) as u64
}

/// Adds up sums of tags.
pub fn total(sums: impl IntoIterator<Item = u64>) -> u64 {
    sums.into_iter().fold(0, u64::wrapping_add)
}
