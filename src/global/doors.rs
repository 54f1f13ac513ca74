//! Where calls come in that the fast path does not serve: a bin that has missed, what is larger than all classes, and each
//! call while a mode is on or calls are watched.

use super::{HEAP, Millpond, configure, is_late, own_cache, plain_cache, thread, tracked, tracked_by};
use super::{tally, watch};
use crate::arena::Fill;
use crate::heap::Tracked;
use crate::modes::Resizing;
use crate::os;
use crate::size_class;
use crate::times::Call;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

fn address(chunk: Option<NonNull<u8>>) -> *mut u8 {
    chunk.map_or(ptr::null_mut(), NonNull::as_ptr)
}

#[cold]
#[inline(never)]
pub(crate) fn alloc_large(size: usize, align: usize) -> *mut u8 {
    large(os::frame(), size, align, Fill::Any)
}

#[cold]
#[inline(never)]
pub(crate) fn alloc_large_zeroed(size: usize, align: usize) -> *mut u8 {
    large(os::frame(), size, align, Fill::Zero)
}

/// For whoever called the function with this frame.
pub(crate) fn large(frame: usize, size: usize, align: usize, fill: Fill) -> *mut u8 {
    // It may be the first call of all, which chooses the mode.
    configure();
    let start = watch::begin(Call::Alloc);
    let at = address(match tracked() {
        None => HEAP.alloc_large(thread(), size, align, fill),
        Some(tracked) => Tracked { frame, ..tracked }.alloc(size, align, None, fill),
    });
    watch::end(Call::Alloc, start);
    watch::allocated(frame, at, size);
    at
}

/// The size may be rounded up to the alignment; `usize::MAX`: the caller does not say.
#[cold]
#[inline(never)]
pub(crate) fn free_large(ptr: *mut u8, size: usize, align: usize) {
    let frame = os::frame();
    watch::freeing(ptr.addr());
    let start = watch::begin(Call::Free);
    match tracked() {
        None => HEAP.free_large(thread(), ptr.expose_provenance()),
        Some(tracked) => {
            let layout = (size != usize::MAX).then_some((size, align));
            Tracked { frame, ..tracked }.free(ptr.expose_provenance(), layout, is_late());
        }
    }
    watch::end(Call::Free, start);
}

/// The bin has missed: has the thread born first, if need be.
#[cold]
#[inline(never)]
pub(crate) fn alloc_missed(size: usize, align: usize, place: usize) -> *mut u8 {
    alloc_after_miss(os::frame(), size, align, place)
}

#[cold]
#[inline(never)]
pub(super) fn alloc_missed_zeroed(size: usize, align: usize, place: usize) -> *mut u8 {
    zeroed(alloc_after_miss(os::frame(), size, align, place), size)
}

/// Clears what has just been allocated, if anything was.
pub(crate) fn zeroed(at: *mut u8, size: usize) -> *mut u8 {
    if !at.is_null() {
        // SAFETY: at least that many bytes, the caller's alone.
        unsafe { ptr::write_bytes(at, 0, size) };
    }
    at
}

/// For whoever called the function with this frame, once the bin in the thread's slot has missed: a plain cache's is that one, and
/// is not tried again.
#[inline(always)]
fn alloc_after_miss(frame: usize, size: usize, align: usize, place: usize) -> *mut u8 {
    let Some(cache) = plain_cache() else { return alloc_watched(frame, size, align, place) };
    address(HEAP.alloc_slow(cache, size_class::at_place(place)))
}

/// For whoever called the function with this frame.
#[inline(always)]
pub(crate) fn alloc_for(frame: usize, size: usize, align: usize, place: usize) -> *mut u8 {
    let Some(cache) = plain_cache() else { return alloc_watched(frame, size, align, place) };
    let class = size_class::at_place(place);
    address(cache.bin(class).pop().or_else(|| HEAP.alloc_slow(cache, class)))
}

/// Not in the cold section: a thread's first allocation comes here.
#[cold]
#[inline(never)]
fn alloc_watched(frame: usize, size: usize, align: usize, place: usize) -> *mut u8 {
    let start = watch::begin(Call::Alloc);
    let cache = own_cache();
    let at = address(if let Some(tracked) = tracked_by(cache) {
        let class = size_class::place_of(tracked.padded(size).max(1), align).map(size_class::at_place);
        Tracked { frame, ..tracked }.alloc(size, align, class, Fill::Any)
    } else {
        let class = size_class::at_place(place);
        match cache {
            // What missed may have been the front alone.
            Some(cache) => cache.bin(class).pop().or_else(|| HEAP.alloc_slow(cache, class)),
            None => HEAP.alloc_shared(class),
        }
    });
    watch::end(Call::Alloc, start);
    watch::allocated(frame, at, size);
    at
}

