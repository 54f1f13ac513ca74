//! Records of ended allocations, where there is no memory for further ones: those of free places are taken from them, for
//! other places.
//!
//! A record stays with the place that it was made for, since a place comes back more often than not. Where a limit or the system
//! refuses memory for more, that would leave as many allocations as there are places that have had one. So before a request fails
//! for want of a record, all that is free is gathered, and the places of free chunks and free pages lose their records, each while
//! the chunk or the page is in hand: what is told of their last allocations is told until the records are used again.
//!
//! Invariant: as that of places: a record is named by one word at most.

use super::tracked::place_in;
use super::{Heap, Tracked};
use crate::config::PAGE_SHIFT;
use crate::log::{Count, tell};
use crate::modes::{Place, Tracker};
use crate::os;
use crate::report::{Mode, Trimmed};
use crate::size_class::Class;

impl Heap {
    /// Takes their records from the places of all free chunks in spans and all free pages. How many there were. Linear in what
    /// there is; other threads go on meanwhile.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn unbind_free(&self, tracker: &Tracker) -> usize {
        let _guest = self.guest();
        let mut count = 0;
        for slab in self.spans.slabs() {
            for span in slab.iter() {
                let outcome = span.visit_free(|chunk| {
                    count += usize::from(tracker.unbind(place_in(span.head.kind() as Class, chunk)));
                });
                if let Some(outcome) = outcome {
                    let class = span.head.kind() as Class;
                    self.pool(class, self.here()).settle(span, outcome);
                }
            }
        }
        self.spans.arenas.visit_free(|page| count += tracker.unbind_page(page << PAGE_SHIFT));
        count
    }
}

impl Tracked<'_> {
    /// Makes the record of an allocation for which there was no memory, if that can be had in this way.
    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn begin_again(&self, place: Place, size: usize, align: usize) -> Option<u64> {
        self.release_kept();
        self.heap.gather(self.cache);
        let count = self.heap.unbind_free(self.tracker);
        tell!(self.heap.voice(), Cache, "no memory for a record: {} taken from free places", Count(count, "record"));
        self.begin_once(place, size, align)
    }

    /// See [`Heap::trim`]; what is kept back goes as well.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn trim(&self) -> Trimmed {
        self.release_kept();
        if self.mode != Mode::Fast && os::address_limit().is_some() {
            // Free address space is about to go: its places would keep their records for nothing.
            self.heap.gather(self.cache);
            self.heap.unbind_free(self.tracker);
        }
        self.heap.trim(self.cache)
    }
}
