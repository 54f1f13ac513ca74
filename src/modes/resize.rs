//! Resizing: a live allocation that changes its size where it is, with its ID; or that is copied to where it moves, and freed then.
//!
//! | state of its record | who may move it on |
//! |---|---|
//! | live | who frees it, or who resizes it: by one exchange, so one of them |
//! | resized | who resizes it; where that thread is no more, as in the child of a fork, whoever frees or resizes it next |
//!
//! Whoever walks over records sees it as live throughout, with the size before or the one behind. Whoever frees it meanwhile
//! is told so: neither of the two would be right. Nobody waits.
//!
//! An allocation that grows has its memory before its size, one that shrinks has its size before its memory goes: so the
//! record never tells of more than there is, wherever the thread stops.
//!
//! Invariant, at rest: no record is in the state resized, but for those of threads that have vanished.

use super::{Ended, Misuse, Place, Record, Seen, Tracker};
use crate::os;

/// An allocation that the caller has in hand to resize it, and lets go of in whichever way that ends: a witness may panic.
#[derive(Debug)]
pub(crate) struct Resizing<'a> {
    record: &'a Record,
    /// What it was.
    pub(crate) was: Ended,
}

impl Tracker {
    /// Takes an allocation in hand that is to be resized where it is, of that size and alignment if the caller says so; for a
    /// thread by its number.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn resize(
        &self,
        place: Place,
        layout: Option<(usize, usize)>,
        thread: u32,
    ) -> Result<Resizing<'_>, Misuse> {
        if let Some(seen) = self.resized_at(place) {
            return Err(Misuse::Resized(seen));
        }
        let Some(record) = self.at(place) else { return Err(Misuse::Unknown) };
        let Some((was, align, _)) = record.live_at(place.address) else { return Err(Misuse::Unknown) };
        if layout.is_some_and(|layout| !was.has(align, layout)) || !record.begin_resize(was.id, thread) {
            return Err(Misuse::Unknown);
        }
        Ok(Resizing { record, was: Ended { size: record.size(), ..was } })
    }

    /// What is known of the allocation at a place that another thread is resizing. One whose thread has vanished is let go of.
    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn resized_at(&self, place: Place) -> Option<Seen> {
        let record = self.at(place)?;
        let seen = record.read().filter(|seen| seen.is_resized && seen.address == place.address)?;
        if os::thread_is_gone(seen.freed_by) {
            record.end_resize(seen.id);
            return None;
        }
        Some(seen)
    }
}

impl Resizing<'_> {
    /// Says what it is by now.
    pub(crate) fn to(&self, size: usize, align: usize) {
        self.record.resize(size, align);
    }
}

impl Drop for Resizing<'_> {
    /// Lets go of it, also where a witness panics.
    fn drop(&mut self) {
        self.record.end_resize(self.was.id);
    }
}
