//! `realloc` of a heap: in place as far as the allocation's class or the pages behind it allow, else by a copy. Nothing is read
//! where nothing is live, as far as that can be seen.

use super::{AllocError, Heap, unempty};
use crate::heap::Tracked;
use crate::os;
use crate::report::Mode;
use crate::size_class;
use core::alloc::Layout;
use core::ptr::NonNull;

impl Heap {
    /// Resizes an allocation to `new_size` bytes with the same alignment, in place if there is room: then it keeps its ID and its
    /// record, but for the size. Otherwise its contents are copied to a new one. In the mode [`Mode::Hardened`] a chunk always moves,
    /// and gets another ID.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc); the allocation is then as it was. In the mode [`Mode::Fast`] none that is to be smaller: where there
    /// is no memory for another, it stays.
    ///
    /// # Panics
    /// If a closure of the builder's does: a soft limit's leaves the allocation as it was.
    ///
    /// # Safety
    /// As [`free`](Self::free); if it succeeds, only the returned address may be used. `new_size`, rounded up to the
    /// alignment, must not overflow an `isize`.
    #[inline(never)]
    pub unsafe fn realloc(&self, ptr: NonNull<u8>, layout: Layout, new_size: usize) -> Result<NonNull<u8>, AllocError> {
        let frame = os::frame();
        // SAFETY: the caller's word.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        if let Some(fallback) = self.inner().fallback.filter(|_| self.is_of_fallback(ptr)) {
            // SAFETY: the caller's word: it is the fallback's.
            let realloc = || unsafe { fallback.realloc(ptr.as_ptr(), unempty(layout), new.size().max(1)) };
            return self.resampled(frame, (ptr, new_size), || self.of_fallback(realloc()).ok()).ok_or(AllocError);
        }
        let here = || {
            let resized = self.resize_here(frame, ptr, Some((layout.size(), layout.align())), new);
            // Of what has moved, it was told before. What has shrunk has passed no limit, and there may be no way back for it.
            if resized == Ok(Some(ptr)) && new_size > layout.size() {
                let was = Some((new.size(), new.align()));
                self.mind_soft_limit(|| _ = self.resize_here(frame, ptr, was, layout));
            }
            resized
        };
        if let Some(resized) = here()? {
            return Ok(resized);
        }
        // SAFETY: the caller's allocation, of that many bytes; freed once.
        unsafe {
            let Ok(target) = self.copy(ptr, layout.size(), Some((layout.size(), layout.align())), new)? else {
                // Both do not fit; but what lay behind it may have been free, and have been given back by now. And what is to be
                // smaller has room where it is: whoever frees it asks the page map of which class it is, but for its record.
                return here()?.or_else(|| self.stay(ptr, layout.size(), new.size())).ok_or(AllocError);
            };
            self.free(ptr, layout);
            Ok(target)
        }
    }

    /// As C's `realloc` to at least one byte, of this heap, which has no fallback.
    ///
    /// # Safety
    /// As [`realloc`](Self::realloc).
    #[cfg(feature = "prefixed")]
    #[inline(never)]
    pub(crate) unsafe fn realloc_at(&self, ptr: NonNull<u8>, new: Layout) -> Result<NonNull<u8>, AllocError> {
        let frame = os::frame();
        let here = || self.resize_here(frame, ptr, None, new);
        if let Some(resized) = here()? {
            return Ok(resized);
        }
        let usable = self.usable_size(ptr.as_ptr()).ok_or(AllocError)?;
        // SAFETY: the caller's allocation, of that many bytes; freed once.
        unsafe {
            let Ok(target) = self.copy(ptr, usable, None, new)? else {
                // As in `realloc`.
                return here()?.ok_or(AllocError);
            };
            self.free_at(ptr);
            Ok(target)
        }
    }

    /// Has an allocation of so many bytes that is to be smaller stay where it is, without the pages that it has to itself and needs no
    /// more.
    #[cold]
    fn stay(&self, ptr: NonNull<u8>, old: usize, new: usize) -> Option<NonNull<u8>> {
        let inner = self.inner();
        if new > old || inner.mode != Mode::Fast {
            return None;
        }
        let (core, address) = (&inner.core, ptr.as_ptr().expose_provenance());
        if core.spans.page_map.noted(address) == 0 {
            // Should the system refuse, it has more than it needs.
            core.shrink_here(self.index(), address, new);
        }
        Some(ptr)
    }

    /// A further allocation with what is in one of so many bytes, of that size and alignment if the caller says so, as far as there
    /// is room. An outer error: another thread has freed that one before, which is told.
    ///
    /// # Safety
    /// So many bytes may be read there.
    unsafe fn copy(
        &self,
        ptr: NonNull<u8>,
        bytes: usize,
        was: Option<(usize, usize)>,
        new: Layout,
    ) -> Result<Result<NonNull<u8>, AllocError>, AllocError> {
        let tracked = self.tracked();
        let held = match self.inner().mode {
            Mode::Fast => None,
            _ => tracked.hold(ptr.as_ptr().expose_provenance(), was, false).map_err(|()| AllocError)?,
        };
        let Ok(target) = self.alloc(new) else { return Ok(Err(AllocError)) };
        // SAFETY: the caller's word, and an allocation of its own.
        unsafe { target.copy_from_nonoverlapping(ptr, bytes.min(new.size())) };
        drop(held);
        Ok(Ok(target))
    }

    /// Makes an allocation of the heap's own one of another layout without copying, for whoever called the function with this
    /// frame; of that size and alignment before, if the caller says so. `None`: it has to move.
    fn resize_here(
        &self,
        frame: usize,
        ptr: NonNull<u8>,
        was: Option<(usize, usize)>,
        new: Layout,
    ) -> Result<Option<NonNull<u8>>, AllocError> {
        let inner = self.inner();
        let address = ptr.as_ptr().expose_provenance();
        if inner.mode != Mode::Fast {
            return self.resize_tracked(frame, ptr, was, new);
        }
        let (note, class) = (inner.core.spans.page_map.noted(address), inner.class_of(new));
        // Before anything is read from there. Without a witness, what stays a chunk is not looked at.
        let is_looked_at = note == 0 || class.is_none() || inner.tracker.witness.hears();
        if is_looked_at && self.is_misused("realloc", ptr) {
            return Err(AllocError);
        }
        if note != 0 {
            return Ok((class == Some(size_class::at_place(note as usize - 1))).then_some(ptr));
        }
        if class.is_some() {
            return Ok(None);
        }
        // Whoever is told may panic, and then the caller has the old address.
        let mind = || self.mind_soft_limit(|| ());
        let resize = || inner.core.resize_large_after(self.index(), address, (new.size(), new.align()), &mind);
        Ok(self.resampled(frame, (ptr, new.size()), resize))
    }

    /// Resizes an allocation that has a record where it is, if that can be.
    #[cold]
    fn resize_tracked(
        &self,
        frame: usize,
        ptr: NonNull<u8>,
        was: Option<(usize, usize)>,
        new: Layout,
    ) -> Result<Option<NonNull<u8>>, AllocError> {
        let address = ptr.as_ptr().expose_provenance();
        let tracked = Tracked { frame, ..self.tracked() };
        // Nothing is read where nothing is live.
        if !tracked.can_be_resized(address, was, false) {
            return Err(AllocError);
        }
        let class = self.class_of_padded(&tracked, new);
        let resize = || tracked.resize(address, was, new.size(), new.align(), class);
        if class.is_some() {
            // As without records: a chunk that is sampled keeps the size that it had.
            return Ok(resize());
        }
        Ok(self.resampled(frame, (ptr, new.size()), resize))
    }
}
