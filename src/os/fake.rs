//! The contract of [`os`](super) for unit tests and models: it can be told to fail and to have other OS pages.
//!
//! Settings belong to the thread of the system that makes them. In unit tests reservations are real memory; under loom
//! they are bare numbers, small enough for a shrunk page map, each grain of which has a [`Slot`] of loom's to stand for
//! what is stored there: [`touch`] and [`purge`] write it, so two that use the same memory at a time fail the model.

use super::Purged;
use crate::report::Thp;
use crate::sync::Slot;
use core::fmt::Arguments;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::{Cell, RefCell};
use std::vec::Vec;

std::thread_local! {
    static PAGE_SIZE: Cell<usize> = const { Cell::new(4096) };
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static FAIL_FROM: Cell<u64> = const { Cell::new(u64::MAX) };
    static FAIL_UNTIL: Cell<u64> = const { Cell::new(0) };
    static NEXT: Cell<usize> = const { Cell::new(0) };
    static CLOCK: Cell<u64> = const { Cell::new(0) };
    static TABLES: RefCell<Vec<(usize, usize)>> = const { RefCell::new(Vec::new()) };
    static RESERVED: RefCell<Vec<(usize, usize, usize)>> = const { RefCell::new(Vec::new()) };
    static GRAINS: RefCell<Vec<Slot>> = const { RefCell::new(Vec::new()) };
    static THREAD: Cell<u32> = const { Cell::new(1) };
}

const TABLE_ALIGN: usize = 4096;
/// Under loom: bytes that one slot stands for, the OS page and the smallest chunk.
const GRAIN: usize = 16;
/// Under loom: bytes between reservations, a page at least, and the end of addresses. NB: in step with `config`.
const GAP: usize = 64;
const END: usize = 1 << 13;

/// While it lives, calls of this thread number `from` up to but not including `until`, counted from zero, fail.
#[cfg(not(millpond_loom))]
pub(crate) struct Failing;

#[cfg(not(millpond_loom))]
impl Failing {
    pub(crate) fn calls(from: u64, until: u64) -> Self {
        CALLS.set(0);
        FAIL_FROM.set(from);
        FAIL_UNTIL.set(until);
        Self
    }

    /// Calls so far that could have failed.
    pub(crate) fn seen(&self) -> u64 {
        CALLS.get()
    }
}

#[cfg(not(millpond_loom))]
impl Drop for Failing {
    fn drop(&mut self) {
        FAIL_FROM.set(u64::MAX);
        FAIL_UNTIL.set(0);
    }
}

/// Plays OS pages of another size on this thread.
#[cfg(not(millpond_loom))]
pub(crate) fn set_page_size(size: usize) {
    PAGE_SIZE.set(size);
}

/// Moves this thread's clock on.
#[cfg(not(millpond_loom))]
pub(crate) fn advance_ms(ms: u64) {
    CLOCK.set(CLOCK.get() + ms);
}

/// Frees all that this thread's tests or models have taken; what they made must be gone.
pub(crate) fn forget_all() {
    for (at, len) in TABLES.take() {
        // SAFETY: taken with this layout in `metadata`, and no longer used.
        unsafe { dealloc(at as *mut u8, Layout::from_size_align(len, TABLE_ALIGN).unwrap()) };
    }
    for (at, len, align) in RESERVED.take() {
        if !cfg!(millpond_loom) {
            // SAFETY: taken with this layout in `reserve`, and no longer used.
            unsafe { dealloc(at as *mut u8, Layout::from_size_align(len, align).unwrap()) };
        }
    }
    GRAINS.take();
    NEXT.set(0);
    THREAD.set(1);
}

/// Writes to memory, as whoever it was handed out to would. Under loom this fails if anybody else may use it too.
#[cfg(millpond_loom)]
pub(crate) fn touch(at: usize, len: usize) {
    GRAINS.with_borrow(|grains| grains[at / GRAIN..(at + len).div_ceil(GRAIN)].iter().for_each(|grain| grain.set(at)));
}

/// The threads there have been are gone, without a word; the next have another number.
#[cfg(millpond_loom)]
pub(crate) fn end_threads() {
    THREAD.set(THREAD.get() + 1);
}

/// Bytes reserved and not released by this thread.
#[cfg(not(millpond_loom))]
pub(crate) fn reserved_bytes() -> usize {
    RESERVED.with_borrow(|reserved| reserved.iter().map(|(_, len, _)| len).sum())
}

fn refused() -> bool {
    let call = CALLS.get();
    CALLS.set(call + 1);
    (FAIL_FROM.get()..FAIL_UNTIL.get()).contains(&call)
}

