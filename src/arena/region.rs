//! One arena: a reservation and the bitmaps that account for its pages.
//!
//! Each page has four bits:
//!
//! | bit | set means | who changes it |
//! |---|---|---|
//! | `used` | claimed: its run has an owner | the claimer, by exchange; the owner when it gives the run back |
//! | `dirty` | may hold memory: counted in `committed` | the page's owner |
//! | `touched` | not known to read as zero | the page's owner |
//! | `aged` | was free and dirty at the last purge | anyone; only a hint |
//!
//! A page is thus *dirty*, or *clean* (not dirty), or *zero* (clean and not touched). Whoever purges a page claims it
//! first, so the owner's bits are never changed by two at a time.
//!
//! A wholly free arena can be abandoned when address space is short: all of its pages are claimed, its addresses go back to the
//! system, and searches pass over it. If the same addresses can be reserved again later, it is revived with its tables:
//!
//! | `gone` | addresses | who has claimed its pages | what may happen next |
//! |---|---|---|---|
//! | `THERE` | reserved | the owners of its runs | whoever claims all pages may abandon it |
//! | `GONE` | the system's | nobody | one thread makes it `HELD`, by exchange |
//! | `HELD` | either | the holder | the holder revives it, lets it go, or puts another arena in its place for ever |
//!
//! `longest` says where long runs may be, `search` finds them, `purge` gives memory back, and `growth` has huge pages and access.
//!
//! Invariants, at rest: `pages - |used| = free`, `|dirty & !used| = dirty_free`, and those of `longest` and `growth`.

use super::bits::{ones, runs_of, words_of};
use super::growth::Growth;
use super::longest::Longest;
use crate::config::{PAGE, PAGE_SHIFT};
use crate::log::{Bytes, Voice, tell};
use crate::os;
use crate::report::Thp;
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Fault, Ordering, Point, planted, point};
use core::ptr;

const THERE: u32 = 0;
const GONE: u32 = 1;
const HELD: u32 = 2;

/// Contiguous pages of an arena, claimed for the holder of this value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Number of the first page: its address, shifted.
    pub(crate) page: usize,
    /// How many pages.
    pub(crate) pages: usize,
}

/// What a run must read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Anything.
    Any,
    /// Zero.
    Zero,
}

/// How much of a run will be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Density {
    /// All of it, as far as one can tell.
    Dense,
    /// A part: where small pages are, what is not used holds no memory.
    Sparse,
}

