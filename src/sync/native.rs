//! The shipped side of [`sync`](super): `core`'s atomics, and cells that are relaxed atomics.

#[cfg(test)]
pub(crate) use super::stepped::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(not(test))]
pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

pub(crate) use core::sync::atomic::fence;

use super::Fault;

/// A word that belongs to whoever holds its node. See the module's documentation.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct Slot(AtomicUsize);

impl Slot {
    pub(crate) const fn new(value: usize) -> Self {
        Self(AtomicUsize::new(value))
    }

    /// Relaxed: the hand-over of the node orders it.
    #[inline(always)]
    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Relaxed: the hand-over of the node orders it.
    #[inline(always)]
    pub(crate) fn set(&self, value: usize) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it may hold, for statistics: anybody may, at any time.
    #[inline(always)]
    pub(crate) fn peek(&self) -> usize {
        self.get()
    }
}

/// Whether a twin has planted this fault: never, in the shipped code.
#[inline(always)]
pub(crate) const fn planted(_: Fault) -> bool {
    false
}
