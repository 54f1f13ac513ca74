//! All arenas: runs of pages for spans and large allocations.
//!
//! `take_run` searches the arenas in order and adds one when none has room; `give_run` returns a run to its arena. Both
//! are lock-free: a claim is undone only because another claim succeeded. An arena's tables stay for ever. Its addresses
//! are given up only when the system refuses more and all of it is free; later they are reserved again, with the same
//! tables, if they can be: else each shortage of memory would cost the address space of some tables.
//!
//! A new arena is as large as all before it together (from `ARENA_MIN` on; beyond `ARENA_MAX` only an `ARENA_PART`-th of them, so
//! that the table reaches as far as the addresses do), so address space stays proportional to use; where the system refuses
//! (`ulimit -v`, strict overcommit), smaller ones are tried: but the smallest that is made is the larger the more there are, or a system that had little to give for long would have filled the table for good.
//!
//! Invariant: arenas fill `table` from the front; once it is full, a new one takes the slot of an abandoned one, and names it.

mod bits;
mod budget;
mod growth;
mod longest;
mod place;
mod purge;
mod region;
mod search;
mod stretch;
#[cfg(all(test, not(millpond_loom)))]
mod tests;

pub(crate) use bits::ones;
pub(crate) use budget::{Budget, Passed};
pub(crate) use place::Place;
pub(crate) use region::{Arena, Density, Fill, Run};
pub(crate) use stretch::Page;

use crate::config::{
    ARENA_ALIGN, ARENA_MAX, ARENA_MIN, ARENA_PART, ARENAS, ARENAS_A_SIZE, GROWN, GROWN_RUN, PAGE, PAGE_SHIFT, SPLITS,
    THIN_STEP,
};
use crate::log::{Bytes, Count, Voice, tell};
use crate::os;
use crate::page_map::PAGE_BYTES;
use crate::report::Thp;
use crate::sync::{AtomicPtr, AtomicUsize, Counter, Fault, Ordering, Point, Quiet, planted, point};
use core::ptr;
use growth::grow_mapping;
use region::{Books, Took};

/// Says in whose heap an address lies, in words, if in any.
pub(crate) type Whose = fn(usize) -> Option<&'static str>;

/// The address of who says that; zero until there is a heap beside the program's.
static OTHERS: Counter = Counter::new();

fn whose(address: usize) -> Option<&'static str> {
    let whose = ptr::with_exposed_provenance::<()>(OTHERS.get() as usize);
    if whose.is_null() {
        return None;
    }
    // SAFETY: set in `stand_beside` alone, to the address of such a function.
    let whose = unsafe { core::mem::transmute::<*const (), Whose>(whose) };
    whose(address)
}

/// See the module's documentation; in this order for the heap's sake.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Arenas {
    books: Books,
    budget: Budget,
    reserved: AtomicUsize,
    metadata: AtomicUsize,
    table: [AtomicPtr<Arena>; ARENAS],
    /// Whether they are those of a heap beside the program's: for what is said of misuse.
    beside: Quiet,
    /// Whether dense and sparse runs lie apart though this build does not have it so.
    apart: Quiet,
}

/// Bytes of the next arena, where so many are reserved.
fn next_arena(reserved: usize) -> usize {
    reserved.clamp(ARENA_MIN, ARENA_MAX.max(reserved / ARENA_PART))
}

