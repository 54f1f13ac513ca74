//! Modes: what is known of each allocation, and what is noticed of bad use, where that was asked for.
//!
//! A *tracker* stands beside a heap. Each allocation gets a record with an ID that was never used before, found by ID and by
//! address; each free must find it, and exactly one does. Records of the last frees are remembered, so that a second free of
//! the same address can say who was first. Nothing of it lies in the program's memory, but for what `hardened` writes behind
//! an allocation.
//!
//! Invariant, at rest: each live record has one entry in each index; a freed one is in the queue, and has an entry by address
//! unless another allocation has begun there.

mod index;
mod record;
#[cfg(all(test, not(millpond_loom)))]
mod tests;

pub(crate) use index::Index;
pub(crate) use record::{Birth, Record, Seen};

use crate::config::{GRAIN, RECENT};
use crate::slab::Slab;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::tagged::{self, NONE};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Tracker {
    records: Slab<Record>,
    by_address: Index,
    by_id: Index,
    /// The last ID.
    last: AtomicU64,
    /// Records of the last frees, oldest next.
    recent: [AtomicU32; RECENT],
    next: AtomicU64,
    /// What the clock said at the first allocation.
    origin_ms: AtomicU64,
}

/// Why something cannot be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misuse {
    /// It has been freed, as the record says.
    Double(Seen),
    /// It was allocated with another size or alignment.
    Layout(Seen),
    /// Nothing is known of an allocation there.
    Unknown,
}

