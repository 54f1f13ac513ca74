//! Modes: what is known of each allocation, and what is noticed of bad use, where that was asked for.
//!
//! A *tracker* stands beside a heap. Each allocation has a record with an ID that was never used before, found by ID and by
//! address; each free must find it, and exactly one does. The record stays with the place at which the allocation began, as long
//! as there is memory for others, and says that it is freed until another begins there: so a second free can say who was first.
//! Nothing of it lies in the program's memory, but for what `hardened` writes behind an allocation.
//!
//! | step | atomic read-modify-writes |
//! |---|---|
//! | begin: where the place has its record, the thread its lot of IDs | none: the chunk is the caller's, and so is its record |
//! | end | one exchange, by which exactly one frees |
//! | resize in place | two, by which it is one thread's meanwhile: see `resize` |
//! | what is freed is kept back (hardened) | two: a place in the queue, an exchange with what is there |
//!
//! Invariant, at rest: each live record is named by the word of its address, and by the slot of its ID.

mod ids;
mod index;
mod places;
mod quarantine;
mod recent;
mod record;
mod resize;
#[cfg(all(test, not(millpond_loom)))]
mod tests;
mod witness;

pub(crate) use ids::Ids;
pub(crate) use index::Index;
pub(crate) use places::{Place, Places};
pub(crate) use quarantine::{JUNK, Quarantine};
pub(crate) use recent::InHand;
pub(crate) use record::{Birth, Ended, Of, Record, Seen};
pub(crate) use resize::Resizing;
pub(crate) use witness::{Hear, Witness};

use crate::config::{CALLERS, GUARDED};
use crate::os;
use crate::slab::Slab;
use crate::sync::{AtomicU32, AtomicU64, Counter, Fault, Ordering, planted};
use crate::tagged::NONE;
use crate::thread_cache::Lot;
use recent::Recent;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Tracker {
    records: Slab<Record>,
    places: Places,
    ids: Ids,
    recent: Recent,
    /// Callers that a record keeps.
    depth: AtomicU32,
    /// One allocation in so many is guarded; none if zero. And how many are.
    guard: AtomicU32,
    guarded: AtomicU32,
    pub(crate) quarantine: Quarantine,
    pub(crate) witness: Witness,
    /// The number of its heap, by which marks are told apart; zero: the program's.
    heap: Counter,
    /// Whether there may be allocations without a record.
    late: AtomicU32,
    /// Whether a free may say any size.
    any_size: AtomicU32,
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
    /// Another thread is resizing it, as the record says.
    Resized(Seen),
    /// Nothing is known of an allocation there.
    Unknown,
}