impl Arenas {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self {
                table: array_of![AtomicPtr::new(ptr::null_mut()); ARENAS],
                books: Books::new(),
                budget: Budget::new(),
                reserved: AtomicUsize::new(0),
                metadata: AtomicUsize::new(0),
                beside: Quiet::new(),
                apart: Quiet::new(),
            }
        }
    }

    /// The arenas there are.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arena> {
        self.published().filter(|arena| !arena.is_gone())
    }

    /// The same, with those that were abandoned.
    fn published(&self) -> impl Iterator<Item = &Arena> {
        // ORDERING: Acquire pairs with the exchange in `grow`: the arena is made.
        let each = self.table.iter().map(|slot| slot.load(Ordering::Acquire));
        // SAFETY: a published arena stays for ever.
        each.take_while(|arena| !arena.is_null()).map(|arena| unsafe { &*arena })
    }

    /// What lies at an address that is no allocation, to be shown.
    pub(crate) fn place(&self, address: usize) -> Place<'_> {
        Place { arenas: self, address, is_free: false }
    }

    /// Says that they are those of a heap beside the program's, which is one of Millpond's several, and who knows in which an address lies.
    #[allow(dead_code, reason = "heaps of one's own alone say so")]
    pub(crate) fn stand_beside(&self, whose: Whose) {
        self.beside.set(1);
        OTHERS.set((whose as *const ()).expose_provenance() as u64);
    }

    /// Whether an address lies in one of them.
    pub(crate) fn have(&self, address: usize) -> bool {
        self.of(address >> PAGE_SHIFT).is_some()
    }

    /// Has dense and sparse runs lie apart. Before the first arena is made.
    #[allow(dead_code, reason = "for tests: in C they do")]
    pub(crate) fn lie_apart(&self) {
        self.apart.set(1);
    }

    fn are_apart(&self) -> bool {
        SPLITS || self.apart.get() != 0
    }

    /// Whose allocations lie in them, in words.
    pub(crate) fn whose(&self) -> &'static str {
        match (self.beside.get(), OTHERS.get()) {
            (0, 0) => "Millpond's",
            (0, _) => "the program's heap's",
            _ => "this heap's",
        }
    }

    fn of(&self, page: usize) -> Option<&Arena> {
        self.iter().find(|arena| arena.contains(page))
    }

    /// Bytes committed for runs.
    pub(crate) fn committed(&self) -> &AtomicUsize {
        &self.books.committed
    }

    /// Bytes that were ever taken as runs, less those that did not count, wrapping.
    pub(crate) fn taken(&self) -> usize {
        self.books.taken.load(Ordering::Relaxed)
    }

    /// Has as many pages as are given back not count as taken: the next ones take their place.
    pub(crate) fn untake(&self, pages: usize) {
        if THIN_STEP < usize::MAX {
            self.books.taken.fetch_sub(pages * PAGE, Ordering::Relaxed);
        }
    }

    /// What all runs may have, which huge allocations are charged to as well.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// How much the heap tells.
    pub(crate) fn voice(&self) -> &Voice {
        &self.books.voice
    }

    /// Has those who search look once more, should they find nothing. Writes to what a search reads first of all.
    pub(crate) fn stir(&self) {
        self.books.stir();
    }

    /// Bytes of address space reserved.
    pub(crate) fn reserved(&self) -> usize {
        self.reserved.load(Ordering::Relaxed)
    }

    /// Counts them anew, while no other thread uses the arenas.
    pub(crate) fn recount_reserved(&self) {
        self.reserved.store(self.iter().map(Arena::reserved).sum(), Ordering::Relaxed);
    }

    /// Bytes of the arenas' own tables, with the page map's entries for their pages.
    pub(crate) fn metadata(&self) -> usize {
        self.metadata.load(Ordering::Relaxed)
    }

    /// Bytes of free pages that may hold memory.
    pub(crate) fn dirty(&self) -> usize {
        self.iter().map(Arena::dirty_bytes).sum()
    }

    /// Bytes of pages in use. Exact at rest.
    pub(crate) fn used_bytes(&self) -> usize {
        self.iter().map(Arena::used_bytes).sum()
    }

    /// Claims a run whose first page number is a multiple of `align`. `None`: the system gives no more.
    pub(crate) fn take_run(&self, pages: usize, align: usize, fill: Fill) -> Option<Run> {
        self.take(pages, align, fill, Density::Dense, true)
    }

    /// The same for a large allocation.
    pub(crate) fn take_large_run(&self, pages: usize, align: usize, fill: Fill) -> Option<Run> {
        self.take(pages, align, fill, Density::of_large(self.are_apart()), true)
    }

    /// The same for a run of which little may be used.
    pub(crate) fn take_sparse_run(&self, pages: usize) -> Option<Run> {
        self.take(pages, 1, Fill::Any, Density::Sparse, true)
    }

    /// The same for a large allocation, in the arenas there are. `None`: none of them has such a run.
    pub(crate) fn take_large_run_there(&self, pages: usize, align: usize, fill: Fill) -> Option<Run> {
        self.take(pages, align, fill, Density::of_large(self.are_apart()), false)
    }

    fn take(&self, pages: usize, align: usize, fill: Fill, density: Density, may_grow: bool) -> Option<Run> {
        debug_assert!(pages > 0 && align.is_power_of_two(), "{pages} pages aligned to {align}");
        if !self.budget.charge(pages) {
            return None;
        }
        let Some(run) = self.find(pages, align, fill, density, may_grow) else {
            self.budget.take_back(pages);
            return None;
        };
        if THIN_STEP < usize::MAX {
            self.books.taken.fetch_add(pages * PAGE, Ordering::Relaxed);
        }
        let at = run.page << PAGE_SHIFT;
        tell!(self.voice(), Arena, "{} of {} taken at {at:#x}", Count(pages, "page"), Bytes(PAGE));
        self.keep_within();
        Some(run)
    }

    /// After a charge: has free pages go back to the system that hold more memory than the limit leaves beside what is in use.
    #[inline]
    pub(crate) fn keep_within(&self) {
        if let Some(limit) = self.budget.limit() {
            self.keep_within_limit(limit);
        }
    }

    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn keep_within_limit(&self, limit: usize) {
        let more = (self.budget.used_bytes() + self.dirty()).saturating_sub(limit * PAGE);
        if more > 0 {
            self.relieve(more);
        }
    }

    fn find(&self, pages: usize, align: usize, fill: Fill, density: Density, may_grow: bool) -> Option<Run> {
        let mut again = 3;
        // First where runs of this density are to lie, for which an arena is made, if addresses are not short.
        let (mut strictly, mut has_grown) = (self.are_apart(), false);
        loop {
            // Relaxed: only a hint. What was given back before the call is seen anyhow; a search that misses what comes back
            // at that moment adds an arena too soon.
            let before = self.books.changes.load(Ordering::Relaxed);
            let mut vacancy = None;
            for slot in &self.table {
                // ORDERING: Acquire pairs with the exchange in `grow`: the arena is made.
                let there = slot.load(Ordering::Acquire);
                // SAFETY: a published arena stays for ever.
                let Some(arena) = (unsafe { there.as_ref() }) else {
                    vacancy = Some((slot, there));
                    break;
                };
                if arena.is_gone() {
                    vacancy = vacancy.or_else(|| arena.is_abandoned().then_some((slot, there)));
                    continue;
                }
                match arena.take(pages, align, fill, density, strictly, &self.books) {
                    Took::Run(run) => return Some(run),
                    Took::Refused => return None,
                    Took::Nothing => {}
                }
            }
            if again > 0 && self.books.changes.load(Ordering::Relaxed) != before {
                again -= 1;
                continue;
            }
            let vacancy = vacancy.filter(|_| may_grow);
            if strictly {
                // Relaxed: a hint.
                let is_short = || self.books.short.load(Ordering::Relaxed) != 0 || os::address_limit().is_some();
                let place = vacancy.filter(|_| !has_grown && self.budget.limit().is_none() && !is_short());
                strictly = place.is_some_and(|(slot, there)| self.grow(pages, align, slot, there).is_some());
                (has_grown, again) = (true, 3);
                continue;
            }
            let (slot, there) = vacancy?;
            self.grow(pages, align, slot, there)?;
        }
    }

    /// Takes a run back from its owner. The memory stays until a purge.
    pub(crate) fn give_run(&self, page: usize, pages: usize) {
        self.give(page, pages, false);
    }

    /// Takes a run back of which all has been purged, and reads as zero.
    pub(crate) fn give_zero_run(&self, page: usize, pages: usize) {
        self.give(page, pages, true);
    }

    fn give(&self, page: usize, pages: usize, zero: bool) {
        debug_assert!(pages > 0, "a run of nothing");
        let Some(arena) = self.of(page) else {
            os::die(format_args!("a run outside all arenas: {:#x}", page << PAGE_SHIFT))
        };
        tell!(self.voice(), Arena, "{} given back at {:#x}", Count(pages, "page"), page << PAGE_SHIFT);
        arena.give(page, pages, zero);
        self.budget.discharge(pages);
        self.stir();
    }

    /// Makes a run that the caller owns longer, in place.
    pub(crate) fn extend_run(&self, page: usize, old: usize, new: usize) -> Option<Run> {
        debug_assert!(old > 0 && new > old, "a run of {old} pages grows to {new}");
        let arena = self.of(page)?;
        if !self.budget.charge(new - old) {
            return None;
        }
        let more = arena.extend(page + old, new - old, &self.books);
        match more {
            Some(_) => {
                if THIN_STEP < usize::MAX {
                    self.books.taken.fetch_add((new - old) * PAGE, Ordering::Relaxed);
                }
                self.keep_within();
            }
            None => self.budget.take_back(new - old),
        }
        more
    }

    /// Calls `visit` with the number of each free page, which is the caller's meanwhile.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn visit_free(&self, mut visit: impl FnMut(usize)) {
        self.iter().for_each(|arena| arena.visit_free(&self.books, &mut visit));
    }

    /// Told of pages that are the caller's, as zero as they came, when nobody waits for any: a huge page among them is touched, to
    /// see whether more should be asked for.
    pub(crate) fn try_huge(&self, page: usize, pages: usize) {
        // Nothing for a model to search.
        if GROWN == usize::MAX {
            return;
        }
        if let Some(arena) = self.of(page) {
            arena.try_huge(page, pages);
        }
    }

    /// Told of a mapping beside the arenas that is about to be filled: has it in huge pages, if they are asked for where it would
    /// lie here.
    pub(crate) fn grow_beside(&self, start: usize, bytes: usize) {
        let asked = || self.iter().any(Arena::asks) || bytes >= GROWN_RUN && !self.iter().any(Arena::waits);
        if GROWN < usize::MAX && self.thp() == Thp::Default && asked() {
            grow_mapping(start, bytes);
        }
    }

    /// Purges all free pages. Returns bytes.
    pub(crate) fn purge(&self) -> usize {
        self.purge_each(|arena| arena.purge_all(&self.books))
    }

    /// Purges free pages in a `part`-th of each arena: those that were free at the last visit already. Little more than
    /// `limit` bytes an arena. Returns bytes.
    pub(crate) fn purge_aged(&self, part: usize, limit: usize) -> usize {
        self.purge_each(|arena| arena.purge_some(false, arena.words().div_ceil(part), limit, &self.books).gone)
    }

    /// Purges free pages of any age until some `bytes` have gone, or the system was asked to take as many. False: it has refused all.
    pub(crate) fn relieve(&self, bytes: usize) -> bool {
        let mut left = bytes;
        let gone = self.purge_each(|arena| {
            let purge = arena.purge_some(true, arena.words(), left, &self.books);
            left -= purge.tried.min(left);
            purge.gone
        });
        gone > 0 || left == bytes
    }

    fn purge_each(&self, mut purge: impl FnMut(&Arena) -> usize) -> usize {
        let thp = self.thp();
        let purge_one = |arena: &Arena| {
            let gone = purge(arena);
            if gone > 0 && thp == Thp::Default {
                arena.ebb();
            }
            gone
        };
        let purged = self.iter().map(purge_one).sum();
        // A search may have missed what was being purged.
        self.stir();
        purged
    }

    /// Told when OS pages of a span in use have gone back.
    pub(crate) fn ebb(&self, page: usize) {
        if let Some(arena) = self.of(page).filter(|_| self.thp() == Thp::Default) {
            arena.ebb();
        }
    }

    /// Gives up the address space of arenas of which all is free, for a request that the system has refused. Not where a limit came so
    /// late that hardly any of it could be had again.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn abandon_free(&self) {
        let free: usize = self.iter().filter(|arena| arena.used_bytes() == 0).map(Arena::reserved).sum();
        if free == 0 || free.saturating_sub(os::beyond_limits()) < free / 4 {
            return;
        }
        // Not those that others add meanwhile, for requests of theirs: nobody chases anybody.
        let there = self.published().count();
        for arena in self.published().take(there).filter(|arena| !arena.is_gone()) {
            self.reserved.fetch_sub(arena.abandon(&self.books), Ordering::Relaxed);
        }
    }

    /// Sets the use of transparent huge pages, in arenas to come and in those there are.
    pub(crate) fn set_thp(&self, thp: Thp) {
        self.books.thp.store(thp as u32, Ordering::Relaxed);
        for arena in self.iter() {
            arena.forget_growth();
            os::advise_thp(arena.start(), arena.bytes(), thp);
        }
    }

    /// The use of transparent huge pages that was set last.
    pub(crate) fn thp(&self) -> Thp {
        self.books.thp()
    }

    /// Has arenas to come sealed: what was never used of them, and what lies around them, has no access.
    pub(crate) fn seal(&self) {
        self.books.sealed.store(1, Ordering::Relaxed);
    }

    /// Whether they are to be.
    pub(crate) fn is_sealed(&self) -> bool {
        self.books.is_sealed()
    }

    /// Has the addresses of an abandoned arena again, one of at least `least` bytes and not much above `wanted`: the smallest of
    /// those that can be had.
    pub(crate) fn revive(&self, least: usize, wanted: usize) -> bool {
        let mut above = least;
        loop {
            let fits =
                |arena: &&Arena| arena.is_abandoned() && (above..=wanted.saturating_mul(2)).contains(&arena.bytes());
            let Some(bytes) = self.published().filter(fits).map(Arena::bytes).min() else { return false };
            for arena in self.published().filter(|arena| arena.bytes() == bytes && arena.hold()) {
                if arena.reserve_again() {
                    tell!(
                        self.voice(),
                        Os,
                        "{} of addresses reserved again at {:#x} for an arena",
                        Bytes(bytes),
                        arena.start()
                    );
                    self.prepare(arena, arena.margin());
                    self.reserved.fetch_add(arena.reserved(), Ordering::Relaxed);
                    arena.revive();
                    return true;
                }
            }
            above = bytes + 1;
        }
    }

    /// Says what is to be said to the system of an arena's fresh addresses, which nobody else uses yet.
    fn prepare(&self, arena: &Arena, margin: usize) {
        match self.thp() {
            Thp::Default if self.reserved() > 0 => arena.grow_from_start(),
            // Until it grows, also where the system gives huge pages to all.
            Thp::Default => os::advise_thp(arena.start(), arena.bytes(), Thp::Never),
            thp => os::advise_thp(arena.start(), arena.bytes(), thp),
        }
        if self.is_sealed() {
            let margins = [arena.start() - margin, arena.start() + arena.bytes()];
            margins.iter().for_each(|at| _ = os::protect(*at, margin, false));
            arena.seal();
        }
    }

    /// Adds an arena with room for such a run in a slot where a search has seen none, or an abandoned one, `there`;
    /// somebody else's will do, and so will one that was abandoned, if it can be had again. Built privately, published by one
    /// exchange.
    fn grow(&self, pages: usize, align: usize, slot: &AtomicPtr<Arena>, there: *mut Arena) -> Option<()> {
        // Relaxed: whoever put one there meanwhile does not matter; the search looks at it next.
        if slot.load(Ordering::Relaxed) != there {
            return Some(());
        }
        let least = pages.checked_add(align - 1)?.checked_mul(PAGE)?;
        // A sixteenth of what the process may have in all, where that is limited: others need room too. As much again is
        // set aside for tables; where nothing is limited yet, a sixteenth of the arena.
        let modest = os::address_limit().map(|limit| (limit / 16).next_multiple_of(PAGE));
        let stock = modest.unwrap_or(self.reserved().clamp(ARENA_MIN, ARENA_MIN * 16) / 16);
        if !os::keep_stock(stock, modest.is_some()) && modest.is_some() {
            return None;
        }
        let modest = modest.unwrap_or(usize::MAX);
        // A heap with a limit needs little more than that.
        let own = self.budget.limit().map_or(usize::MAX, |limit| limit.saturating_mul(2 * PAGE));
        let wanted = next_arena(self.reserved()).min(modest).min(own).max(least);
        let mut bytes = wanted.next_multiple_of(PAGE);
        if self.revive(least, bytes) {
            return Some(());
        }
        let least = least.max(PAGE << (self.iter().count() / ARENAS_A_SIZE));
        bytes = bytes.max(least);
        let (start, margin) = loop {
            let alignment = if bytes >= 2 * ARENA_ALIGN { ARENA_ALIGN } else { PAGE };
            let is_wide = modest == usize::MAX && alignment == ARENA_ALIGN;
            let margin = if is_wide && self.is_sealed() { ARENA_ALIGN } else { 0 };
            if let Some(start) = os::reserve(bytes + 2 * margin, alignment) {
                break (start + margin, margin);
            }
            self.books.short.store(1, Ordering::Relaxed);
            if bytes == least {
                return None;
            }
            bytes = (bytes / 2).next_multiple_of(PAGE).max(least);
        };
        tell!(self.voice(), Os, "{} of addresses reserved at {start:#x} for an arena: no memory yet", Bytes(bytes));
        let pages = bytes / PAGE;
        let table_bytes = Arena::table_bytes(pages);
        let Some(table) = os::metadata(table_bytes) else {
            os::release(start - margin, bytes + 2 * margin);
            return None;
        };
        let place = ptr::with_exposed_provenance_mut(table);
        let apart = self.are_apart() && !self.is_sealed();
        // SAFETY: fresh memory of that size, aligned to an OS page, and pages fresh from the system.
        let arena = unsafe { Arena::make(place, start >> PAGE_SHIFT, pages, margin, apart) };
        // SAFETY: made above, and not published yet.
        self.prepare(unsafe { &*arena }, margin);
        // SAFETY: a published arena stays for ever.
        let gone = unsafe { there.as_ref() };
        // What is held goes on being passed over, and nobody else changes its slot.
        let may_replace = gone.is_none_or(Arena::hold);
        // SAFETY: as above.
        unsafe { (*arena).replaced = there };
        point(Point::FirstUse);
        // ORDERING: Release publishes the arena; pairs with the Acquire in `iter`. The loser looks through `iter`.
        let publish = if planted(Fault::ArenaPublish) { Ordering::Relaxed } else { Ordering::Release };
        if may_replace && slot.compare_exchange(there, arena, publish, Ordering::Relaxed).is_ok() {
            self.reserved.fetch_add(bytes + 2 * margin, Ordering::Relaxed);
            self.metadata.fetch_add(table_bytes + pages * PAGE_BYTES, Ordering::Relaxed);
        } else {
            os::release(start - margin, bytes + 2 * margin);
            os::release_metadata(table, table_bytes);
        }
        Some(())
    }

    /// Gives all address space and tables back, at the heap's end.
    ///
    /// # Safety
    /// No run is used any more, and the arenas never again.
    pub(crate) unsafe fn dispose(&self) {
        for arena in self.published() {
            let mut next = ptr::from_ref(arena).cast_mut();
            // SAFETY: one that was published, or replaced by one that was, stays until its tables are released, once.
            while let Some(arena) = unsafe { next.as_ref() } {
                next = arena.replaced;
                if !arena.is_gone() {
                    arena.release();
                }
                let table_bytes = Arena::table_bytes(arena.bytes() / PAGE);
                os::release_metadata(ptr::from_ref(arena).expose_provenance(), table_bytes);
            }
        }
    }

    /// Pages in use over all arenas, while no other thread uses them; `Err` names an arena whose bitmaps and counts
    /// disagree.
    pub(crate) fn check(&self) -> Result<usize, usize> {
        self.iter().map(|arena| arena.check().ok_or(arena.start())).sum()
    }
}