impl Density {
    /// Of large runs, where dense and sparse ones lie apart or not.
    pub(super) fn of_large(apart: bool) -> Self {
        if apart { Self::Sparse } else { Self::Dense }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Arena {
    pub(super) first_page: usize,
    pub(super) pages: usize,
    pub(super) words: usize,
    /// Bytes of the reservation before the first page, and behind the last, without access.
    margin: usize,
    /// Four bitmaps, the lanes of `longest`, and their groups.
    tables: *const AtomicU64,
    free: AtomicU32,
    pub(super) dirty_free: AtomicU32,
    /// No word below is likely to have a page that is free and dirty.
    pub(super) dirty_hint: AtomicUsize,
    /// Where a purge goes on.
    pub(super) visit: AtomicUsize,
    gone: AtomicU32,
    pub(super) growth: Growth,
    /// The arena in whose place this one is, if there was one.
    pub(super) replaced: *mut Arena,
}

/// What all arenas count together.
#[derive(Debug)]
pub(crate) struct Books {
    /// Bytes that may hold memory, without metadata. Changed at commit and purge alone.
    pub(crate) committed: AtomicUsize,
    /// Counts returns of pages: a search that failed looks again if there was one. A hint.
    pub(crate) changes: AtomicUsize,
    /// Bytes that were ever taken as runs, but for what takes the place of large ones. What it steers no model has.
    pub(crate) taken: AtomicUsize,
    /// The use of transparent huge pages.
    pub(super) thp: AtomicU32,
    /// Whether arenas to come are sealed.
    pub(super) sealed: AtomicU32,
    /// Whether the system has refused addresses: then none are taken for order's sake alone.
    pub(super) short: AtomicU32,
    /// How much the heap tells.
    pub(super) voice: Voice,
}

impl Books {
    const_fn! {
        pub(super) const fn new() -> Self {
            Self {
                committed: AtomicUsize::new(0),
                changes: AtomicUsize::new(0),
                taken: AtomicUsize::new(0),
                thp: AtomicU32::new(0),
                sealed: AtomicU32::new(0),
                short: AtomicU32::new(0),
                voice: Voice::new(),
            }
        }
    }

    /// Says that pages are free that a search may have missed.
    pub(super) fn stir(&self) {
        // Relaxed: a hint, as in `find`.
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether arenas to come are sealed. Relaxed: it is set before the first is made, or goes for later ones.
    pub(super) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Relaxed) != 0
    }

    /// The use of transparent huge pages that was set last.
    pub(super) fn thp(&self) -> Thp {
        match self.thp.load(Ordering::Relaxed) {
            1 => Thp::Always,
            2 => Thp::Never,
            3 => Thp::System,
            _ => Thp::Default,
        }
    }
}

/// How a search for pages may end.
pub(crate) enum Took {
    Run(Run),
    /// No such run was seen.
    Nothing,
    /// The system refused to commit it.
    Refused,
}

impl Arena {
    /// Bytes that an arena of so many pages needs for itself.
    pub(crate) const fn table_bytes(pages: usize) -> usize {
        size_of::<Self>() + Self::table_words(pages.div_ceil(64)) * size_of::<AtomicU64>()
    }

    const fn table_words(words: usize) -> usize {
        let (lanes, groups) = Longest::sizes(words);
        4 * words + lanes + groups
    }

    /// Makes an arena in place, all of its pages free and zero; in which dense and sparse runs lie apart or not.
    ///
    /// # Safety
    /// `at` points to `table_bytes(pages)` writable bytes, aligned to 16, that nobody else uses and that stay; the
    /// pages from `first_page` on are reserved, fresh from the system.
    pub(crate) unsafe fn make(at: *mut u8, first_page: usize, pages: usize, margin: usize, apart: bool) -> *mut Self {
        let words = pages.div_ceil(64);
        // SAFETY: inside the bytes that the caller gives.
        let tables = unsafe { at.add(size_of::<Self>()) }.cast::<AtomicU64>();
        for word in 0..Self::table_words(words) {
            // SAFETY: as above.
            unsafe { tables.add(word).write(AtomicU64::new(0)) };
        }
        let arena = Self {
            first_page,
            pages,
            words,
            margin,
            tables,
            free: AtomicU32::new(pages as u32),
            dirty_free: AtomicU32::new(0),
            dirty_hint: AtomicUsize::new(0),
            visit: AtomicUsize::new(0),
            gone: AtomicU32::new(THERE),
            growth: Growth::new(pages, apart),
            replaced: ptr::null_mut(),
        };
        arena.longest().reset(words);
        // SAFETY: as above.
        unsafe { at.cast::<Self>().write(arena) };
        at.cast()
    }

    fn table(&self, first: usize, words: usize) -> &[AtomicU64] {
        // SAFETY: `make` put so many words there, for ever, as the callers below agree.
        unsafe { core::slice::from_raw_parts(self.tables.add(first), words) }
    }

    fn bitmap(&self, which: usize) -> &[AtomicU64] {
        self.table(which * self.words, self.words)
    }

    /// How long the free runs may be.
    pub(super) fn longest(&self) -> Longest<'_> {
        let (lanes, groups) = Longest::sizes(self.words);
        Longest { lanes: self.table(4 * self.words, lanes), groups: self.table(4 * self.words + lanes, groups) }
    }

