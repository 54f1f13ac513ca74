//! What becomes of freed memory where records are kept: what is written over it, and how much of it is kept back.
//!
//! What is kept back is the program's no more and the heap's not yet; the oldest of a queue goes first, when that queue of
//! recent frees is full; of the longest queue, when the bytes are too many.
//!
//! Invariant, at rest: `held` is the bytes that are kept back under a limit, and at most that limit.

use crate::config::KEPT_MAX;
use crate::report::{Freed, Mode};
use crate::sync::{AtomicU32, AtomicUsize, Ordering};

/// What freed memory is overwritten with, unless it is to be something else.
pub(crate) const JUNK: u8 = 0xdf;

/// See the module's documentation. Zeros: as the mode has it.
#[derive(Debug)]
pub(crate) struct Quarantine {
    /// One more than the most bytes; zero: what the queue of recent frees holds, in the mode `hardened`.
    limit: AtomicUsize,
    held: AtomicUsize,
    /// One more than the number of a [`Freed`]; zero: as the mode has it.
    freed: AtomicU32,
}

impl Quarantine {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self { limit: AtomicUsize::new(0), held: AtomicUsize::new(0), freed: AtomicU32::new(0) }
        }
    }

    /// Sets what was wished, before anything has been freed.
    pub(crate) fn set(&self, bytes: Option<usize>, freed: Option<Freed>) {
        // Relaxed, as all here: numbers that publish nothing.
        self.limit.store(bytes.map_or(0, |bytes| bytes.saturating_add(1)), Ordering::Relaxed);
        self.freed.store(freed.map_or(0, |freed| freed as u32 + 1), Ordering::Relaxed);
    }

    /// Whether nothing was wished.
    #[inline]
    pub(crate) fn is_default(&self) -> bool {
        self.limit.load(Ordering::Relaxed) == 0 && self.freed.load(Ordering::Relaxed) == 0
    }

    /// Whether a freed allocation of so many bytes is kept back: always the same.
    pub(crate) fn keeps(&self, mode: Mode, size: usize) -> bool {
        match self.limit.load(Ordering::Relaxed) {
            0 => mode == Mode::Hardened && size <= KEPT_MAX,
            1 => false,
            limit => size < limit,
        }
    }

    /// What one is overwritten with, if it is: always the same.
    pub(crate) fn fill(&self, mode: Mode, size: usize) -> Option<u8> {
        match self.freed.load(Ordering::Relaxed) {
            0 => (mode == Mode::Hardened && self.keeps(mode, size)).then_some(JUNK),
            freed if freed == Freed::Junk as u32 + 1 => Some(JUNK),
            freed if freed == Freed::Zero as u32 + 1 => Some(0),
            _ => None,
        }
    }

    /// Counts what is kept back from now on.
    pub(crate) fn take(&self, size: usize) {
        if self.limit.load(Ordering::Relaxed) != 0 {
            self.held.fetch_add(size, Ordering::Relaxed);
        }
    }

    /// And what is no more.
    pub(crate) fn less(&self, size: usize) {
        if self.limit.load(Ordering::Relaxed) != 0 {
            self.held.fetch_sub(size, Ordering::Relaxed);
        }
    }

    /// Whether more is kept back than may be.
    pub(crate) fn is_over(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        limit != 0 && self.held.load(Ordering::Relaxed) >= limit
    }
}
