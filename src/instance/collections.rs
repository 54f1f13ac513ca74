//! A heap as the allocator of collections, which borrow it or have it.

use super::Heap;
use crate::collections::{grow_zeroed, nothing, resize};
use allocator_api2::alloc::{AllocError, Allocator};
use core::alloc::Layout;
use core::ptr::{self, NonNull};

impl From<super::AllocError> for AllocError {
    fn from(_: super::AllocError) -> Self {
        Self
    }
}

// SAFETY: chunks are distinct, large enough and aligned, and stay until they are freed, or the heap is dropped, wherever that is
// moved. A heap has no copies.
unsafe impl Allocator for Heap {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(nothing(layout));
        }
        let at = self.alloc(layout)?;
        Ok(NonNull::slice_from_raw_parts(at, layout.size()))
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(nothing(layout));
        }
        let at = self.alloc_zeroed(layout)?;
        Ok(NonNull::slice_from_raw_parts(at, layout.size()))
    }

    #[inline]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        if layout.size() > 0 {
            // SAFETY: the caller's word.
            unsafe { self.free(ptr, layout) };
        }
    }

    unsafe fn grow(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's word; where it is a `realloc`, both have bytes and the same alignment.
        let realloc = || unsafe { self.realloc(ptr, old, new.size()).map_or(ptr::null_mut(), NonNull::as_ptr) };
        // SAFETY: the caller's word.
        unsafe { resize(self, ptr, (old, new), realloc) }
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
