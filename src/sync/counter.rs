//! Counts that steer nothing: one thread counts, anybody reads.
//!
//! Not modelled, since no decision and no memory hangs on what is read; so the models are no larger for it.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A count that only its owner changes.
#[derive(Debug)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts `more`. Only the owner may: a plain addition in memory.
    #[inline(always)]
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// Counts `more`, from any thread.
    pub(crate) fn add_shared(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Sets the count. Only the owner may, or where a count in between does no harm.
    pub(crate) fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    /// The count. From another thread, a moment's picture.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A word that steers nothing but what is told: not modelled either.
#[derive(Debug)]
pub(crate) struct Quiet(AtomicU32);

impl Quiet {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    #[inline]
    pub(crate) fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, value: u32) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Makes it at least that, whoever else does: what it was before.
    pub(crate) fn raise(&self, least: u32) -> u32 {
        self.0.fetch_max(least, Ordering::Relaxed)
    }
}
