//! What each function of the malloc family does: POSIX and C23 to the letter, and glibc where those leave it open.
//!
//! | rule | here |
//! |---|---|
//! | `malloc(0)` | a pointer of its own |
//! | alignment | 16 above 8 bytes, else 8 |
//! | no memory, or more than `PTRDIFF_MAX` | null, `errno` is `ENOMEM` |
//! | an alignment that is no power of two | null, `errno` is `EINVAL`; `posix_memalign` returns either and leaves `errno` alone; `memalign` takes the next one, as glibc's |
//! | `realloc(p, 0)` | frees `p`, null |
//! | `free`, and every call that succeeds | `errno` stays what it was |
//! | a pointer that is none of ours | the process ends with one line on stderr; if another allocator is in it, that one's `free` is called |
//!
//! The fast paths of `malloc` and `free` are those of the global allocator; only the class comes from elsewhere: from the
//! page map, for `free`. What sets `errno` stands behind the slow paths' calls.

use super::neighbour;
use crate::arena::Fill;
use crate::c_class::{self, C_ALIGN};
use crate::config::{CLASS_MAX, GRAIN};
use crate::global::doors;
use crate::global::{self, HEAP};
use crate::os;
use crate::size_class::{self, COARSE_GRAIN, FINE_MAX};
use crate::slot;
use crate::thread_cache::Bin;
use core::ptr::{self, NonNull, null_mut};

/// The largest object that C knows.
const SIZE_MAX: usize = isize::MAX as usize;
/// What `valloc` aligns to.
pub(super) fn page_size() -> usize {
    os::page_size()
}

#[inline(always)]
fn bin(place: usize) -> &'static Bin {
    // SAFETY: the slot always points to a cache, a static one or this thread's, which lives as long as the call that uses
    // the bin; the place is a bin's.
    unsafe { (*slot::get()).bin_at(place) }
}

#[cold]
#[inline(never)]
fn missed(size: usize, place: usize) -> *mut u8 {
    or_no_memory(doors::alloc_for(os::frame(), size, align_in_c(size), place))
}

#[cold]
#[inline(never)]
fn missed_zeroed(size: usize, place: usize) -> *mut u8 {
    global::configure_within_calloc();
    or_no_memory(doors::zeroed(doors::alloc_for(os::frame(), size, align_in_c(size), place), size))
}

fn or_no_memory(at: *mut u8) -> *mut u8 {
    if at.is_null() {
        os::fail(os::Errno::NoMemory);
    }
    at
}

#[inline(always)]
pub(super) fn malloc(size: usize) -> *mut u8 {
    serve(size, |place| if place == LARGE { large(size, 1) } else { missed(size, place) })
}

/// No class's place.
const LARGE: usize = usize::MAX;

/// As `malloc`, but what misses the thread's cache is left to `missed`, which is told the class's place, or [`LARGE`].
#[inline(always)]
pub(super) fn serve(size: usize, missed: impl FnOnce(usize) -> *mut u8) -> *mut u8 {
    match c_class::place_in_c(size) {
        Some(place) => match bin(place).pop() {
            Some(chunk) => chunk.as_ptr(),
            None => missed(place),
        },
        None => missed(LARGE),
    }
}

/// What missed, for the caller of a [`frame`](os::frame); null without a word if there is no memory.
#[cfg(millpond_shared)]
pub(super) fn attempt_at(frame: usize, size: usize, place: usize) -> *mut u8 {
    match place {
        LARGE => doors::large(frame, size, 1, Fill::Any),
        place => doors::alloc_for(frame, size, align_in_c(size), place),
    }
}

/// What `malloc` finds in the thread's cache; `None`: [`attempt`] may find more.
#[cfg(millpond_shared)]
#[inline(always)]
pub(super) fn at_hand(size: usize) -> Option<NonNull<u8>> {
    bin(c_class::place_in_c(size)?).pop()
}

/// The same for `aligned_alloc`.
#[cfg(millpond_shared)]
#[inline(always)]
pub(super) fn at_hand_aligned(align: usize, size: usize) -> Option<NonNull<u8>> {
    if !align.is_power_of_two() {
        return None;
    }
    bin(place_aligned(align, size)?).pop()
}