impl Tracker {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self {
                records: Slab::new(),
                places: Places::new(),
                ids: Ids::new(),
                recent: Recent::new(),
                depth: AtomicU32::new(0),
                guard: AtomicU32::new(0),
                guarded: AtomicU32::new(0),
                quarantine: Quarantine::new(),
                witness: Witness::new(),
                heap: Counter::new(),
                late: AtomicU32::new(0),
                any_size: AtomicU32::new(0),
                origin_ms: AtomicU64::new(0),
            }
        }
    }

    /// Says which heap's it is; before there is a mark.
    pub(crate) fn stand_beside(&self, heap: u64) {
        self.heap.set(heap);
    }

    /// The number of its heap.
    pub(crate) fn heap(&self) -> u64 {
        self.heap.get()
    }

    /// Has each record keep up to so many callers; before the first is made.
    pub(crate) fn keep_callers(&self, most: usize) {
        let most = most.min(CALLERS);
        self.records.shape(record::words(most));
        self.depth.store(most as u32, Ordering::Relaxed);
    }

    /// How many callers a record keeps.
    #[inline]
    pub(crate) fn depth(&self) -> usize {
        self.depth.load(Ordering::Relaxed) as usize
    }

    /// Says that there may be allocations without a record, before the first is made.
    pub(crate) fn begin_late(&self) {
        self.late.store(1, Ordering::Relaxed);
    }

    /// Whether each live allocation has a record.
    #[inline]
    pub(crate) fn knows_all(&self) -> bool {
        self.late.load(Ordering::Relaxed) == 0
    }

    /// Has a free say whatever size and alignment it likes; before the first.
    pub(crate) fn take_any_size(&self) {
        self.any_size.store(1, Ordering::Relaxed);
    }

    /// Whether the size that a free says is to be the allocation's own.
    #[inline]
    pub(crate) fn heeds_sizes(&self) -> bool {
        self.any_size.load(Ordering::Relaxed) == 0
    }

    /// Has one allocation in `one_in` guarded, where the mode guards; none if zero.
    pub(crate) fn guard(&self, one_in: u32) {
        self.guard.store(one_in, Ordering::Relaxed);
    }

    /// Whether the owner of a lot is to guard its next allocation.
    #[inline]
    pub(crate) fn is_sampled(&self, lot: &Lot) -> bool {
        match self.guard.load(Ordering::Relaxed) {
            0 => false,
            one_in => (lot.peek().0 + 1) % one_in as u64 == 0,
        }
    }

    /// Counts one more guarded allocation. False: there are as many as there may be, or a few more.
    pub(crate) fn guard_begins(&self) -> bool {
        if self.guarded.load(Ordering::Relaxed) >= GUARDED {
            return false;
        }
        self.guarded.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Counts one less.
    pub(crate) fn guard_ends(&self) {
        if planted(Fault::GuardStore) {
            return self.guarded.store(self.guarded.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
        }
        self.guarded.fetch_sub(1, Ordering::Relaxed);
    }

    /// Makes the record of an allocation that the caller has just taken and nobody knows yet, with the next ID of its lot,
    /// which it returns; `None` if there is no memory for it: then nothing has changed.
    #[unsafe(link_section = ".millpond_cold")]
    #[inline]
    pub(crate) fn begin(&self, lot: &Lot, place: Place, birth: Birth<'_>) -> Option<u64> {
        let word = self.places.make(place)?;
        // Relaxed: whoever has the chunk has the word, by the same hand-over.
        let known = word.load(Ordering::Relaxed);
        let record = if known == NONE { self.records.take()? } else { self.records.get(known) };
        self.end_left_over(record);
        let Some((id, block)) = self.ids.issue(lot, record.index()) else {
            if known == NONE {
                self.records.give(record.index());
            }
            return None;
        };
        record.begin(id, block, place.address, birth, self.depth());
        if known == NONE {
            // ORDERING: Release pairs with the Acquire in `at`: the record is made.
            word.store(
                record.index(),
                if planted(Fault::PlaceRelaxed) { Ordering::Relaxed } else { Ordering::Release },
            );
            self.places.count(place);
        }
        if id == 1 {
            self.origin_ms.store(birth.now, Ordering::Relaxed);
        }
        Some(id)
    }

    /// Takes its record from a place that is in the caller's hand and has no allocation, for another place. Whether it had one.
    pub(crate) fn unbind(&self, place: Place) -> bool {
        self.places.get(place).is_some_and(|word| self.unbind_word(place.word, word))
    }

    /// The same for all places of a page that is the caller's. How many had one. Linear in the places of a page.
    pub(crate) fn unbind_page(&self, address: usize) -> usize {
        let words = self.places.of_page(address).iter().enumerate();
        words.map(|(at, word)| usize::from(self.unbind_word(at, word))).sum()
    }

    #[unsafe(link_section = ".millpond_cold")]
    fn unbind_word(&self, at: usize, word: &AtomicU32) -> bool {
        // Relaxed, as in `begin`.
        let known = word.load(Ordering::Relaxed);
        if known == NONE {
            return false;
        }
        let record = self.records.get(known);
        self.end_left_over(record);
        // Relaxed: the next owner of the place sees it by the hand-over; who looks at the place meanwhile finds a record that is
        // of another address.
        word.store(NONE, Ordering::Relaxed);
        self.places.uncount(at);
        self.records.give(known);
        true
    }

    /// Ends what a vanished thread has left live of a record that is in the caller's hand: once, whatever becomes of the record, since
    /// the ID's slot may be another's then.
    #[inline]
    fn end_left_over(&self, record: &Record) {
        if let Some((id, block)) = record.left_over() {
            self.clear_left_over(record, id, block);
        }
    }

    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn clear_left_over(&self, record: &Record, id: u64, block: u32) {
        record.clear();
        self.ids.end(id, block);
    }

    /// Leaves a lot whose owner will use it no more.
    pub(crate) fn leave(&self, lot: &Lot) {
        self.ids.leave(lot);
    }

    /// The record of a place, if it has one, which the processor is to fetch.
    #[inline]
    pub(crate) fn fetch(&self, place: Place) -> Option<&Record> {
        self.at(place).inspect(|record| os::prefetch_write(core::ptr::from_ref(*record).addr()))
    }

    /// Ends the record of an allocation that is being freed, with the size and alignment that the caller says it has, if it
    /// says so; the size may be rounded up to the alignment, beyond the grain. The place's record is known, if it has one. Afterwards the caller, and nobody else, may
    /// free it; the record is the caller's to [`remember`](Self::remember), as long as the chunk is.
    #[unsafe(link_section = ".millpond_cold")]
    #[inline(always)]
    pub(crate) fn end_of(
        &self,
        record: Option<&Record>,
        place: Place,
        layout: Option<(usize, usize)>,
        thread: u32,
        now: u64,
    ) -> Result<Ended, Misuse> {
        // What went wrong is found out by those who look again.
        match record.and_then(|record| self.try_end(record, place, layout, thread, now)) {
            Some(ended) => Ok(ended),
            None => self.end_again(place, layout, thread, now),
        }
    }

    /// The same, of a place whose record nobody has asked for yet.
    #[allow(dead_code, reason = "for tests and models")]
    pub(crate) fn end(
        &self,
        place: Place,
        layout: Option<(usize, usize)>,
        thread: u32,
        now: u64,
    ) -> Result<Ended, Misuse> {
        self.end_of(self.fetch(place), place, layout, thread, now)
    }

    /// The same; `None` if it cannot be.
    #[inline(always)]
    fn try_end(
        &self,
        record: &Record,
        place: Place,
        layout: Option<(usize, usize)>,
        thread: u32,
        now: u64,
    ) -> Option<Ended> {
        let (ended, align, block) = record.live_at(place.address)?;
        if layout.is_some_and(|layout| !ended.has(align, layout)) || !record.end(ended.id, thread, now) {
            return None;
        }
        self.ids.end(ended.id, block);
        // The ID outlives a resize: it may be another size by now.
        let size = if planted(Fault::SizeEarly) { ended.size } else { record.size() };
        Some(Ended { size, ..ended })
    }

    /// The same once more, where it could not be done: whatever went before, somebody else may have freed it just now, or have
    /// ended its resize, or have vanished in one.
    #[cold]
    #[unsafe(link_section = ".millpond_cold")]
    #[inline(never)]
    fn end_again(&self, place: Place, layout: Option<(usize, usize)>, thread: u32, now: u64) -> Result<Ended, Misuse> {
        while let Some(record) = self.at(place) {
            if let Some((ended, align, _)) = record.live_at(place.address) {
                if layout.is_some_and(|layout| !ended.has(align, layout)) {
                    return Err(self.find(place).map_or(Misuse::Unknown, Misuse::Layout));
                }
                if let Some(ended) = self.try_end(record, place, layout, thread, now) {
                    return Ok(ended);
                }
            } else if let Some(seen) = self.resized_at(place) {
                return Err(Misuse::Resized(seen));
            } else if !self.find(place).is_some_and(|seen| seen.is_live) {
                break;
            }
        }
        let freed = self.find(place).filter(|seen| !seen.is_live).or_else(|| self.last_at(place.address));
        Err(freed.map_or(Misuse::Unknown, Misuse::Double))
    }

    /// Forgets a free at a place that another allocator has given out since.
    pub(crate) fn forget(&self, place: Place) {
        if let Some(record) = self.at(place) {
            record.forget(place.address);
        }
    }

    /// The last free at an address whose page has other chunks, or none, since. Linear in the records: for a last word.
    fn last_at(&self, address: usize) -> Option<Seen> {
        let seen = self.records.iter().filter_map(Record::read);
        seen.filter(|seen| seen.address == address && !seen.is_live).max_by_key(|seen| seen.freed_ms)
    }

    /// What the clock said at the first allocation.
    pub(crate) fn origin_ms(&self) -> u64 {
        self.origin_ms.load(Ordering::Relaxed)
    }

    /// The record of a place.
    #[inline]
    fn at(&self, place: Place) -> Option<&Record> {
        // ORDERING: Acquire pairs with the Release in `begin`.
        match self.places.get(place)?.load(Ordering::Acquire) {
            NONE => None,
            index => Some(self.records.get(index)),
        }
    }

    /// What is known of an address at which an allocation begins, or began not long ago. O(1).
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn find(&self, place: Place) -> Option<Seen> {
        self.at(place)?.read().filter(|seen| seen.address == place.address)
    }

    /// What is known of the allocation that has the word of a place, wherever in the page it begins.
    pub(crate) fn find_beside(&self, place: Place) -> Option<Seen> {
        self.at(place)?.read()
    }

    /// The bytes that were asked for at an address where a live allocation begins. O(1).
    pub(crate) fn usable_size(&self, place: Place) -> Option<usize> {
        self.find(place).filter(|seen| seen.is_live).map(|seen| seen.size)
    }

    /// The live allocation with this ID. O(1).
    pub(crate) fn find_id(&self, id: u64) -> Option<Seen> {
        self.records.get(self.ids.find(id)?).read().filter(|seen| seen.id == id && seen.is_live)
    }

    /// Those who called for an allocation, or freed it, innermost first: how many were stored.
    pub(crate) fn callers(&self, seen: &Seen, of: Of, out: &mut [usize]) -> usize {
        self.records.get(seen.index).callers(seen.id, of, self.depth(), out)
    }

    /// Keeps those who freed an allocation that the caller has just ended.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn keep_freed(&self, place: Place, callers: &[usize]) {
        if let Some(record) = self.at(place) {
            record.keep(Of::Free, callers, self.depth());
        }
    }

    /// Has the processor fetch the record of a place at which an allocation will begin soon.
    #[inline]
    pub(crate) fn prefetch(&self, place: Place) {
        // Relaxed: only an address to prefetch.
        let index = self.places.get(place).map_or(NONE, |word| word.load(Ordering::Relaxed));
        if index != NONE {
            os::prefetch_write(core::ptr::from_ref(self.records.get(index)).addr());
        }
    }

    /// An ID such that what is allocated from now on has a higher one, and all else has not.
    pub(crate) fn mark(&self) -> u64 {
        self.ids.mark()
    }

    /// Calls `visit` for each live allocation: exact for those that live throughout.
    pub(crate) fn walk(&self, mut visit: impl FnMut(Seen)) {
        let seen = self.records.iter().filter_map(Record::read);
        seen.filter(|seen| seen.is_live).for_each(&mut visit);
    }

    /// Calls `visit` with the memory of records, which have the addresses of allocations in them.
    pub(crate) fn walk_memory(&self, visit: &mut dyn FnMut(core::ops::Range<usize>)) {
        self.records.walk_memory(visit);
    }

    /// Bytes of records and indices.
    pub(crate) fn bytes(&self) -> usize {
        self.records.bytes() + self.places.bytes() + self.ids.bytes()
    }

    /// Gives all tables back, at the heap's end.
    ///
    /// # Safety
    /// The tracker is not used any more.
    pub(crate) unsafe fn dispose(&self) {
        // SAFETY: the caller's word.
        unsafe {
            self.records.dispose();
            self.places.dispose();
            self.ids.dispose();
        }
    }
}
