//! Modes: what is known of each allocation, and what is noticed of bad use, where that was asked for.
//!
//! A *tracker* stands beside a heap. Each allocation has a record with an ID that was never used before, found by ID and by
//! address; each free must find it, and exactly one does. The record stays with the place at which the allocation began and
//! says that it is freed until another begins there: so a second free can say who was first. Nothing of it lies in the
//! program's memory, but for what `hardened` writes behind an allocation.
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
mod record;
mod resize;
#[cfg(all(test, not(millpond_loom)))]
mod tests;
mod witness;

pub(crate) use ids::Ids;
pub(crate) use index::Index;
pub(crate) use places::{Place, Places};
pub(crate) use quarantine::{JUNK, Quarantine};
pub(crate) use record::{Birth, Ended, Of, Record, Seen};
pub(crate) use resize::Resizing;
pub(crate) use witness::{Hear, Witness};

use crate::config::{ADDRESS_BITS, CALLERS, GUARDED, KEPT_FIRSTS, KEPT_MAX, KEPT_RUNS, RECENT};
use crate::os;
use crate::slab::Slab;
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Fault, Ordering, planted};
use crate::tagged::NONE;
use crate::thread_cache::Lot;

/// How many frees before it is looked at something is prefetched.
const AHEAD: usize = 8;

/// Address and size of what is kept back, in a word.
const fn pack(address: usize, size: usize) -> u64 {
    if size < LONG { (size as u64) << ADDRESS_BITS | address as u64 } else { address as u64 }
}

const fn unpack(word: u64) -> (usize, usize) {
    ((word & ((1 << ADDRESS_BITS) - 1)) as usize, (word >> ADDRESS_BITS) as usize)
}

/// From here on a size does not fit beside an address, and is zero there.
const LONG: usize = if ADDRESS_BITS > 32 { 1 << (u64::BITS - ADDRESS_BITS) } else { u32::MAX as usize };

