//! A tally: what a thread allocates while it is measured.
//!
//! The owner alone counts. Measurements nest: each is a difference of what has been counted since the outermost began, but for
//! the peak, which an inner one counts for itself and adds to the outer's at its end.
//!
//! | state | owner |
//! |---|---|
//! | `depth` is zero | nobody measures; the rest is what the last measurement left |
//! | above | so many measurements of the owner's, one inside the other |
//!
//! Invariant: `live <= peak`, both counted from where the outermost began; frees of what was there before make them negative.

use crate::sync::Counter;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Tally {
    depth: Counter,
    allocations: Counter,
    bytes: Counter,
    resizes: Counter,
    /// Signed, as the next.
    live: Counter,
    peak: Counter,
}

/// What had been counted when a measurement began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    allocations: u64,
    bytes: u64,
    resizes: u64,
    live: i64,
    peak: i64,
}

/// What was counted since: allocations, their bytes, how many came to be larger where they were, and by how much the live bytes rose at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) allocations: u64,
    pub(crate) bytes: u64,
    pub(crate) resizes: u64,
    pub(crate) peak: u64,
}

impl Tally {
    pub(crate) const fn new() -> Self {
        Self {
            depth: Counter::new(),
            allocations: Counter::new(),
            bytes: Counter::new(),
            resizes: Counter::new(),
            live: Counter::new(),
            peak: Counter::new(),
        }
    }

    fn live(&self) -> i64 {
        self.live.get() as i64
    }

    fn peak(&self) -> i64 {
        self.peak.get() as i64
    }

    /// Whether the owner is measured.
    pub(crate) fn is_on(&self) -> bool {
        self.depth.get() > 0
    }

    /// Begins a measurement.
    pub(crate) fn begin(&self) -> Begun {
        if !self.is_on() {
            self.live.set(0);
            self.peak.set(0);
        }
        self.depth.add(1);
        let begun = Begun {
            allocations: self.allocations.get(),
            bytes: self.bytes.get(),
            resizes: self.resizes.get(),
            live: self.live(),
            peak: self.peak(),
        };
        self.peak.set(self.live.get());
        begun
    }

    /// Ends the innermost measurement, which began so.
    pub(crate) fn end(&self, begun: Begun) -> Counted {
        let counted = Counted {
            allocations: self.allocations.get().wrapping_sub(begun.allocations),
            bytes: self.bytes.get().wrapping_sub(begun.bytes),
            resizes: self.resizes.get().wrapping_sub(begun.resizes),
            peak: self.peak().wrapping_sub(begun.live).max(0) as u64,
        };
        self.peak.set(self.peak().max(begun.peak) as u64);
        self.depth.set(self.depth.get().saturating_sub(1));
        counted
    }

    /// Counts an allocation of so many bytes.
    pub(crate) fn allocated(&self, bytes: usize) {
        self.allocations.add(1);
        self.bytes.add(bytes as u64);
        self.grown(bytes);
    }

    /// Counts a free.
    pub(crate) fn freed(&self, bytes: usize) {
        self.live.set(self.live().wrapping_sub(bytes as i64) as u64);
    }

    /// Counts a resize in place, from so many bytes.
    pub(crate) fn resized(&self, from: usize, to: usize) {
        self.resizes.add(u64::from(to > from));
        self.freed(from);
        self.grown(to);
    }

    fn grown(&self, bytes: usize) {
        let live = self.live().wrapping_add(bytes as i64);
        self.live.set(live as u64);
        self.peak.set(self.peak().max(live) as u64);
    }

    /// Ends all measurements of an owner that has vanished.
    pub(crate) fn forget(&self) {
        self.depth.set(0);
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_inner_peak_is_its_own_and_part_of_the_outer() {
        let tally = Tally::new();
        let outer = tally.begin();
        tally.allocated(100);
        let inner = tally.begin();
        tally.freed(60);
        tally.allocated(30);
        tally.freed(30);
        assert_eq!(tally.end(inner), Counted { allocations: 1, bytes: 30, resizes: 0, peak: 0 });
        let inner = tally.begin();
        tally.allocated(500);
        tally.freed(500);
        assert_eq!(tally.end(inner), Counted { allocations: 1, bytes: 500, resizes: 0, peak: 500 });
        tally.allocated(5);
        assert!(tally.is_on());
        assert_eq!(tally.end(outer), Counted { allocations: 4, bytes: 635, resizes: 0, peak: 540 });
        assert!(!tally.is_on());
    }
}
