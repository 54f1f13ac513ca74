//! Resizing where it is, where there are records: no copy, and the allocation keeps its ID. What has to move is held the same
//! way while it is copied.
//!
//! What has pages of its own takes further ones or sheds some, as in the default mode; a chunk may be of another size as far
//! as its class serves that. In the mode `hardened` chunks move all the same, so that what is written to where they were is
//! noticed; large ones move where no pages can be had.
//!
//! | | order |
//! |---|---|
//! | grows | pages, canary, record |
//! | shrinks | canary, record, pages |
//!
//! Both canaries say the same where they overlap, since each byte follows from its address; so whichever size the record
//! tells, where the thread stops for ever, has its canary behind it.
//!
//! Invariant: an allocation's pages are at least as long as its record says, with its canary.

use super::Tracked;
use super::edges::set_canary;
use crate::modes::{Misuse, Resizing};
use crate::os;
use crate::report::Mode;
use crate::size_class::{Class, at_place};
use crate::thread_cache::ThreadCache;
use core::ptr::{NonNull, with_exposed_provenance_mut};

impl Tracked<'_> {
    /// Makes an allocation one of `size` bytes aligned to `align`, which this class serves, or whole pages; where it is, or, if
    /// it is huge, not at all. Of that size and alignment before, if the caller says so. `None`: all is as it was.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn resize(
        &self,
        address: usize,
        layout: Option<(usize, usize)>,
        size: usize,
        align: usize,
        class: Option<Class>,
    ) -> Option<NonNull<u8>> {
        let note = self.heap.spans.page_map.noted(address);
        let fits = match (note, class) {
            (0, None) => !self.is_guarded(address),
            (0, Some(_)) | (_, None) => false,
            (note, Some(class)) => self.mode == Mode::Tracked && at_place(note as usize - 1) == class,
        };
        if !fits || address & (align - 1) != 0 {
            return None;
        }
        let thread = self.cache.map_or_else(os::thread_id, ThreadCache::thread);
        // What it is instead is told by those who free it.
        let held = self.tracker.resize(self.heap.place(address), layout, thread).ok()?;
        let resized = match class {
            Some(_) => {
                held.to(size, align);
                true
            }
            None => self.resize_pages(&held, size, align),
        };
        drop(held);
        if resized { NonNull::new(with_exposed_provenance_mut(address)) } else { None }
    }

    /// Takes in hand what has to move until its contents are copied: a free meanwhile is told of, and leaves it there to be read.
    /// `Ok(None)`: it has no record. `Err`: nothing is to be read there any more, which is told.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn hold(
        &self,
        address: usize,
        layout: Option<(usize, usize)>,
        late: bool,
    ) -> Result<Option<Resizing<'_>>, ()> {
        let thread = self.cache.map_or_else(os::thread_id, ThreadCache::thread);
        let place = self.heap.place(address);
        loop {
            match self.tracker.resize(place, layout, thread) {
                Ok(held) => return Ok(Some(held)),
                Err(_) if !self.can_be_resized(address, layout, late) => return Err(()),
                Err(_) if self.tracker.find(place).is_none() => return Ok(None),
                // Another thread that resized it has let go meanwhile.
                Err(_) => {}
            }
        }
    }

    /// False: it has to move.
    #[unsafe(link_section = ".millpond_cold")]
    fn resize_pages(&self, held: &Resizing<'_>, size: usize, align: usize) -> bool {
        let (address, padded) = (held.was.address, self.padded(size));
        let grows = size > held.was.size;
        if !self.heap.is_resized_here(address, padded) {
            return false;
        }
        if grows && !self.heap.resize_here(self.index(), address, padded) {
            return false;
        }
        // What has to move is looked at when it is freed.
        if self.mode == Mode::Hardened {
            self.check_edges(&held.was, None);
        }
        if padded > size {
            // SAFETY: bytes of the allocation's own pages, behind what the program asked for.
            unsafe { set_canary(address, size) };
        }
        held.to(size, align);
        if !grows {
            // Should the system refuse, it has more pages than it needs.
            self.heap.resize_here(self.index(), address, padded);
        }
        true
    }

    /// Whether another thread is resizing an allocation that the caller is to resize: tells so, and ends the process but for a
    /// witness.
    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn is_being_resized(&self, address: usize) -> bool {
        let seen = self.tracker.resized_at(self.heap.place(address));
        if let Some(seen) = seen {
            self.accuse("realloc", address, None, Misuse::Resized(seen));
        }
        seen.is_some()
    }
}