    pub(super) fn used(&self) -> &[AtomicU64] {
        self.bitmap(0)
    }

    pub(super) fn dirty(&self) -> &[AtomicU64] {
        self.bitmap(1)
    }

    pub(super) fn touched(&self) -> &[AtomicU64] {
        self.bitmap(2)
    }

    pub(super) fn aged(&self) -> &[AtomicU64] {
        self.bitmap(3)
    }

    /// Bytes of address space.
    pub(crate) fn bytes(&self) -> usize {
        self.pages * PAGE
    }

    /// Address of the first byte.
    pub(crate) fn start(&self) -> usize {
        self.first_page << PAGE_SHIFT
    }

    pub(crate) fn contains(&self, page: usize) -> bool {
        (self.first_page..self.first_page + self.pages).contains(&page)
    }

    /// Bytes of free pages that may hold memory. Exact at rest.
    pub(crate) fn dirty_bytes(&self) -> usize {
        self.dirty_free.load(Ordering::Relaxed) as usize * PAGE
    }

    /// Bytes of pages in use. Exact at rest.
    pub(crate) fn used_bytes(&self) -> usize {
        self.bytes() - self.free.load(Ordering::Relaxed) as usize * PAGE
    }

    /// Claims `pages` pages whose first number is a multiple of `align`, and counts in `books` what had not been
    /// committed before. A single page is taken dirty if possible, wherever it is: its memory is there already. If `strictly`,
    /// no other where runs of the other density are to lie.
    pub(crate) fn take(
        &self,
        pages: usize,
        align: usize,
        fill: Fill,
        density: Density,
        strictly: bool,
        books: &Books,
    ) -> Took {
        // Relaxed: before an arena is added, the whole search is done again if anything has changed.
        if (self.free.load(Ordering::Relaxed) as usize) < pages {
            return Took::Nothing;
        }
        if pages == 1 && align == 1 && self.dirty_free.load(Ordering::Relaxed) > 0 {
            let hint = self.dirty_hint.load(Ordering::Relaxed);
            for (word, used) in self.used().iter().enumerate().skip(hint) {
                let candidates = self.dirty()[word].load(Ordering::Relaxed) & !used.load(Ordering::Relaxed);
                for (bit, _) in runs_of(candidates) {
                    if self.claim(word * 64 + bit, 1, books).is_ok() {
                        if word > hint {
                            // Relaxed, and may be lost: a hint.
                            let _ = self.dirty_hint.compare_exchange(hint, word, Ordering::Relaxed, Ordering::Relaxed);
                        }
                        return self.commit(word * 64 + bit, 1, fill, density, books);
                    }
                }
            }
            // Dirty pages below the hint, if any, wait for a purge, or for a return that lowers it.
        }
        let others = self.others(pages, density, books);
        let aside = if others.is_empty() { None } else { self.search(pages, align, &others, books) };
        let anywhere = || self.search(pages, align, &(0..0), books);
        let start = aside.or_else(|| if strictly && !others.is_empty() { None } else { anywhere() });
        start.map_or(Took::Nothing, |start| self.commit(start, pages, fill, density, books))
    }

    /// Claims exactly these pages, in ascending order, or none of them: then says which page was in the way.
    pub(crate) fn claim(&self, start: usize, pages: usize, books: &Books) -> Result<(), usize> {
        debug_assert!(pages > 0 && start + pages <= self.pages, "{pages} pages from {start} on");
        for (word, mask) in words_of(start, pages) {
            let used = &self.used()[word];
            let mut old = used.load(Ordering::Relaxed);
            loop {
                if old & mask != 0 {
                    let done = (word * 64).max(start) - start;
                    if done > 0 && !planted(Fault::ClaimRollback) {
                        self.unclaim(start, done);
                        books.stir();
                    }
                    return Err(word * 64 + 63 - (old & mask).leading_zeros() as usize);
                }
                if planted(Fault::ClaimStore) {
                    // ORDERING: as below.
                    used.store(old | mask, Ordering::Release);
                    break;
                }
                // ORDERING: Acquire pairs with the Release in `unclaim`: what the last owner did to the pages and
                // their bits is visible.
                match used.compare_exchange_weak(old, old | mask, Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => break,
                    Err(now) => old = now,
                }
            }
            point(Point::Claim);
        }
        self.free.fetch_sub(pages as u32, Ordering::Relaxed);
        Ok(())
    }