pub(crate) fn page_size() -> usize {
    if cfg!(millpond_loom) { GRAIN } else { PAGE_SIZE.get() }
}

pub(crate) fn reserve(len: usize, align: usize) -> Option<usize> {
    if refused() {
        return None;
    }
    let at = if cfg!(millpond_loom) {
        let at = (NEXT.get() + GAP).next_multiple_of(align);
        if at + len > END {
            return None;
        }
        NEXT.set(at + len);
        GRAINS.with_borrow_mut(|grains| grains.resize_with((at + len).div_ceil(GRAIN), || Slot::new(0)));
        at
    } else {
        // SAFETY: the length is not zero.
        let at = unsafe { alloc_zeroed(Layout::from_size_align(len, align).ok()?) };
        if at.is_null() {
            return None;
        }
        at.expose_provenance()
    };
    RESERVED.with_borrow_mut(|reserved| reserved.push((at, len, align)));
    Some(at)
}

pub(crate) fn commit(_at: usize, _len: usize) -> bool {
    !refused()
}

pub(crate) fn purge(at: usize, len: usize) -> Purged {
    assert!(at % page_size() == 0 && len % page_size() == 0 && len > 0);
    if refused() {
        return Purged::Failed;
    }
    #[cfg(millpond_loom)]
    touch(at, len);
    #[cfg(not(millpond_loom))]
    // SAFETY: the caller owns the range.
    unsafe {
        core::ptr::write_bytes(core::ptr::with_exposed_provenance_mut::<u8>(at), 0, len)
    };
    Purged::Zero
}

pub(crate) fn release(at: usize, len: usize) {
    RESERVED.with_borrow_mut(|reserved| {
        let place = reserved.iter().position(|(start, size, _)| (*start, *size) == (at, len));
        let (_, _, align) = reserved.swap_remove(place.expect("released what was not reserved"));
        if !cfg!(millpond_loom) {
            // SAFETY: taken with this layout in `reserve`.
            unsafe { dealloc(at as *mut u8, Layout::from_size_align(len, align).unwrap()) };
        }
    });
}

pub(crate) fn resize(_at: usize, _old: usize, _new: usize) -> bool {
    false
}

pub(crate) fn remap(at: usize, old: usize, to: usize, new: usize) -> bool {
    if refused() {
        release(to, new);
        return false;
    }
    if !cfg!(millpond_loom) {
        // SAFETY: both are reserved, and distinct.
        unsafe { core::ptr::copy_nonoverlapping(at as *const u8, to as *mut u8, old.min(new)) };
    }
    release(at, old);
    true
}

pub(crate) fn metadata(len: usize) -> Option<usize> {
    if refused() {
        return None;
    }
    // SAFETY: the length is not zero.
    let at = unsafe { alloc_zeroed(Layout::from_size_align(len, TABLE_ALIGN).ok()?) };
    let at = (!at.is_null()).then(|| at.expose_provenance())?;
    TABLES.with_borrow_mut(|tables| tables.push((at, len)));
    Some(at)
}

pub(crate) fn release_metadata(at: usize, len: usize) {
    // Another thread's model or test may have taken it: it stays until the end there.
    let _ = (at, len);
}

pub(crate) fn wiped_metadata(len: usize, _wipe: extern "C" fn()) -> Option<usize> {
    metadata(len)
}

pub(crate) fn advise_thp(_at: usize, _len: usize, _thp: Thp) {}

pub(crate) fn coarse_ms() -> u64 {
    CLOCK.get()
}

pub(crate) fn thread_id() -> u32 {
    THREAD.get()
}

pub(crate) fn is_first_thread() -> bool {
    false
}

pub(crate) fn thread_is_gone(id: u32) -> bool {
    id < THREAD.get()
}

pub(crate) fn environment(_name: &[u8]) -> Option<&'static [u8]> {
    None
}

pub(crate) fn say(_text: Arguments<'_>) {}

pub(crate) fn die(text: Arguments<'_>) -> ! {
    panic!("millpond: {text}")
}

#[inline(always)]
pub(crate) fn prefetch_write(_at: usize) {}

#[inline(always)]
pub(crate) fn prefetch_read(_at: usize) {}

pub(crate) fn address_limit() -> Option<usize> {
    None
}

pub(crate) fn keep_headroom(_len: usize) -> bool {
    true
}

pub(crate) fn is_alone() -> bool {
    false
}

pub(crate) fn process_id() -> u32 {
    1
}
