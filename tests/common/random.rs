//! A random generator that allocates nothing, for threads, signal handlers and forked children.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Copy)]
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `0..bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.word()) * bound as u128) >> 64) as usize
    }

    /// In `low..=high`, each doubling equally likely.
    pub fn size(&mut self, low: usize, high: usize) -> usize {
        let doublings = (high / low).ilog2() as usize + 1;
        let from = low << self.below(doublings);
        let to = (from * 2 - 1).min(high);
        from + self.below(to - from + 1)
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
