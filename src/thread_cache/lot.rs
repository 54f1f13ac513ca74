//! A lot: the IDs that one thread will give to its next allocations, taken a block at a time.
//!
//! Only the cache's owner touches it; a thread that is given the cache of another goes on with the lot. Whoever vanishes
//! leaves it so that no ID is given twice: one is counted before its allocation is told of it.
//!
//! Invariant: where there is a block, `next` is one of its IDs.

use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::tagged::{Index, NONE};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Lot {
    next: AtomicU64,
    block: AtomicU32,
}

impl Lot {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self { next: AtomicU64::new(0), block: AtomicU32::new(NONE) }
        }
    }

    /// The next ID, and the block in which it is; `NONE` without one. Relaxed, as all here: one thread's.
    #[inline]
    pub(crate) fn peek(&self) -> (u64, Index) {
        (self.next.load(Ordering::Relaxed), self.block.load(Ordering::Relaxed))
    }

    /// Goes on to the ID after `id`.
    #[inline]
    pub(crate) fn pass(&self, id: u64) {
        self.next.store(id + 1, Ordering::Relaxed);
    }

    /// Begins a block with its first ID.
    pub(crate) fn open(&self, id: u64, block: Index) {
        self.next.store(id, Ordering::Relaxed);
        self.block.store(block, Ordering::Relaxed);
    }

    /// Forgets the block.
    pub(crate) fn close(&self) {
        self.block.store(NONE, Ordering::Relaxed);
    }
}
