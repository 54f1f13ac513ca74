//! What the child of a `fork` finds as new: metadata that reads as zero there.
//!
//! The kernel wipes it (`MADV_WIPEONFORK`, Linux 4.14). Where it does not, or a sandbox refuses, libc is to call a function in
//! each child, which takes a lock of libc's once, and may allocate.

use super::linux::{is_of_stock, page_size, quietly};
use super::{release_metadata, scratch};
#[cfg(millpond_shared)]
use crate::sync::{AtomicU32, Ordering};
use core::ffi::c_void;

/// Metadata that reads as zero in the child of a `fork`: `MADV_WIPEONFORK`. Where the kernel or a sandbox refuses
/// that, `wipe` is registered to run in each child instead.
pub(crate) fn wiped_metadata(len: usize, wipe: extern "C" fn()) -> Option<usize> {
    let at = scratch(len)?;
    let range = core::ptr::with_exposed_provenance_mut::<c_void>(at);
    // SAFETY: our own fresh mapping.
    let wiped =
        quietly(|| unsafe { libc::madvise(range, len.next_multiple_of(page_size()), libc::MADV_WIPEONFORK) }) == 0;
    if wiped || at_fork(wipe) {
        return Some(at);
    }
    release_metadata(at, len);
    None
}

/// Gives back what [`wiped_metadata`] returned: for the loser of a race to publish it.
pub(crate) fn release_wiped(at: usize, len: usize) {
    let range = core::ptr::with_exposed_provenance_mut::<c_void>(at);
    // What is of the stock serves again, for tables that a child is to find as they were. What stays wiped is lost.
    // SAFETY: whole OS pages of `wiped_metadata`'s, which the caller uses no more.
    let kept =
        quietly(|| unsafe { libc::madvise(range, len.next_multiple_of(page_size()), libc::MADV_KEEPONFORK) }) == 0;
    if kept || !is_of_stock(at) {
        release_metadata(at, len);
    }
}

/// Has `child` called in each child of a `fork`. `false`: it will not be.
#[cfg(not(millpond_shared))]
pub(super) fn at_fork(child: extern "C" fn()) -> bool {
    unsafe extern "C" {
        fn pthread_atfork(
            prepare: Option<extern "C" fn()>,
            parent: Option<extern "C" fn()>,
            child: Option<extern "C" fn()>,
        ) -> i32;
    }
    // SAFETY: `child` stays valid for ever: it is a function of this crate.
    unsafe { pthread_atfork(None, None, Some(child)) == 0 }
}

/// The same where this library is loaded into programs of another libc than it was linked with: glibc has `pthread_atfork` in
/// its static part alone, by way of a name that others (musl) have not, so either is taken that is there.
#[cfg(millpond_shared)]
pub(super) fn at_fork(child: extern "C" fn()) -> bool {
    /// The thread that is within this, whose `malloc` may be called from there: it gets no cache meanwhile.
    static WITHIN: AtomicU32 = AtomicU32::new(0);
    let thread = super::thread_id();
    // Relaxed: a thread knows its own number again, and no other is asked for.
    if WITHIN.swap(thread, Ordering::Relaxed) == thread {
        return false;
    }
    type Handler = Option<extern "C" fn()>;
    type AtFork = unsafe extern "C" fn(Handler, Handler, Handler, *const c_void) -> i32;
    let (of_glibc, of_others): (*const c_void, *const c_void);
    // SAFETY: reads two words of the table of addresses; a weak name that nobody has is zero there. `child` stays valid for
    // ever. Of the four arguments, `pthread_atfork` looks at three; the fourth says which library goes with the handlers, and
    // ours is never unloaded.
    unsafe {
        core::arch::asm!(
            ".weak __register_atfork",
            ".weak pthread_atfork",
            "mov {}, qword ptr [rip + __register_atfork@GOTPCREL]",
            "mov {}, qword ptr [rip + pthread_atfork@GOTPCREL]",
            out(reg) of_glibc,
            out(reg) of_others,
            options(pure, nomem, nostack, preserves_flags)
        );
        let found = if of_glibc.is_null() { of_others } else { of_glibc };
        let register = core::mem::transmute::<*const c_void, Option<AtFork>>(found);
        let registered = register.is_some_and(|register| register(None, None, Some(child), core::ptr::null()) == 0);
        WITHIN.store(0, Ordering::Relaxed);
        registered
    }
}