/// Memory at a multiple of `align` for the caller of a [`frame`](os::frame); null without a word if there is none, or can be none.
#[cfg(millpond_shared)]
pub(super) fn attempt(frame: usize, size: usize, align: usize) -> *mut u8 {
    if !align.is_power_of_two() {
        return null_mut();
    }
    match place_aligned(align, size) {
        Some(place) => doors::alloc_for(frame, size, align.max(align_in_c(size)), place),
        None => doors::large(frame, size, align, Fill::Any),
    }
}

#[cold]
#[inline(never)]
fn large(size: usize, align: usize) -> *mut u8 {
    or_no_memory(doors::large(os::frame(), size, align, Fill::Any))
}

#[cold]
#[inline(never)]
fn large_zeroed(size: usize) -> *mut u8 {
    or_no_memory(doors::large(os::frame(), size, 1, Fill::Zero))
}

pub(super) fn calloc(count: usize, size: usize) -> *mut u8 {
    let Some(bytes) = count.checked_mul(size) else { return or_no_memory(null_mut()) };
    let Some(place) = c_class::place_in_c(bytes) else {
        return large_zeroed(bytes);
    };
    let Some(chunk) = bin(place).pop() else { return missed_zeroed(bytes, place) };
    // SAFETY: a chunk of at least that size, just now taken.
    unsafe { chunk.write_bytes(0, bytes) };
    chunk.as_ptr()
}

/// The place of the class to which the chunk at an address belongs; `None` for larger allocations, for null, and for
/// what is none of ours.
#[inline(always)]
fn place_at(ptr: *mut u8) -> Option<usize> {
    (HEAP.spans.page_map.noted(ptr.addr()) as usize).checked_sub(1)
}

/// # Safety
/// As C says: null, or memory of this family's that is the caller's.
#[inline(always)]
pub(super) unsafe fn free(ptr: *mut u8) {
    match place_at(ptr) {
        // SAFETY: null lies in no span.
        Some(place) => give(unsafe { NonNull::new_unchecked(ptr) }, place),
        None => free_other(ptr),
    }
}

#[inline(always)]
fn give(chunk: NonNull<u8>, place: usize) {
    if !bin(place).push(chunk) {
        global::free_missed(chunk, UNSAID, 1, place);
    }
}

/// For a caller that says the size and alignment, which the modes with records look at.
#[inline(always)]
fn give_sized(chunk: NonNull<u8>, size: usize, align: usize, place: usize) {
    if !bin(place).push(chunk) {
        global::free_missed(chunk, size, align, place);
    }
}

/// As `free`, of what is said to have been asked for with this size, which is looked at where there are records; no bytes: any number.
///
/// # Safety
/// As C says; the size may be wrong.
#[cfg(millpond_shared)]
#[inline(always)]
pub(super) unsafe fn free_as(ptr: *mut u8, size: usize) {
    match place_at(ptr) {
        Some(place) => {
            // SAFETY: null lies in no span.
            let chunk = unsafe { NonNull::new_unchecked(ptr) };
            if !bin(place).push(chunk) {
                let (size, align) = said_to_delete(size);
                global::free_missed(chunk, size, align, place);
            }
        }
        None => free_other_as(ptr, size),
    }
}

#[cfg(millpond_shared)]
#[cold]
#[inline(never)]
fn free_other_as(ptr: *mut u8, size: usize) {
    let (size, align) = said_to_delete(size);
    free_other_sized(ptr, size, align);
}

/// The size and alignment that `new` had, by what `delete` is told. In the modes with records, what is no larger than a chunk may have
/// pages of its own, and has a chunk's alignment there.
#[cfg(millpond_shared)]
#[inline(always)]
fn said_to_delete(size: usize) -> (usize, usize) {
    let align = if size <= CLASS_MAX { align_in_c(size) } else { 1 };
    (if size == 0 { UNSAID } else { said(size) }, align)
}

fn free_other(ptr: *mut u8) {
    free_other_sized(ptr, UNSAID, 1);
}

/// The size where the caller says none.
const UNSAID: usize = usize::MAX;

/// A size that the caller says. The largest of all would be taken for none, and is as wrong as the one below it.
fn said(size: usize) -> usize {
    size.min(UNSAID - 1)
}