impl Tracker {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self {
                records: Slab::new(),
                by_address: Index::new(),
                by_id: Index::new(),
                last: AtomicU64::new(0),
                recent: array_of![AtomicU32::new(NONE); RECENT],
                next: AtomicU64::new(0),
                origin_ms: AtomicU64::new(0),
            }
        }
    }

    /// Makes the record of an allocation that the caller has just taken and nobody knows yet. Returns its ID; `None` if there
    /// is no memory for it: then nothing has changed.
    pub(crate) fn begin(&self, address: usize, birth: Birth) -> Option<u64> {
        let record = self.records.take()?;
        self.forget(address);
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        if id == 1 {
            self.origin_ms.store(birth.now, Ordering::Relaxed);
        }
        record.begin(id, address, birth);
        if !self.by_id.insert(id, record.index()) {
            record.clear();
            self.records.give(record.index());
            return None;
        }
        if !self.by_address.insert(address as u64, record.index()) {
            self.by_id.remove(id, record.index());
            record.clear();
            self.records.give(record.index());
            return None;
        }
        Some(id)
    }

    /// Forgets what was freed at an address that the caller has just been given, by whomever: it is not to be taken for that.
    pub(crate) fn forget(&self, address: usize) {
        while let Some(old) = self.at(address) {
            self.by_address.remove(address as u64, old.index());
            old.forget(address);
        }
    }

    /// Ends the record of an allocation that is being freed, with the size and alignment that the caller says it has, if it
    /// says so; the size may be rounded up to the alignment, beyond the grain. Afterwards the caller, and nobody else, may
    /// free it; the record is the caller's to [`remember`](Self::remember).
    pub(crate) fn end(
        &self,
        address: usize,
        layout: Option<(usize, usize)>,
        thread: u32,
        now: u64,
    ) -> Result<Seen, Misuse> {
        let Some(record) = self.at(address) else { return Err(Misuse::Unknown) };
        let Some(seen) = record.read().filter(|seen| seen.address == address) else { return Err(Misuse::Unknown) };
        let is = |size: usize| {
            size == seen.size || (seen.align > GRAIN && Some(size) == seen.size.checked_next_multiple_of(seen.align))
        };
        if seen.is_live && layout.is_some_and(|(size, align)| !is(size) || align != seen.align) {
            return Err(Misuse::Layout(seen));
        }
        if !record.end(seen.id, thread, now) {
            // Somebody else has, be it just now.
            return Err(record.read().filter(|seen| !seen.is_live).map_or(Misuse::Unknown, Misuse::Double));
        }
        self.by_id.remove(seen.id, seen.index);
        Ok(seen)
    }

    /// Puts a freed record among the recent ones and returns the one that is forgotten for it, if it has one in hand.
    pub(crate) fn remember(&self, index: tagged::Index) -> Option<Seen> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) as usize % RECENT;
        // ORDERING: AcqRel: what was there is the caller's from here on, and what the caller did to its own is published.
        match self.recent[at].swap(index, Ordering::AcqRel) {
            NONE => None,
            old => self.records.get(old).read(),
        }
    }

    /// Gives a record back that nobody needs any more.
    pub(crate) fn retire(&self, seen: &Seen) {
        let record = self.records.get(seen.index);
        let address = record.address();
        if address != 0 {
            self.by_address.remove(address as u64, seen.index);
        }
        record.clear();
        self.records.give(seen.index);
    }

    /// Forgets all recent frees, after `last` was called with each.
    pub(crate) fn forget_all(&self, mut last: impl FnMut(Seen)) {
        for slot in &self.recent {
            // ORDERING: as in `remember`.
            let old = slot.swap(NONE, Ordering::AcqRel);
            if let Some(seen) = (old != NONE).then(|| self.records.get(old).read()).flatten() {
                last(seen);
                self.retire(&seen);
            }
        }
    }

    /// Calls `visit` with each recent free: a moment's picture.
    pub(crate) fn walk_recent(&self, visit: impl FnMut(Seen)) {
        // ORDERING: Acquire pairs with the exchange in `remember`.
        let recent = self.recent.iter().map(|slot| slot.load(Ordering::Acquire)).filter(|index| *index != NONE);
        recent.filter_map(|index| self.records.get(index).read()).for_each(visit);
    }

    /// What the clock said at the first allocation.
    pub(crate) fn origin_ms(&self) -> u64 {
        self.origin_ms.load(Ordering::Relaxed)
    }

    fn at(&self, address: usize) -> Option<&Record> {
        let index = self.by_address.find(address as u64, |index| self.records.get(index).address() == address)?;
        Some(self.records.get(index))
    }

    /// What is known of an address at which an allocation begins, or began not long ago. O(1).
    pub(crate) fn find(&self, address: usize) -> Option<Seen> {
        self.at(address)?.read().filter(|seen| seen.address == address)
    }

    /// The bytes that were asked for at an address where a live allocation begins. O(1).
    pub(crate) fn usable_size(&self, address: usize) -> Option<usize> {
        self.find(address).filter(|seen| seen.is_live).map(|seen| seen.size)
    }

    /// The live allocation with this ID. O(1).
    pub(crate) fn find_id(&self, id: u64) -> Option<Seen> {
        let has = |index| self.records.get(index).read().is_some_and(|seen| seen.id == id);
        self.records.get(self.by_id.find(id, has)?).read().filter(|seen| seen.id == id && seen.is_live)
    }

    /// The last ID that was given out.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// Calls `visit` for each live allocation: exact for those that live throughout.
    pub(crate) fn walk(&self, mut visit: impl FnMut(Seen)) {
        let seen = (1..=self.records.made()).filter_map(|index| self.records.get(index).read());
        seen.filter(|seen| seen.is_live).for_each(&mut visit);
    }

    /// Bytes of records and indices.
    pub(crate) fn bytes(&self) -> usize {
        self.records.bytes() + self.by_address.bytes() + self.by_id.bytes()
    }

    /// Gives all tables back, at the heap's end.
    ///
    /// # Safety
    /// The tracker is not used any more.
    pub(crate) unsafe fn dispose(&self) {
        // SAFETY: the caller's word.
        unsafe {
            self.records.dispose();
            self.by_address.dispose();
            self.by_id.dispose();
        }
    }
}