    /// Clears the claim, in descending order. The pages that a failed claim took were not yet counted.
    fn unclaim(&self, start: usize, pages: usize) {
        for (word, mask) in words_of(start, pages).rev() {
            // ORDERING: Release pairs with the Acquire in `claim`.
            let publish = if planted(Fault::GiveRelaxed) { Ordering::Relaxed } else { Ordering::Release };
            let old = self.used()[word].fetch_and(!mask, publish);
            if old & mask != mask {
                os::die(format_args!("pages given back twice: {:#x}", (self.first_page + start) << PAGE_SHIFT));
            }
        }
        self.freed(start, pages);
        // Some may be dirty, and a search for such ones have passed by meanwhile.
        self.dirty_hint.fetch_min(start / 64, Ordering::Relaxed);
    }

    /// Turns claimed pages into a run in use.
    fn commit(&self, start: usize, pages: usize, fill: Fill, density: Density, books: &Books) -> Took {
        let page = self.first_page + start;
        let is_open = self.unseal(start + pages);
        if !is_open || !os::commit(page << PAGE_SHIFT, pages * PAGE) {
            self.free.fetch_add(pages as u32, Ordering::Relaxed);
            self.unclaim(start, pages);
            books.stir();
            if !is_open {
                // A sandbox, say, in which no access can be changed any more: an arena that is made now is open. Not where it may be
                // want of memory.
                if !os::is_access_limited() {
                    books.sealed.store(0, Ordering::Relaxed);
                }
                return Took::Nothing;
            }
            return Took::Refused;
        }
        let mut clean = 0;
        for (word, mask) in words_of(start, pages) {
            // Relaxed: the bits belong to the pages' owner, and the claim has acquired them. In this order: at no instant is a
            // page dirty that seems never to have been touched.
            let touched = self.touched()[word].fetch_or(mask, Ordering::Relaxed) & mask;
            clean += (!self.dirty()[word].fetch_or(mask, Ordering::Relaxed) & mask).count_ones();
            if fill == Fill::Zero {
                for (bit, len) in runs_of(touched) {
                    let at = (self.first_page + word * 64 + bit) << PAGE_SHIFT;
                    // Also where that is much: to purge it would be quicker only if it is never used.
                    // SAFETY: these pages are reserved, and claimed by the caller.
                    unsafe { ptr::write_bytes(ptr::with_exposed_provenance_mut::<u8>(at), 0, len * PAGE) };
                }
            }
            self.aged()[word].fetch_and(!mask, Ordering::Relaxed);
        }
        self.reached(start + pages, density, || books.thp());
        self.dirty_free.fetch_sub(pages as u32 - clean, Ordering::Relaxed);
        books.committed.fetch_add(clean as usize * PAGE, Ordering::Relaxed);
        if clean > 0 {
            let fresh = Bytes(clean as usize * PAGE);
            tell!(&books.voice, Arena, "{fresh} committed: the system gives memory at the first touch");
        }
        Took::Run(Run { page, pages })
    }

