//! The model's side of [`sync`](super): loom's atomics and cells, and the fault that a twin plants.

pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::Fault;
use core::cell::Cell;
use loom::cell::UnsafeCell;

/// A word that belongs to whoever holds its node. See the module's documentation.
#[derive(Debug)]
pub(crate) struct Slot(UnsafeCell<usize>);

impl Slot {
    pub(crate) fn new(value: usize) -> Self {
        Self(UnsafeCell::new(value))
    }

    pub(crate) fn get(&self) -> usize {
        // SAFETY: loom fails the model if another thread may write at the same time.
        self.0.with(|word| unsafe { *word })
    }

    pub(crate) fn set(&self, value: usize) {
        // SAFETY: loom fails the model if another thread may access it at the same time.
        self.0.with_mut(|word| unsafe { *word = value });
    }
}

std::thread_local! {
    // loom runs all threads of one model on one thread of the system.
    static PLANTED: Cell<Fault> = const { Cell::new(Fault::None) };
}

/// Plants a fault for the models that this thread runs from now on.
pub(crate) fn plant(fault: Fault) {
    PLANTED.set(fault);
}

/// Whether a twin has planted this fault.
pub(crate) fn planted(fault: Fault) -> bool {
    PLANTED.get() == fault
}
