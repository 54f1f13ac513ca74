//! Threads that are measured: what they allocate from the global heap meanwhile.
//!
//! A thread that is measured takes its *front*, as where calls are watched, so that each of its calls comes to the doors, where
//! it is counted; it alone, and others go on as before. At the end of its outermost measurement it takes its own cache again.
//! While nobody is measured nothing is counted, and the fast path never knows.
//!
//! Bytes are those of chunks and pages as they were served, which a free finds by the address.

use super::watch::{self, MEASURED};
use super::{HEAP, cache, front_of, living_cache, mode_word};
use crate::config::PAGE;
use crate::slot;
use crate::sync::Ordering;
use crate::thread_cache::{Begun, Counted, Tally, ThreadCache};
use core::marker::PhantomData;
use core::ptr;

/// A measurement of the calling thread, until its end or its drop, in whichever way the measured code is left.
pub(crate) struct Measuring {
    begun: Option<(&'static ThreadCache, Begun)>,
    /// The thread's own.
    thread: PhantomData<*const ()>,
}

impl Measuring {
    /// Begins one. A thread that can have no cache, or no front, counts nothing.
    pub(crate) fn begin() -> Self {
        let begun = cache().and_then(|own| {
            mode_word().fetch_or(MEASURED, Ordering::Relaxed);
            let begun = own.tally.begin();
            if face_right(own) {
                return Some((own, begun));
            }
            own.tally.end(begun);
            None
        });
        Self { begun, thread: PhantomData }
    }

    /// Ends it.
    pub(crate) fn end(mut self) -> Counted {
        self.stop().unwrap_or(Counted { allocations: 0, bytes: 0, resizes: 0, peak: 0 })
    }

    fn stop(&mut self) -> Option<Counted> {
        let (own, begun) = self.begun.take()?;
        let counted = own.tally.end(begun);
        face_right(own);
        Some(counted)
    }
}

impl Drop for Measuring {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Has the thread's slot point to what it is to point to by now. False: there is no memory for it.
fn face_right(own: &'static ThreadCache) -> bool {
    front_of(own).is_some_and(|right| ptr::eq(slot::get(), right) || slot::set(right))
}

/// The calling thread's tally, if it is measured.
fn tally() -> Option<&'static Tally> {
    living_cache().map(|own| &own.tally).filter(|tally| tally.is_on())
}

/// The bytes of what is allocated at an address; zero if nothing is, which is for others to say.
fn served(address: usize) -> usize {
    // Where an allocation is guarded, it ends at the end of its page.
    HEAP.usable_size(address).or_else(|| HEAP.usable_size(address / PAGE * PAGE)).unwrap_or(0)
}

#[cold]
#[unsafe(link_section = ".millpond_cold")]
pub(super) fn allocated(address: usize) {
    if let Some(tally) = tally().filter(|_| address != 0) {
        tally.allocated(served(address));
    }
}

#[cold]
#[unsafe(link_section = ".millpond_cold")]
pub(super) fn freed(address: usize) {
    if let Some(tally) = tally() {
        tally.freed(served(address));
    }
}

/// The bytes of what is about to be resized, if that is to be counted.
#[unsafe(link_section = ".millpond_cold")]
pub(super) fn before(address: usize) -> usize {
    if watch::is(MEASURED) { served(address) } else { 0 }
}

/// It has been.
#[unsafe(link_section = ".millpond_cold")]
pub(super) fn resized(before: usize, address: usize) {
    if watch::is(MEASURED) {
        if let Some(tally) = tally() {
            tally.resized(before, served(address));
        }
    }
}
