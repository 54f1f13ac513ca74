//! The program's allocator as that of collections, and what every allocator of collections needs.
//!
//! What has no bytes takes no memory: a collection that shrinks to nothing may never give back what it got for that.
//!
//! Invariant: what has been given out for a layout is freed with that layout, or with none if it has no bytes.

use crate::global::Millpond;
use allocator_api2::alloc::{AllocError, Allocator};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

/// An allocation of no bytes, of the alignment that is asked for.
pub(crate) fn nothing(layout: Layout) -> NonNull<[u8]> {
    // SAFETY: an alignment is not zero.
    let at = unsafe { NonNull::new_unchecked(core::ptr::without_provenance_mut(layout.align())) };
    NonNull::slice_from_raw_parts(at, 0)
}

/// What has been given out for a layout.
pub(crate) fn given(at: *mut u8, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
    let at = NonNull::new(at).ok_or(AllocError)?;
    Ok(NonNull::slice_from_raw_parts(at, layout.size()))
}

/// Grows an allocation, and clears what lies behind the bytes that it had before.
///
/// # Safety
/// As for `Allocator::grow_zeroed`.
pub(crate) unsafe fn grow_zeroed(
    allocator: &impl Allocator,
    ptr: NonNull<u8>,
    old: Layout,
    new: Layout,
) -> Result<NonNull<[u8]>, AllocError> {
    // SAFETY: the caller's word; what has grown has at least as many bytes.
    unsafe {
        let grown = allocator.grow(ptr, old, new)?;
        grown.cast::<u8>().add(old.size()).write_bytes(0, grown.len() - old.size());
        Ok(grown)
    }
}

/// Resizes an allocation by `realloc` where both layouts have bytes and the same alignment, else by a copy.
///
/// # Safety
/// As for `Allocator::grow` and `shrink`.
pub(crate) unsafe fn resize(
    allocator: &impl Allocator,
    ptr: NonNull<u8>,
    (old, new): (Layout, Layout),
    realloc: impl FnOnce() -> *mut u8,
) -> Result<NonNull<[u8]>, AllocError> {
    if old.align() == new.align() && old.size() > 0 && new.size() > 0 {
        return given(realloc(), new);
    }
    let at = allocator.allocate(new)?;
    // SAFETY: two allocations of at least that many bytes; the old one is the caller's, and freed once.
    unsafe {
        at.cast().copy_from_nonoverlapping(ptr, old.size().min(new.size()));
        allocator.deallocate(ptr, old);
    }
    Ok(at)
}

// SAFETY: chunks are distinct, large enough and aligned, and stay until they are freed. All values are the same allocator.
unsafe impl Allocator for Millpond {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(nothing(layout));
        }
        // SAFETY: not of size zero.
        given(unsafe { self.alloc(layout) }, layout)
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(nothing(layout));
        }
        // SAFETY: not of size zero.
        given(unsafe { self.alloc_zeroed(layout) }, layout)
    }

    #[inline]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        if layout.size() > 0 {
            // SAFETY: the caller's word.
            unsafe { self.dealloc(ptr.as_ptr(), layout) };
        }
    }

    unsafe fn grow(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's word; where it is a `realloc`, both have bytes and the same alignment.
        unsafe { resize(self, ptr, (old, new), || self.realloc(ptr.as_ptr(), old, new.size())) }
    }

    unsafe fn grow_zeroed(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's word.
        unsafe { grow_zeroed(self, ptr, old, new) }
    }

    unsafe fn shrink(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's word.
        unsafe { self.grow(ptr, old, new) }
    }
}
