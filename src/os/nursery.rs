//! The nursery: static memory for the first small tables, so that they share OS pages and need no call of the system.
//!
//! A program that allocates a little needs a few nodes of each kind. With a mapping for each table it would pay a call of the
//! system and a page for each.
//!
//! | state of a byte | owner |
//! |---|---|
//! | at `used` or above | nobody; reads as zero |
//! | below it | whoever was given it, for ever |
//!
//! Invariant: `used <= ROOM`; what was given out is disjoint. Nothing comes back: what a heap that ends had, or the loser of
//! a race, is lost, and zero again.

use crate::sync::{AtomicU64, AtomicUsize, Ordering};

/// Bytes.
const ROOM: usize = 32 << 10;
/// The longest table that is put here.
pub(crate) const LONGEST: usize = 8 << 10;
/// Two lines of the processor's caches, as tables have them that are written by different threads.
const ALIGN: usize = 128;

/// See the module's documentation. Of the bytes nothing but their address is used here.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Nursery {
    bytes: [AtomicU64; ROOM / size_of::<AtomicU64>()],
    used: AtomicUsize,
}

impl Nursery {
    pub(crate) const fn new() -> Self {
        Self { bytes: [const { AtomicU64::new(0) }; ROOM / size_of::<AtomicU64>()], used: AtomicUsize::new(0) }
    }

    /// Takes bytes that read as zero, aligned to 128. `None`: they are too many, or there is no room. O(1).
    pub(crate) fn take(&self, len: usize) -> Option<usize> {
        if len > LONGEST {
            return None;
        }
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let end = used + len.next_multiple_of(ALIGN);
            if end > ROOM {
                return None;
            }
            // Relaxed: the bytes are what they were when the program was loaded.
            match self.used.compare_exchange_weak(used, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(self.bytes.as_ptr().expose_provenance() + used),
                Err(now) => used = now,
            }
        }
    }

    /// Whether an address is from here.
    pub(crate) fn has(&self, at: usize) -> bool {
        let start = self.bytes.as_ptr().addr();
        (start..start + ROOM).contains(&at)
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_disjoint_and_come_to_an_end() {
        static NURSERY: Nursery = Nursery::new();
        assert_eq!(NURSERY.take(LONGEST + 1), None);
        let tables: std::vec::Vec<usize> = core::iter::from_fn(|| NURSERY.take(1000)).collect();
        assert_eq!(tables.len(), ROOM / 1024);
        assert!(tables.iter().all(|at| at % ALIGN == 0 && NURSERY.has(*at)));
        assert!(tables.windows(2).all(|pair| pair[0] + 1000 <= pair[1]));
        assert!(!NURSERY.has(tables[0] + ROOM) && !NURSERY.has(tables[0] - 1));
    }

    #[test]
    fn two_take_two_tables() {
        for step in 0.. {
            let nursery = Nursery::new();
            let (mut theirs, mut mine) = (None, None);
            let mut other = || theirs = nursery.take(100);
            let steps = crate::sync::stepped::interrupted(step, &mut other, || mine = nursery.take(100));
            if step >= steps {
                assert!(step > 1, "{step} steps");
                break;
            }
            let (theirs, mine) = (theirs.expect("room"), mine.expect("room"));
            assert_eq!(theirs.abs_diff(mine), ALIGN, "at step {step}");
        }
    }
}