/// The bin has missed: has the thread born first, if need be. The size may be rounded up to the alignment; `usize::MAX`: the
/// caller does not say.
#[cold]
#[inline(never)]
pub(crate) fn free_missed(chunk: NonNull<u8>, size: usize, align: usize, place: usize) {
    let frame = os::frame();
    let Some(cache) = plain_cache() else { return free_watched(frame, chunk, size, align, place) };
    // As in `alloc_after_miss`.
    HEAP.free_after_miss(cache, size_class::at_place(place), chunk);
}

#[cold]
#[inline(never)]
#[unsafe(link_section = ".millpond_cold")]
fn free_watched(frame: usize, chunk: NonNull<u8>, size: usize, align: usize, place: usize) {
    watch::freeing(chunk.addr().get());
    let start = watch::begin(Call::Free);
    let cache = own_cache();
    if let Some(tracked) = tracked_by(cache) {
        let layout = (size != usize::MAX).then_some((size, align));
        Tracked { frame, ..tracked }.free(chunk.as_ptr().expose_provenance(), layout, is_late());
    } else {
        let class = size_class::at_place(place);
        match cache {
            Some(cache) if cache.bin(class).push(chunk) => {}
            Some(cache) => HEAP.free_after_miss(cache, class, chunk),
            None => HEAP.free_shared(class, chunk),
        }
    }
    watch::end(Call::Free, start);
}

/// `realloc` where there is a mode, or calls are watched.
///
/// # Safety
/// As `GlobalAlloc::realloc`.
#[cold]
#[inline(never)]
#[unsafe(link_section = ".millpond_cold")]
pub(super) unsafe fn realloc_watched(ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
    let frame = os::frame();
    let (size, align) = (layout.size(), layout.align());
    // Before anything is copied from there.
    let said = Some((size, align));
    if tracked().is_some_and(|tracked| !tracked.can_be_resized(ptr.expose_provenance(), said, is_late())) {
        return ptr::null_mut();
    }
    let (old, new) = (size_class::place_of(size, align), size_class::place_of(new_size, align));
    let here = || resize(frame, ptr, said, [old, new], new_size, align);
    if let Some(resized) = here() {
        return resized;
    }
    let tracked = tracked();
    let Ok(held) = hold(tracked.as_ref(), ptr, said) else { return ptr::null_mut() };
    let target = match new {
        Some(place) => alloc_for(frame, new_size, align, place),
        None => large(frame, new_size, align, Fill::Any),
    };
    if target.is_null() {
        drop(held);
        let is_large = old.is_none() && new.is_none();
        // As in `resize_large`.
        let here = if is_large { here().or_else(|| shrink(frame, ptr, new_size)) } else { None };
        return here.unwrap_or(target);
    }
    // SAFETY: two distinct allocations of at least that many bytes; the old one is the caller's, and freed once.
    unsafe {
        ptr::copy_nonoverlapping(ptr, target, size.min(new_size));
        drop(held);
        Millpond.dealloc(ptr, layout);
    }
    target
}

/// Resizes what its class has no room for, or what has none, while calls are plain. By itself, so that compilers still fold the way of
/// what stays as it is where sizes are constants.
///
/// # Safety
/// As [`GlobalAlloc::realloc`].
#[inline(never)]
pub(super) unsafe fn resize_or_move(ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
    let (size, align) = (layout.size(), layout.align());
    if [size, new_size].iter().all(|size| size_class::place_of(*size, align).is_none()) {
        if let Some(resized) = resize_large(ptr, new_size, align) {
            return resized;
        }
    }
    // SAFETY: the caller guarantees that the new size is not zero and does not overflow when rounded up.
    let target = unsafe { Millpond.alloc(Layout::from_size_align_unchecked(new_size, align)) };
    if !target.is_null() {
        // SAFETY: two distinct chunks of at least that many bytes; the old one is the caller's, and freed once.
        unsafe {
            ptr::copy_nonoverlapping(ptr, target, size.min(new_size));
            Millpond.dealloc(ptr, layout);
        }
    }
    target
}

