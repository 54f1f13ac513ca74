//! A heap as the allocator of collections.
//!
//! What has no bytes takes no memory: a collection that shrinks to nothing may never give back what it got for that.

use super::Heap;
use allocator_api2::alloc::{AllocError, Allocator};
use core::alloc::Layout;
use core::ptr::NonNull;

// SAFETY: chunks are distinct, large enough and aligned, and stay until they are freed: no longer than the heap, which is
// borrowed. All copies of a reference are the same heap.
unsafe impl Allocator for &Heap {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(nothing(layout));
        }
        let at = self.alloc(layout).map_err(|_| AllocError)?;
        Ok(NonNull::slice_from_raw_parts(at, layout.size()))
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(nothing(layout));
        }
        let at = self.alloc_zeroed(layout).map_err(|_| AllocError)?;
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
        if old.align() == new.align() && old.size() > 0 && new.size() > 0 {
            // SAFETY: the caller's word.
            let at = unsafe { self.realloc(ptr, old, new.size()) }.map_err(|_| AllocError)?;
            return Ok(NonNull::slice_from_raw_parts(at, new.size()));
        }
        let at = Allocator::allocate(&self, new)?;
        // SAFETY: two allocations of at least that many bytes; the old one is the caller's, and freed once.
        unsafe {
            at.cast().copy_from_nonoverlapping(ptr, old.size().min(new.size()));
            Allocator::deallocate(&self, ptr, old);
        }
        Ok(at)
    }
}

/// An allocation of no bytes, of the alignment that is asked for.
fn nothing(layout: Layout) -> NonNull<[u8]> {
    // SAFETY: an alignment is not zero.
    let at = unsafe { NonNull::new_unchecked(core::ptr::without_provenance_mut(layout.align())) };
    NonNull::slice_from_raw_parts(at, 0)
}