#[cold]
#[inline(never)]
fn free_other_sized(ptr: *mut u8, size: usize, align: usize) {
    // SAFETY: what lies in none of our pages is the caller's from elsewhere, or nobody's.
    if ptr.is_null() || (is_elsewhere(ptr.addr()) && unsafe { neighbour::free(ptr) }) {
        return;
    }
    global::free_large(ptr, size, align);
}

/// Whether nothing is known of an address. Where there are records, more is known than the page map says: that has of a mapping of one
/// allocation its beginning alone, and nothing once it is freed.
fn is_elsewhere(address: usize) -> bool {
    HEAP.spans.page_map.get(address).is_none()
        && global::tracked().is_none_or(|tracked| {
            tracked.tracker.find(HEAP.place(address)).is_none() && HEAP.huge_around(address).is_none()
        })
}

/// Whether an address lies in memory of ours.
#[cfg(millpond_shared)]
pub(super) fn is_here(ptr: *mut u8) -> bool {
    !is_elsewhere(ptr.addr())
}

/// What `malloc(size)` is aligned to.
pub(super) fn align_in_c(size: usize) -> usize {
    if size <= GRAIN { GRAIN } else { C_ALIGN }
}

/// Frees what `malloc(size)`, `calloc` or `realloc` to this size gave, without asking the page map.
///
/// # Safety
/// As C says.
#[inline(always)]
pub(super) unsafe fn free_sized(ptr: *mut u8, size: usize) {
    match (NonNull::new(ptr), c_class::place_in_c(size)) {
        (Some(chunk), Some(place)) => give_sized(chunk, size, align_in_c(size), place),
        _ => free_other_sized(ptr, said(size), 1),
    }
}

/// Frees what `aligned_alloc(align, size)` gave, without asking the page map.
///
/// # Safety
/// As C says.
pub(super) unsafe fn free_aligned_sized(ptr: *mut u8, align: usize, size: usize) {
    match (NonNull::new(ptr), place_aligned(align, size)) {
        (Some(chunk), Some(place)) => give_sized(chunk, size, align.max(align_in_c(size)), place),
        _ => free_other_sized(ptr, said(size), align),
    }
}

/// The place of the class that serves an aligned request.
fn place_aligned(align: usize, size: usize) -> Option<usize> {
    match align {
        0..=C_ALIGN => c_class::place_in_c(size.max(align)),
        _ if size > SIZE_MAX => None,
        _ => size_class::place_of(size.max(1), align),
    }
}

/// Memory at a multiple of `align`, a power of two; null without a word if there is none.
fn aligned(align: usize, size: usize) -> *mut u8 {
    match place_aligned(align, size) {
        Some(place) => match bin(place).pop() {
            Some(chunk) => chunk.as_ptr(),
            None => global::alloc_missed(size, align.max(align_in_c(size)), place),
        },
        None => global::alloc_large(size, align),
    }
}

pub(super) fn aligned_alloc(align: usize, size: usize) -> *mut u8 {
    if !align.is_power_of_two() {
        os::fail(os::Errno::Invalid);
        return null_mut();
    }
    or_no_memory(aligned(align, size))
}

/// No standard has it: as glibc's, for any alignment up to the largest power of two.
pub(super) fn memalign(align: usize, size: usize) -> *mut u8 {
    aligned_alloc(align.checked_next_power_of_two().unwrap_or(0), size)
}

/// Returns zero, or what went wrong; then nothing is written to `place`.
///
/// # Safety
/// `place` points to a pointer that may be written.
pub(super) unsafe fn posix_memalign(place: *mut *mut u8, align: usize, size: usize) -> i32 {
    if !align.is_power_of_two() || align % size_of::<*mut u8>() != 0 {
        return os::Errno::Invalid as i32;
    }
    let at = aligned(align, size);
    if at.is_null() {
        return os::Errno::NoMemory as i32;
    }
    // SAFETY: the caller's.
    unsafe { place.write(at) };
    0
}

/// `size` rounded up to whole OS pages, at the start of one.
pub(super) fn pvalloc(size: usize) -> *mut u8 {
    match size.max(1).checked_next_multiple_of(page_size()) {
        Some(size) => aligned_alloc(page_size(), size),
        None => or_no_memory(null_mut()),
    }
}

