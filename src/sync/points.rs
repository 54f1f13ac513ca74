//! Named points in the middle of the slow paths: where a thread stands when it has something in hand.
//!
//! Shipped, they are nothing. Under `--cfg millpond_points` each calls what `watch` was given, so that a test can stop
//! threads there, or have them vanish in a `fork`. (The unit tests stop a thread before any of its steps: `stepped`.)

/// Where a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(millpond_points), allow(dead_code))]
#[repr(u8)]
pub enum Point {
    /// Chunks are taken from a span's count, and their bits not yet.
    Carve,
    /// Chunks' bits are set, and not yet counted.
    Restore,
    /// A span is held in place by a sweep.
    Sweep,
    /// Pages are claimed, and may be just a part of a run.
    Claim,
    /// Pages are claimed or a span is held, and the system is about to be asked to take the memory.
    Purge,
    /// A node is about to be put on a stack or taken from it: the head has been read.
    Exchange,
    /// A full magazine from the pool is in hand.
    Hand,
    /// A table or an arena is built, and not yet published.
    FirstUse,
}

/// Nothing is there, as shipped.
#[cfg(not(millpond_points))]
#[inline(always)]
pub(crate) const fn point(_: Point) {}

#[cfg(millpond_points)]
mod watched {
    use super::Point;
    use core::sync::atomic::{AtomicPtr, Ordering};

    static WATCHER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

    impl Point {
        /// All of them.
        pub const ALL: [Self; 8] = [
            Self::Carve,
            Self::Restore,
            Self::Sweep,
            Self::Claim,
            Self::Purge,
            Self::Exchange,
            Self::Hand,
            Self::FirstUse,
        ];
    }

    /// Has `watcher` called by each thread at each point. It must not allocate.
    pub fn watch(watcher: fn(Point)) {
        // ORDERING: Release pairs with the Acquire below.
        WATCHER.store(watcher as *mut (), Ordering::Release);
    }

    /// Calls the watcher, if there is one.
    pub(crate) fn point(at: Point) {
        // ORDERING: Acquire pairs with the Release above.
        let watcher = WATCHER.load(Ordering::Acquire);
        if !watcher.is_null() {
            // SAFETY: `watch` stores nothing but functions of this type.
            let watcher = unsafe { core::mem::transmute::<*mut (), fn(Point)>(watcher) };
            watcher(at);
        }
    }
}

#[cfg(millpond_points)]
pub(crate) use watched::point;
#[cfg(millpond_points)]
pub use watched::watch;