const _: () = assert!(KEPT_MAX < LONG);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Tracker {
    records: Slab<Record>,
    places: Places,
    ids: Ids,
    /// The last frees that are kept back, oldest next: address and size.
    recent: [AtomicU64; RECENT],
    next: AtomicU64,
    /// The same of large and guarded ones, which keep their addresses alone: that is all.
    runs: [AtomicUsize; KEPT_RUNS],
    next_run: AtomicU64,
    /// The same of first chunks of spans, which nobody had; and how many came here so far.
    firsts: [AtomicUsize; KEPT_FIRSTS],
    next_first: AtomicU64,
    /// Callers that a record keeps.
    depth: AtomicU32,
    /// One allocation in so many is guarded; none if zero. And how many are.
    guard: AtomicU32,
    guarded: AtomicU32,
    /// Up to where the oldest have been forgotten before their turn.
    gone: AtomicU64,
    pub(crate) quarantine: Quarantine,
    pub(crate) witness: Witness,
    /// Whether there may be allocations without a record.
    late: AtomicU32,
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
                recent: array_of![AtomicU64::new(0); RECENT],
                next: AtomicU64::new(0),
                runs: array_of![AtomicUsize::new(0); KEPT_RUNS],
                next_run: AtomicU64::new(0),
                firsts: array_of![AtomicUsize::new(0); KEPT_FIRSTS],
                next_first: AtomicU64::new(0),
                depth: AtomicU32::new(0),
                guard: AtomicU32::new(0),
                guarded: AtomicU32::new(0),
                gone: AtomicU64::new(0),
                quarantine: Quarantine::new(),
                witness: Witness::new(),
                late: AtomicU32::new(0),
                origin_ms: AtomicU64::new(0),
            }
        }
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
        if let Some((id, block)) = record.left_over() {
            self.end_left_over(id, block);
        }
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

    fn unbind_word(&self, at: usize, word: &AtomicU32) -> bool {
        // Relaxed, as in `begin`.
        let known = word.load(Ordering::Relaxed);
        if known == NONE {
            return false;
        }
        let record = self.records.get(known);
        if let Some((id, block)) = record.left_over() {
            self.end_left_over(id, block);
            record.clear();
        }
        // Relaxed: the next owner of the place sees it by the hand-over; who looks at the place meanwhile finds a record that is
        // of another address.
        word.store(NONE, Ordering::Relaxed);
        self.places.uncount(at);
        self.records.give(known);
        true
    }

    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn end_left_over(&self, id: u64, block: u32) {
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

    /// Puts what is kept back among the recent frees and returns what comes out for it, if anything does: address and size.
    #[inline]
    pub(crate) fn remember(&self, address: usize, size: usize) -> Option<(usize, usize)> {
        let next = Self::turn(&self.next);
        // Relaxed: only an address to prefetch, which need not be right.
        os::prefetch_read(unpack(self.recent[(next + AHEAD) % RECENT].load(Ordering::Relaxed)).0);
        // ORDERING: AcqRel: what was there is the caller's from here on, and what the caller did to its own is published.
        let both = if planted(Fault::RememberRelaxed) { Ordering::Relaxed } else { Ordering::AcqRel };
        match self.recent[next % RECENT].swap(pack(address, size), both) {
            0 => None,
            old => Some(unpack(old)),
        }
    }

    /// Takes the oldest of the recent frees out before its turn. `None`: there is none left.
    pub(crate) fn forget_oldest(&self) -> Option<(usize, usize)> {
        loop {
            let (gone, next) = (self.gone.load(Ordering::Relaxed), self.next.load(Ordering::Relaxed));
            let oldest = gone.max(next.saturating_sub(RECENT as u64));
            if oldest >= next {
                return None;
            }
            // Whoever moves it on looks into the slot; a free that is slow to come there stays until its turn.
            if self.gone.compare_exchange(gone, oldest + 1, Ordering::Relaxed, Ordering::Relaxed).is_err() {
                continue;
            }
            let slot = &self.recent[oldest as usize % RECENT];
            if planted(Fault::ForgetStore) {
                let old = slot.load(Ordering::Relaxed);
                slot.store(0, Ordering::Relaxed);
                return (old != 0).then(|| unpack(old));
            }
            // ORDERING: Acquire, as in `remember`: what was there is the caller's from here on.
            match slot.swap(0, Ordering::Acquire) {
                0 => {}
                old => return Some(unpack(old)),
            }
        }
    }

    /// Takes all recent frees out and calls `last` with each.
    pub(crate) fn forget_all(&self, mut last: impl FnMut(usize, usize)) {
        for slot in &self.recent {
            // ORDERING: Acquire, as in `remember`: what was there is the caller's from here on.
            match slot.swap(0, Ordering::Acquire) {
                0 => {}
                old => {
                    let (address, size) = unpack(old);
                    last(address, size);
                }
            }
        }
    }

    /// As [`remember`](Self::remember), for what keeps its addresses alone.
    pub(crate) fn remember_run(&self, address: usize) -> Option<usize> {
        Self::put_in(&self.runs[Self::turn(&self.next_run) % KEPT_RUNS], address)
    }

    /// The same for a first chunk of a span that comes up and is not handed out.
    pub(crate) fn remember_first(&self, address: usize) -> Option<usize> {
        Self::put_in(&self.firsts[Self::turn(&self.next_first) % KEPT_FIRSTS], address)
    }

    /// The next turn: one caller's, so that nothing comes out before there is no room.
    #[inline]
    fn turn(next: &AtomicU64) -> usize {
        if planted(Fault::TurnStore) {
            let turn = next.load(Ordering::Relaxed);
            next.store(turn + 1, Ordering::Relaxed);
            return turn as usize;
        }
        next.fetch_add(1, Ordering::Relaxed) as usize
    }

    fn put_in(slot: &AtomicUsize, address: usize) -> Option<usize> {
        // ORDERING: as in `remember`.
        let both = if planted(Fault::RememberRelaxed) { Ordering::Relaxed } else { Ordering::AcqRel };
        Some(slot.swap(address, both)).filter(|old| *old != 0)
    }

    /// How often that was done: so many allocations and frees are none of the program's.
    pub(crate) fn firsts_kept(&self) -> u64 {
        self.next_first.load(Ordering::Relaxed)
    }

    /// As [`forget_all`](Self::forget_all), for those.
    pub(crate) fn forget_firsts(&self, last: impl FnMut(usize)) {
        Self::forget_each(&self.firsts, last);
    }

    /// And for runs.
    pub(crate) fn forget_runs(&self, last: impl FnMut(usize)) {
        Self::forget_each(&self.runs, last);
    }

    fn forget_each(slots: &[AtomicUsize], mut last: impl FnMut(usize)) {
        for slot in slots {
            // ORDERING: Acquire, as in `remember`: what was there is the caller's from here on.
            match slot.swap(0, Ordering::Acquire) {
                0 => {}
                old => last(old),
            }
        }
    }

    /// Calls `visit` with the address and size of each recent free that is kept back, and what says whether it still is.
    pub(crate) fn walk_recent(&self, mut visit: impl FnMut(usize, usize, &dyn Fn() -> bool)) {
        for slot in &self.recent {
            // ORDERING: Acquire, as in `remember`: what was done to it before is done.
            let each = Ordering::Acquire;
            let word = slot.load(each);
            if word != 0 {
                let (address, size) = unpack(word);
                visit(address, size, &|| slot.load(each) == word);
            }
        }
    }

    /// Calls `visit` with the address of each recent free, each run, and each first chunk: a moment's picture.
    pub(crate) fn walk_kept(&self, visit: impl FnMut(usize)) {
        // Relaxed: only addresses.
        let recent = self.recent.iter().map(|slot| unpack(slot.load(Ordering::Relaxed)).0);
        let others = self.runs.iter().chain(&self.firsts).map(|slot| slot.load(Ordering::Relaxed));
        recent.chain(others).filter(|address| *address != 0).for_each(visit);
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