/// Takes in hand what has to move, where there are records: see [`Tracked::hold`].
pub(crate) fn hold<'a>(
    tracked: Option<&'a Tracked<'_>>,
    ptr: *mut u8,
    layout: Option<(usize, usize)>,
) -> Result<Option<Resizing<'a>>, ()> {
    tracked.map_or(Ok(None), |tracked| tracked.hold(ptr.expose_provenance(), layout, is_late()))
}

/// Has what has whole pages, and is to be smaller and have some still, stay where it is, for whoever called the function with this frame:
/// there is no memory for another. `None` for all else, and where there are records.
#[cold]
#[inline(never)]
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn shrink(frame: usize, ptr: *mut u8, size: usize) -> Option<*mut u8> {
    let address = ptr.expose_provenance();
    if tracked().is_some() || HEAP.usable_size(address).is_none_or(|usable| usable < size) {
        return None;
    }
    let (before, resizing) = (tally::before(address), watch::resizing(address));
    let is_shorter = HEAP.shrink_here(thread(), address, size);
    resizing.end(is_shorter);
    tally::resized(before, address);
    if is_shorter {
        watch::sampled(frame, ptr, size);
    }
    // Should the system refuse, it has more pages than it needs.
    Some(ptr)
}

/// Resizes an allocation without copying, if that can be done, from the place of one class, or none, to another, for whoever
/// called the function with this frame; of that size and alignment before, if the caller says so.
pub(crate) fn resize(
    frame: usize,
    ptr: *mut u8,
    layout: Option<(usize, usize)>,
    [old, new]: [Option<usize>; 2],
    size: usize,
    align: usize,
) -> Option<*mut u8> {
    if let Some(tracked) = tracked() {
        return resize_tracked(&Tracked { frame, ..tracked }, ptr, layout, size, align);
    }
    if old.is_some() != new.is_some() {
        return None;
    }
    if old.is_some() {
        // One that is sampled keeps the size that it had when it was.
        return (old == new).then_some(ptr);
    }
    let resizing = watch::resizing(ptr.addr());
    let resized = resize_large_here(ptr, size, align);
    resizing.end(resized.is_some());
    watch::sampled(frame, resized?, size);
    resized
}

/// The same where there are records.
#[cold]
#[unsafe(link_section = ".millpond_cold")]
fn resize_tracked(
    tracked: &Tracked<'_>,
    ptr: *mut u8,
    layout: Option<(usize, usize)>,
    size: usize,
    align: usize,
) -> Option<*mut u8> {
    let class = size_class::place_of(tracked.padded(size).max(1), align).map(size_class::at_place);
    if class.is_some() {
        // As in the default mode: what is sampled keeps the size that it had.
        return Some(tracked.resize(ptr.expose_provenance(), layout, size, align, class)?.as_ptr());
    }
    let resizing = watch::resizing(ptr.addr());
    let before = tally::before(ptr.addr());
    let resized = tracked.resize(ptr.expose_provenance(), layout, size, align, None);
    resizing.end(resized.is_some());
    let resized = resized?.as_ptr();
    tally::resized(before, resized.addr());
    watch::sampled(tracked.frame, resized, size);
    Some(resized)
}

/// Resizes what has whole pages and is to have some, where nothing is watched: without copying, if that can be done. Null: there is no
/// memory for it. `None`: no such allocation begins there.
#[cold]
#[inline(never)]
pub(crate) fn resize_large(ptr: *mut u8, size: usize, align: usize) -> Option<*mut u8> {
    let frame = os::frame();
    resize_large_here(ptr, size, align).or_else(|| {
        let old = HEAP.usable_size(ptr.expose_provenance())?;
        let target = large(frame, size, align, Fill::Any);
        if target.is_null() {
            // What lay behind it may have been free, and have been given back by now; and what is to be smaller has room where it is.
            let here = resize_large_here(ptr, size, align).or_else(|| shrink(frame, ptr, size));
            return Some(here.unwrap_or(target));
        }
        // SAFETY: two distinct allocations of at least that many bytes.
        unsafe { ptr::copy_nonoverlapping(ptr, target, old.min(size)) };
        free_large(ptr, old, align);
        Some(target)
    })
}

/// The same without copying, if that can be done.
fn resize_large_here(ptr: *mut u8, size: usize, align: usize) -> Option<*mut u8> {
    let before = tally::before(ptr.addr());
    let resized = HEAP.resize_large(thread(), ptr.expose_provenance(), size, align)?.as_ptr();
    tally::resized(before, resized.addr());
    Some(resized)
}
