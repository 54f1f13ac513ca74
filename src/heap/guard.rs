//! What the processor itself notices: allocations with a page behind them that nobody may touch, and freed ones whose
//! addresses are left without access for a while.
//!
//! *Guarded* allocations are sampled, one in so many. Each has a page of the arena to itself: it ends where an OS page
//! without access begins, as near as its alignment allows, and before the OS page in which it begins there is none that may be
//! touched either. So a write or read past the end faults at once, and not only a write when the allocation is freed. (GWP-ASan
//! and its forerunner, Electric Fence, do so.) What is left of these OS pages has a canary on either side, which is looked at
//! when the allocation is freed. *Large* allocations have no such pages, since behind them lies the canary; but what is
//! freed of either kind keeps its addresses, and any use of it faults, until some more have been freed.
//!
//! A fault is the program's: it gets the signal that it would have got for any wild access.
//!
//! What has no access does not count as private memory. Where that is limited (`ulimit -d`), others may have all that is left when
//! something is to have access again: so what is kept back stays so until it can have it, nothing is kept beside it meanwhile, and
//! nothing is guarded.
//!
//! Invariant: the pages of what is kept back are without access; all other pages of the heap, but those beside guarded
//! allocations, have it.

use super::Tracked;
use super::edges::canary;
use crate::arena::Fill;
use crate::config::{CANARY, GUARDED_MAX, KEPT_MEMORY, PAGE};
use crate::modes::{Ended, Place};
use crate::os;
use crate::size_class;
use core::ptr::{NonNull, with_exposed_provenance_mut};

/// The start of the pages in which an allocation lies that has pages of its own.
fn run_of(address: usize) -> usize {
    address / PAGE * PAGE
}

/// Where the pages without access behind a guarded allocation begin.
fn end_of(address: usize) -> usize {
    run_of(address) + PAGE - os::page_size()
}

/// How many bytes of canary are behind a guarded allocation.
pub(super) fn behind_guarded(address: usize, size: usize) -> usize {
    CANARY.min(end_of(address).saturating_sub(address + size))
}

/// How many bytes of canary are before a guarded allocation, on the OS page on which it begins.
pub(super) fn before_guarded(address: usize) -> usize {
    CANARY.min(address % os::page_size())
}

/// Where that canary would begin if there were all of it, which is what it is made of.
pub(super) fn canary_before(address: usize) -> usize {
    address.wrapping_sub(CANARY)
}

impl Tracked<'_> {
    /// A guarded allocation. `None`: it is to be an ordinary one.
    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn alloc_guarded(&self, size: usize, align: usize, fill: Fill) -> Option<NonNull<u8>> {
        let page = os::page_size();
        if size > GUARDED_MAX || align > page || size + 2 * page > PAGE || os::is_access_limited() {
            return None;
        }
        if !self.tracker.guard_begins() {
            return None;
        }
        let Some(run) = self.heap.alloc_large(self.index(), PAGE, PAGE, fill) else {
            self.tracker.guard_ends();
            return None;
        };
        let run = run.as_ptr().expose_provenance();
        let end = end_of(run);
        let address = (end - size.max(1)) & !(size_class::alignment(size, align) - 1);
        let data = address / page * page;
        let sealed = os::protect(run, data - run, false) && os::protect(end, PAGE - (end - run), false);
        let at = with_exposed_provenance_mut::<u8>(address);
        if sealed {
            let (before, behind) = (before_guarded(address), behind_guarded(address, size));
            let edge = canary(canary_before(address), 0);
            // Before it has its record: whoever looks at all that have one may come at any time.
            // SAFETY: bytes of the allocation's own pages, behind it and before it.
            unsafe {
                at.add(size).copy_from_nonoverlapping(canary(address, size).as_ptr().cast(), behind);
                at.sub(before).copy_from_nonoverlapping(edge.as_ptr().cast::<u8>().add(CANARY - before), before);
            }
        }
        if !sealed || self.begin(Place { address, word: 0 }, size, align).is_none() {
            self.release_run(run);
            self.tracker.guard_ends();
            return None;
        }
        NonNull::new(at)
    }

    /// Whether an allocation that has ended was guarded: only such ones have pages to themselves and do not begin with them.
    pub(super) fn is_guarded(&self, address: usize) -> bool {
        address % PAGE != 0 && self.heap.spans.page_map.noted(address) == 0
    }

    /// Takes a guarded allocation back.
    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn keep_guarded(&self, ended: &Ended) {
        let Ended { address, size, .. } = *ended;
        let behind = behind_guarded(address, size);
        // First: a witness may panic, and what it is told of then stays out of use, but is guarded no more.
        self.tracker.guard_ends();
        if (0..behind).any(|past| self.is_broken(address, size, past)) {
            self.accuse_of_canary(ended, behind);
        }
        let mut before = (1..=before_guarded(address)).rev();
        if let Some(bytes) = before.find(|bytes| self.is_broken(canary_before(address), 0, CANARY - bytes)) {
            self.accuse_before(address, bytes, None);
        }
        self.keep_run(ended);
    }

    /// Takes the addresses of a freed allocation with pages of its own out of use for a while.
    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn keep_run(&self, ended: &Ended) {
        let run = run_of(ended.address);
        let bytes = match self.heap.spans.page_map.noted(run) {
            0 => self.heap.usable_size(run).unwrap_or(0),
            _ => 0,
        };
        if bytes == 0 {
            // A chunk of a large class.
            return self.give_run(run, ended.address);
        }
        // Those go first that are due: where they are not to be had, this one would not be either.
        let goes = |due: Option<usize>| due.is_none_or(|old| self.release_run(old));
        let has_room = goes(self.tracker.forget_stuck_run()) && goes(self.tracker.forget_next_run());
        if !has_room || !os::protect(run, bytes, false) {
            // Or the system has too many mappings already.
            self.release_run(ended.address);
            return;
        }
        if bytes >= KEPT_MEMORY {
            os::purge(run, bytes);
        }
        if let Some(old) = self.tracker.remember_run(ended.address) {
            self.release_run(old);
        }
    }

    fn give_run(&self, run: usize, address: usize) {
        self.give(if self.is_guarded(address) { run } else { address });
    }

    /// Gives back what was kept. False: the system gives no access to it, for what had none did not count under a limit
    /// (`ulimit -d`), and others have all that is left; then it is kept further. What a sandbox that refuses `mprotect` has left as
    /// it was goes all the same.
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn release_run(&self, address: usize) -> bool {
        let run = run_of(address);
        let bytes = self.heap.usable_size(run).unwrap_or(0);
        if !os::protect(run, bytes, true) && !os::has_access(run, bytes) {
            // Without room, since others came meanwhile, it stays as it is.
            self.tracker.keep_run_further(address);
            return false;
        }
        self.heap.free_large(self.index(), run);
        true
    }
}