/// # Safety
/// As C says.
pub(super) unsafe fn realloc(ptr: *mut u8, size: usize) -> *mut u8 {
    if ptr.is_null() {
        return malloc(size);
    }
    if size == 0 {
        // SAFETY: the caller's.
        unsafe { free(ptr) };
        return null_mut();
    }
    let (old, new) = (place_at(ptr), c_class::place_in_c(size));
    if !global::is_plain() {
        // SAFETY: the caller's.
        return unsafe { realloc_watched(ptr, size, old, new) };
    }
    if old.is_some() && old == new {
        return ptr;
    }
    if old.is_none() && new.is_none() {
        if let Some(resized) = doors::resize_large(ptr, size, 1) {
            return or_no_memory(resized);
        }
    }
    // SAFETY: the caller's.
    unsafe { moved(ptr, size, malloc, ()) }
}

/// Where there is a mode, or calls are watched.
///
/// # Safety
/// As [`realloc`].
#[cold]
#[inline(never)]
unsafe fn realloc_watched(ptr: *mut u8, size: usize, old: Option<usize>, new: Option<usize>) -> *mut u8 {
    let frame = os::frame();
    // Before anything is read from there.
    let address = ptr.expose_provenance();
    if global::tracked().is_some_and(|tracked| !tracked.can_be_resized(address, None, global::is_late())) {
        return null_mut();
    }
    let align = new.map_or(1, |_| align_in_c(size));
    let here = || doors::resize(frame, ptr, None, [old, new], size, align);
    if let Some(resized) = here() {
        return resized;
    }
    let take = |size| match new {
        Some(place) => doors::alloc_for(frame, size, align_in_c(size), place),
        None => doors::large(frame, size, 1, Fill::Any),
    };
    let tracked = global::tracked();
    let Ok(held) = doors::hold(tracked.as_ref(), ptr, None) else { return null_mut() };
    // SAFETY: the caller's.
    let target = unsafe { moved(ptr, size, take, held) };
    if target.is_null() && old.is_none() && new.is_none() {
        // As where there is no mode.
        let here = here().or_else(|| doors::shrink(frame, ptr, size));
        return or_no_memory(here.unwrap_or(target));
    }
    or_no_memory(target)
}

/// Moves an allocation to another of `size` bytes, which `take` gives, unless there is no memory for that; `held` until it is copied.
///
/// # Safety
/// `ptr` is a live allocation.
unsafe fn moved<H>(ptr: *mut u8, size: usize, take: impl FnOnce(usize) -> *mut u8, held: H) -> *mut u8 {
    let Some(old) = global::usable_size(ptr) else {
        if let Some(tracked) = global::tracked() {
            tracked.accuse_of_realloc(ptr.addr());
        }
        HEAP.die_of_unknown("realloc", ptr.addr())
    };
    let target = take(size);
    if !target.is_null() {
        // SAFETY: two distinct allocations of at least that many bytes; the old one is the caller's, and freed once.
        unsafe {
            ptr::copy_nonoverlapping(ptr, target, old.min(size));
            drop(held);
            free(ptr);
        }
    }
    target
}

/// # Safety
/// As C says.
#[cfg(feature = "prefixed")]
pub(super) unsafe fn reallocarray(ptr: *mut u8, count: usize, size: usize) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe { reallocarray_by(ptr, count, size, |ptr, size| realloc(ptr, size)) }
}

/// The same by way of another function than this `realloc`.
///
/// # Safety
/// As C says of both.
#[inline(always)]
pub(super) unsafe fn reallocarray_by(
    ptr: *mut u8,
    count: usize,
    size: usize,
    realloc: impl FnOnce(*mut u8, usize) -> *mut u8,
) -> *mut u8 {
    match count.checked_mul(size) {
        Some(bytes) => realloc(ptr, bytes),
        None => or_no_memory(null_mut()),
    }
}

/// The bytes that may be used at `ptr`; 0 for null, and where no allocation begins. Never more than what the allocation can be
/// resized to where it is: the last 16 bytes of odd classes serve no request of their own.
pub(super) fn usable_size(ptr: *const u8) -> usize {
    match global::usable_size(ptr).unwrap_or(0) {
        bytes if bytes > FINE_MAX && bytes <= CLASS_MAX && global::tracked().is_none() => bytes - bytes % COARSE_GRAIN,
        bytes => bytes,
    }
}

/// Gives back all that is free; whether that was anything.
pub(super) fn trim() -> bool {
    global::trim().returned > 0
}
