//! A heap as the allocator of collections.

use super::Heap;
use allocator_api2::alloc::{AllocError, Allocator};
use core::alloc::Layout;
use core::ptr::NonNull;

// SAFETY: chunks are distinct, large enough and aligned, and stay until they are freed: no longer than the heap, which is
// borrowed. All copies of a reference are the same heap.
unsafe impl Allocator for &Heap {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let at = self.alloc(layout).map_err(|_| AllocError)?;
        Ok(NonNull::slice_from_raw_parts(at, layout.size()))
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let at = self.alloc_zeroed(layout).map_err(|_| AllocError)?;
        Ok(NonNull::slice_from_raw_parts(at, layout.size()))
    }

    #[inline]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's word.
        unsafe { self.free(ptr, layout) };
    }

    unsafe fn grow(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's word.
        unsafe { self.resize(ptr, old, new) }
    }

    unsafe fn grow_zeroed(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's word; the bytes behind the old ones are the allocation's.
        unsafe {
            let grown = self.resize(ptr, old, new)?;
            grown.cast::<u8>().add(old.size()).write_bytes(0, new.size() - old.size());
            Ok(grown)
        }
    }

    unsafe fn shrink(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's word.
        unsafe { self.resize(ptr, old, new) }
    }
}

impl Heap {
    /// # Safety
    /// As for `realloc`; both layouts are valid.
    unsafe fn resize(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if old.align() == new.align() {
            // SAFETY: the caller's word.
            let at = unsafe { self.realloc(ptr, old, new.size()) }.map_err(|_| AllocError)?;
            return Ok(NonNull::slice_from_raw_parts(at, new.size()));
        }
        let at = self.alloc(new).map_err(|_| AllocError)?;
        // SAFETY: two allocations of at least that many bytes; the old one is the caller's, and freed once.
        unsafe {
            at.copy_from_nonoverlapping(ptr, old.size().min(new.size()));
            self.free(ptr, old);
        }
        Ok(NonNull::slice_from_raw_parts(at, new.size()))
    }
}