    /// Takes the pages right behind a large run that the caller owns, if they are all free, and none of them where runs of the
    /// other density are to lie: what is copied once to where huge pages are grows on there.
    pub(crate) fn extend(&self, page: usize, pages: usize, books: &Books) -> Option<Run> {
        let start = page - self.first_page;
        let end = start + pages;
        let others = self.others(0, self.large(), books);
        // A sparse one that lies where dense ones should, for want of room, goes on there.
        let lies_there = self.large() == Density::Sparse && others.contains(&(start - 1));
        let leads_there = !lies_there && start < others.end && others.start < end;
        if end > self.pages || leads_there || self.claim(start, pages, books).is_err() {
            return None;
        }
        match self.commit(start, pages, Fill::Any, self.large(), books) {
            Took::Run(run) => Some(run),
            _ => None,
        }
    }

    /// Takes a run back from its owner: dirty, or purged by the owner and off the books already.
    pub(crate) fn give(&self, page: usize, pages: usize, zero: bool) {
        let start = page - self.first_page;
        if zero {
            for (word, mask) in words_of(start, pages) {
                if planted(Fault::GiveStore) {
                    self.dirty()[word].store(self.dirty()[word].load(Ordering::Relaxed) & !mask, Ordering::Relaxed);
                    continue;
                }
                // Relaxed: the owner's bits; giving up the claim publishes them.
                self.dirty()[word].fetch_and(!mask, Ordering::Relaxed);
                self.touched()[word].fetch_and(!mask, Ordering::Relaxed);
            }
        } else {
            self.dirty_free.fetch_add(pages as u32, Ordering::Relaxed);
        }
        self.free.fetch_add(pages as u32, Ordering::Relaxed);
        self.unclaim(start, pages);
    }

    /// Words of each bitmap.
    pub(crate) fn words(&self) -> usize {
        self.words
    }

    /// Gives the whole arena's address space up, if all of it is free. Returns its bytes; none where the system refuses, and the arena
    /// is as it was: it might have no other.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn abandon(&self, books: &Books) -> usize {
        if self.free.load(Ordering::Relaxed) as usize != self.pages
            || (!planted(Fault::AbandonUnclaimed) && self.claim(0, self.pages, books).is_err())
        {
            return 0;
        }
        // Relaxed: whoever sees it passes the arena over, and looks at nothing that was done to it.
        self.gone.store(HELD, Ordering::Relaxed);
        if !os::give_up(self.start() - self.margin, self.reserved()) {
            self.revive();
            // A search may have missed them.
            books.stir();
            return 0;
        }
        let dirty: u32 = self.dirty().iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum();
        books.committed.fetch_sub(dirty as usize * PAGE, Ordering::Relaxed);
        self.let_go();
        self.reserved()
    }

    /// Has the caller alone go on with an arena that was abandoned: if it was, and nobody else does.
    pub(super) fn hold(&self) -> bool {
        if planted(Fault::ReviveBoth) {
            // ORDERING: as below.
            return self.gone.load(Ordering::Acquire) == GONE;
        }
        // ORDERING: Acquire pairs with `let_go`: its addresses were given up before, and its bits are as they were left.
        self.gone.compare_exchange(GONE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Leaves an arena that the caller holds abandoned.
    fn let_go(&self) {
        // ORDERING: Release pairs with `hold`.
        let publish = if planted(Fault::GoneRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        self.gone.store(GONE, publish);
    }

    /// Reserves the same addresses for an arena that the caller holds: all of it is zero then, and claimed by the caller.
    /// False: somebody else has them, and the arena is abandoned as before.
    pub(super) fn reserve_again(&self) -> bool {
        if !os::reserve_again(self.start() - self.margin, self.reserved()) {
            self.let_go();
            return false;
        }
        // Relaxed, here and below: all pages are the caller's; giving up the claims publishes it.
        [self.dirty(), self.touched(), self.aged()].iter().flat_map(|bits| bits.iter()).for_each(|word| {
            word.store(0, Ordering::Relaxed);
        });
        self.dirty_free.store(0, Ordering::Relaxed);
        self.dirty_hint.store(0, Ordering::Relaxed);
        self.growth.reset(self.pages);
        true
    }

    /// Has an arena that the caller holds, and whose addresses are there, be used from now on.
    pub(super) fn revive(&self) {
        // Before the pages can be claimed: whoever has some finds the arena.
        self.gone.store(THERE, Ordering::Relaxed);
        // Nobody else counts while all pages are claimed.
        self.free.store(self.pages as u32, Ordering::Relaxed);
        self.unclaim(0, self.pages);
    }

    /// Bytes of address space before and behind the pages, without access.
    pub(super) fn margin(&self) -> usize {
        self.margin
    }

    /// Gives its addresses back.
    pub(super) fn release(&self) {
        os::release(self.start() - self.margin, self.reserved());
    }

    /// Bytes of the whole reservation.
    pub(super) fn reserved(&self) -> usize {
        self.bytes() + 2 * self.margin
    }

    /// Whether its address space was given up.
    pub(crate) fn is_gone(&self) -> bool {
        // Relaxed: see `abandon`.
        self.gone.load(Ordering::Relaxed) != THERE
    }

    /// Whether it may be revived, or replaced.
    pub(super) fn is_abandoned(&self) -> bool {
        // Relaxed: `hold` says so for sure.
        self.gone.load(Ordering::Relaxed) == GONE
    }

    /// Makes the claims what `placed` says of each page, clears what `clear` clears for those that are given up, and
    /// counts anew, while no other thread uses the arena. Returns the bytes of dirty pages.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn rebuild(&self, placed: impl Fn(usize) -> bool, clear: impl Fn(usize)) -> usize {
        let (mut free, mut dirty, mut dirty_free) = (0, 0, 0);
        for word in 0..self.words {
            let valid = ones((self.pages - word * 64).min(64));
            let mut used = 0u64;
            for bit in (0..64).filter(|bit| valid >> bit & 1 == 1) {
                used |= (placed(word * 64 + bit) as u64) << bit;
            }
            let lost = self.used()[word].load(Ordering::Relaxed) & !used;
            (0..64).filter(|bit| lost >> bit & 1 == 1).for_each(|bit| clear(word * 64 + bit));
            self.used()[word].store(used, Ordering::Relaxed);
            let is_dirty = self.dirty()[word].load(Ordering::Relaxed);
            free += (!used & valid).count_ones();
            dirty += is_dirty.count_ones();
            dirty_free += (is_dirty & !used).count_ones();
        }
        self.free.store(free, Ordering::Relaxed);
        self.dirty_free.store(dirty_free, Ordering::Relaxed);
        self.longest().reset(self.words);
        self.dirty_hint.store(0, Ordering::Relaxed);
        dirty as usize * PAGE
    }

    /// Pages in use, while no other thread uses the arena; `None` if the invariants do not hold.
    pub(crate) fn check(&self) -> Option<usize> {
        let count = |word: &dyn Fn(usize) -> u64| (0..self.words).map(|at| word(at).count_ones() as usize).sum();
        let used: usize = count(&|at| self.used()[at].load(Ordering::Relaxed));
        let dirty_free: usize =
            count(&|at| self.dirty()[at].load(Ordering::Relaxed) & !self.used()[at].load(Ordering::Relaxed));
        let clean_used: usize =
            count(&|at| !self.dirty()[at].load(Ordering::Relaxed) & self.used()[at].load(Ordering::Relaxed));
        // What may be resident does not read as zero.
        let untouched: usize =
            count(&|at| self.dirty()[at].load(Ordering::Relaxed) & !self.touched()[at].load(Ordering::Relaxed));
        let holds = self.pages - used == self.free.load(Ordering::Relaxed) as usize
            && dirty_free == self.dirty_free.load(Ordering::Relaxed) as usize
            && clean_used == 0
            && untouched == 0
            && self.growth_holds()
            && (0..self.words).all(|word| self.longest().holds(word, self.longest_in(word)));
        holds.then_some(used)
    }
}
