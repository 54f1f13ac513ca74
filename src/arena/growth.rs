//! Huge pages while a heap grows, small ones once it ebbs.
//!
//! The first touch of each small page costs a fault; a whole huge page (2 MiB) costs one, and later one look-up of its
//! address. But a huge page is resident whole, and the kernel may build one again out of small pages of which most were
//! purged. So huge pages are asked for only where memory is about to be filled, and never where some of it has gone back.
//!
//! Runs are taken from the bottom of an arena. Above its *reach*, the end of the highest run so far, nothing was ever
//! touched. *Dense* runs are those that will be used up, as far as one can tell; *sparse* are the first spans of each class, which
//! may never be full; in C also all that hold chunks of several OS pages, and large runs, which are buffers as often as not: of these
//! much may never be touched.
//!
//! | when | what is advised |
//! |---|---|
//! | a heap's first arena is made | small pages in all of it: the system may be set to give huge ones to all |
//! | dense runs have reached `GROWN` in a heap's first arena, or it is asked for a run of `GROWN_RUN` or more | huge pages from the *edge* up, which is some way above the reach; the *gap* below it stays small pages, for sparse runs |
//! | a further arena is added, since the first is full | huge pages in all of it; where the kinds lie apart, in its upper half |
//! | memory goes back from an arena | small pages in what the reach has passed; the edge moves up to the reach, and the gap is gone, but where the kinds lie apart |
//! | a huge page comes slower than as many small ones would | small pages from the edge up; no edge, until the reach is `AGAIN` further, and each time twice as far |
//!
//! So sparse runs cost nothing but what they touch; dense runs leave the gap free as long as there is room elsewhere. There are
//! three ranges an arena, so never more than three mappings.
//!
//! In C the kinds lie *apart*: below the *split* sparse runs, from there up dense ones. It is where the edge is at first, in the
//! middle of what is left of the arena, or of a further one. Either kind has a further arena made before it lies where the other
//! should, unless addresses are short. Sealed arenas have no split: a run above it would open all below.
//!
//! A huge page comes slowly where the kernel must make room for it by moving others, or where a machine below, which has taken
//! back what lay free in pieces as large as that, must find it first: then its first touch may take thirty times as long. So
//! of those in which a run begins, or that are the first whole ones in a run, the first, one in `TIMED_PART`, one after
//! `TIMED_MS` without, and that of each run as long as a huge page are touched here, by the clock; not each, since its touch is
//! then a part of a call. The run's owner would touch it next; only what is as long as a huge page and hardly used may hold one
//! more. It is touched when others have what is left of the run: else they would take runs of their own meanwhile.
//!
//! Where an arena is *sealed* (in the mode `hardened`), what was never used has no access: a wild write into it faults. It
//! opens as runs are taken, a `SEAL_STEP` at a time, so it is one mapping more. Of two that open it at the same time one may
//! also open what a guard has closed there meanwhile: a fault fewer.
//!
//! A huge allocation, which lies in no arena, has huge pages from the first if they are asked for in one by then, and is to be
//! filled; or if it is as long as a run for which they are, and none was slow.
//!
//! Huge pages are asked for only under [`Thp::Default`]. They are advice, as are the first two numbers below: if the advice of
//! one thread overtakes another's, some memory has the other kind of pages for a while, which is no error.
//!
//! Invariant, at rest: no page from the reach on is in use, and what is below it is open.

use super::bits::words_of;
use super::region::{Arena, Books, Density};
use crate::config::{AGAIN, ARENA_ALIGN, GAP, GROWN, GROWN_RUN, PAGE, SEAL_STEP, SLOW_US, TIMED_MS, TIMED_PART};
use crate::os;
use crate::report::Thp;
use crate::sync::{AtomicUsize, Ordering};
use core::ops::Range;

/// How far an arena was used, and from where on huge pages are asked for; in pages, from its start where they are places.
#[derive(Debug)]
pub(super) struct Growth {
    reach: AtomicUsize,
    /// How much of that was reached by sparse runs.
    sparse: AtomicUsize,
    edge: AtomicUsize,
    /// Whether dense and sparse runs lie apart.
    apart: bool,
    /// Then, where dense ones begin: the edge, as it was at first.
    split: AtomicUsize,
    /// Where the gap begins that ends at the edge, or at the split; none if that is not below.
    gap: AtomicUsize,
    /// The end of the last huge page that was looked at, how many were since one was timed, and when that was, in ms.
    tried: AtomicUsize,
    untimed: AtomicUsize,
    timed_at: AtomicUsize,
    /// How far the reach must be for huge pages to be asked for, and how much further when one is slow.
    again: AtomicUsize,
    patience: AtomicUsize,
    /// Pages from the start that may be accessed.
    open: AtomicUsize,
}

impl Growth {
    /// Of an arena of so many pages, for which nothing is advised.
    pub(super) fn new(pages: usize, apart: bool) -> Self {
        Self {
            apart,
            reach: AtomicUsize::new(0),
            sparse: AtomicUsize::new(0),
            edge: AtomicUsize::new(pages),
            split: AtomicUsize::new(pages),
            gap: AtomicUsize::new(pages),
            tried: AtomicUsize::new(0),
            untimed: AtomicUsize::new(TIMED_PART),
            timed_at: AtomicUsize::new(0),
            again: AtomicUsize::new(0),
            patience: AtomicUsize::new(AGAIN / PAGE),
            open: AtomicUsize::new(pages),
        }
    }

    /// As if it were new.
    pub(super) fn reset(&self, pages: usize) {
        let Self { reach, sparse, edge, apart: _, split, gap, tried, untimed, timed_at, again, patience, open } = self;
        [reach, sparse, tried, timed_at, again].iter().for_each(|count| count.store(0, Ordering::Relaxed));
        untimed.store(TIMED_PART, Ordering::Relaxed);
        [edge, split, gap, open].iter().for_each(|end| end.store(pages, Ordering::Relaxed));
        patience.store(AGAIN / PAGE, Ordering::Relaxed);
    }

    /// Whether the huge page that is met now is to be timed.
    fn is_due(&self) -> bool {
        let (now, timed_at) = (os::coarse_ms() as usize, self.timed_at.load(Ordering::Relaxed));
        let due =
            self.untimed.fetch_add(1, Ordering::Relaxed) + 1 >= TIMED_PART || now.wrapping_sub(timed_at) >= TIMED_MS;
        if due {
            self.untimed.store(0, Ordering::Relaxed);
            self.timed_at.store(now, Ordering::Relaxed);
        }
        due
    }
}

/// Asks for huge pages in a mapping that is the caller's alone, as it came, unless they are slow to come: the first is touched.
pub(super) fn grow_mapping(start: usize, bytes: usize) {
    os::advise_thp(start, bytes, Thp::Always);
    let first = start.next_multiple_of(ARENA_ALIGN);
    if first + ARENA_ALIGN <= start + bytes && os::is_slow_to_touch(first, SLOW_US) {
        os::advise_thp(start, bytes, Thp::Never);
    }
}

impl Arena {
    /// Whether huge pages are asked for here.
    pub(super) fn asks(&self) -> bool {
        self.growth.edge.load(Ordering::Relaxed) < self.pages
    }

    /// Whether they are not, since one was slow.
    pub(super) fn waits(&self) -> bool {
        !self.asks() && self.growth.again.load(Ordering::Relaxed) > 0
    }

    /// Asks for huge pages in the whole arena, which is fresh, but for what sparse runs shall have.
    pub(super) fn grow_from_start(&self) {
        let edge = if self.growth.apart { self.block_from(self.pages / 2) } else { 0 };
        self.growth.edge.store(edge, Ordering::Relaxed);
        self.growth.split.store(edge, Ordering::Relaxed);
        self.growth.gap.store(0, Ordering::Relaxed);
        os::advise_thp(self.start(), edge * PAGE, Thp::Never);
        os::advise_thp(self.start() + edge * PAGE, (self.pages - edge) * PAGE, Thp::Always);
    }

    /// Takes access to the whole arena away, which is fresh, until it is used.
    pub(super) fn seal(&self) {
        if GROWN < usize::MAX && os::protect(self.start(), self.bytes(), false) {
            self.growth.open.store(0, Ordering::Relaxed);
        }
    }

    /// Gives access to all up to the end of a run that the caller has claimed. False: the system refuses.
    #[inline]
    pub(super) fn unseal(&self, end: usize) -> bool {
        // Relaxed: access is the system's to give, and there for all at once.
        let open = if GROWN < usize::MAX { self.growth.open.load(Ordering::Relaxed) } else { end };
        end <= open || self.unseal_from(open, end)
    }

    #[cold]
    fn unseal_from(&self, open: usize, end: usize) -> bool {
        let to = end.next_multiple_of(SEAL_STEP).min(self.pages);
        let is_open = os::protect(self.start() + open * PAGE, (to - open) * PAGE, true);
        if is_open {
            self.growth.open.fetch_max(to, Ordering::Relaxed);
        }
        is_open
    }

    /// Told of each run that is taken, by its end. O(1).
    #[inline]
    pub(super) fn reached(&self, end: usize, density: Density, thp: impl FnOnce() -> Thp) {
        // Relaxed, as all here: see the module's documentation. Nothing for a model to search.
        if GROWN == usize::MAX {
            return;
        }
        if end > self.growth.reach.load(Ordering::Relaxed) {
            self.pass(end, density, thp());
        }
        let Growth { gap, edge, apart, .. } = &self.growth;
        // Where they lie apart, what is free in the gap stays for sparse ones.
        if !apart && end > gap.load(Ordering::Relaxed) && end <= edge.load(Ordering::Relaxed) {
            gap.fetch_max(end, Ordering::Relaxed);
        }
    }

    #[cold]
    fn pass(&self, end: usize, density: Density, thp: Thp) {
        let Growth { reach, sparse, .. } = &self.growth;
        let old = reach.fetch_max(end, Ordering::Relaxed);
        if density == Density::Sparse {
            sparse.fetch_add(end.saturating_sub(old), Ordering::Relaxed);
        }
        if end.saturating_sub(sparse.load(Ordering::Relaxed)) * PAGE >= GROWN {
            self.set_edge(thp);
        }
    }

    /// Touches the first huge page in which pages begin that are the caller's, or that is whole among them, if it is to be timed;
    /// and asks for no more if that is slow. O(1).
    pub(super) fn try_huge(&self, page: usize, pages: usize) {
        let Growth { reach, edge, tried, again, patience, .. } = &self.growth;
        let (from, start) = (edge.load(Ordering::Relaxed), page - self.first_page);
        if start + pages <= from {
            return;
        }
        let whole = self.block_from(start.max(from));
        let first = if whole + ARENA_ALIGN / PAGE <= start + pages { whole } else { start };
        if first < tried.load(Ordering::Relaxed).max(from) {
            return;
        }
        tried.fetch_max(self.block_from(first + 1), Ordering::Relaxed);
        // What is as long as a huge page is seldom asked for, and takes as long to be filled.
        let long = pages * PAGE >= ARENA_ALIGN;
        if !(self.growth.is_due() || long) || !os::is_slow_to_touch(self.start() + first * PAGE, SLOW_US) {
            return;
        }
        if edge.compare_exchange(from, self.pages, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let patience = patience.fetch_add(patience.load(Ordering::Relaxed), Ordering::Relaxed);
            again.store(reach.load(Ordering::Relaxed) + patience, Ordering::Relaxed);
            // The first of those that will be asked for again.
            self.growth.untimed.store(TIMED_PART, Ordering::Relaxed);
            // What there is of huge pages stays.
            os::advise_thp(self.start() + from * PAGE, (self.pages - from) * PAGE, Thp::Never);
        }
    }

    /// Has all that is some way above the reach advised, if nothing is yet.
    #[cold]
    fn set_edge(&self, thp: Thp) {
        let Growth { reach, edge, split, gap, again, open, .. } = &self.growth;
        let reach = reach.load(Ordering::Relaxed);
        if reach < again.load(Ordering::Relaxed) {
            return;
        }
        // Where an arena is sealed nothing is left out, since it would be open.
        let sealed = open.load(Ordering::Relaxed) < self.pages;
        let (half, least) = ((self.pages - reach) / 2, GAP / PAGE);
        let gap_pages = if self.growth.apart && half > least { half } else { least };
        let from = self.block_from(if sealed { reach } else { reach + gap_pages });
        if thp == Thp::Default
            && from < self.pages
            && edge.compare_exchange(self.pages, from, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            split.store(from, Ordering::Relaxed);
            gap.store(if sealed { from } else { reach }, Ordering::Relaxed);
            os::advise_thp(self.start() + from * PAGE, (self.pages - from) * PAGE, Thp::Always);
        }
    }

    /// The density of large runs here.
    pub(super) fn large(&self) -> Density {
        Density::of_large(self.growth.apart)
    }

    /// The pages that such a run is not to have as long as there are others: for a dense one the gap, and for a sparse one, where they
    /// lie apart, those from the split up.
    pub(super) fn others(&self, pages: usize, density: Density, books: &Books) -> Range<usize> {
        let Growth { edge, apart, split, gap, .. } = &self.growth;
        if GROWN == usize::MAX {
            return 0..0;
        }
        if density == Density::Sparse {
            return if *apart { split.load(Ordering::Relaxed)..self.pages } else { 0..0 };
        }
        if pages * PAGE >= GROWN_RUN && edge.load(Ordering::Relaxed) == self.pages {
            self.set_edge(books.thp());
        }
        let end = if *apart { split } else { edge }.load(Ordering::Relaxed);
        // Without an edge there is no gap.
        if end == self.pages { 0..0 } else { gap.load(Ordering::Relaxed)..end }
    }

    /// Told when memory of this arena has gone back.
    pub(super) fn ebb(&self) {
        let Growth { reach, edge, apart, gap, .. } = &self.growth;
        let old = edge.load(Ordering::Relaxed);
        let new = self.block_from(reach.load(Ordering::Relaxed));
        if old < new && edge.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            if !apart {
                gap.store(new, Ordering::Relaxed);
            }
            os::advise_thp(self.start() + old * PAGE, (new - old) * PAGE, Thp::Never);
        }
    }

    /// Whether the invariant holds, while no other thread uses the arena.
    pub(super) fn growth_holds(&self) -> bool {
        let reach = self.growth.reach.load(Ordering::Relaxed);
        GROWN == usize::MAX
            || self.growth.open.load(Ordering::Relaxed) >= reach
                && words_of(reach, self.pages - reach)
                    .all(|(word, mask)| self.used()[word].load(Ordering::Relaxed) & mask == 0)
    }

    /// Forgets what was advised: somebody has advised otherwise.
    pub(super) fn forget_growth(&self) {
        self.growth.edge.store(self.pages, Ordering::Relaxed);
        self.growth.split.store(self.pages, Ordering::Relaxed);
    }

    /// The first page from this one on at which a huge page may begin, or the arena's end.
    fn block_from(&self, page: usize) -> usize {
        let block = (self.start() + page * PAGE).next_multiple_of(ARENA_ALIGN);
        ((block - self.start()) / PAGE).min(self.pages)
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;
    use crate::arena::{Arenas, Fill};
    use crate::os::fake::System;

    /// Pages of a huge page, of what dense runs use before any is asked for, and of the gap.
    const BLOCK: usize = ARENA_ALIGN / PAGE;
    const LITTLE: usize = GROWN / PAGE;
    const APART: usize = GAP / PAGE;

    fn edges(arenas: &Arenas) -> std::vec::Vec<usize> {
        arenas.iter().map(|arena| arena.growth.edge.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn sparse_runs_ask_for_nothing_and_have_the_gap() {
        let _system = System::fresh();
        let arenas = Arenas::new();
        let dense = |pages| arenas.take_run(pages, 1, Fill::Any).expect("memory");
        let sparse = || arenas.take_sparse_run(1).expect("memory");
        let mut runs: std::vec::Vec<_> = (0..(LITTLE - 1) / (BLOCK - 1)).map(|_| dense(BLOCK - 1)).collect();
        runs.extend((0..BLOCK).map(|_| sparse()));
        let (start, all) = arenas.iter().next().map(|arena| (arena.first_page, arena.pages)).expect("an arena");
        assert_eq!(edges(&arenas), [all], "a small heap, and what is sparse, ask for nothing");
        let last = dense(BLOCK - 1);
        let reach = last.page + last.pages - start;
        let edge = edges(&arenas)[0];
        assert!((reach + APART..reach + APART + BLOCK).contains(&edge), "{edge}");
        let next = dense(1);
        assert_eq!(next.page, start + edge, "what is dense leaves the gap");
        let begun = sparse();
        assert_eq!(begun.page, start + reach, "and what is sparse is there");
        let arena = arenas.iter().next().expect("an arena");
        assert_eq!(arena.others(1, Density::Dense, &arenas.books), reach + 1..edge);
        assert!(arenas.extend_run(last.page, last.pages, last.pages + 2).is_none(), "nor does a run grow into it");
        // All that is left beside the gap, and then the gap.
        runs.extend((edge + 1..all).map(|_| dense(1)));
        assert_eq!(dense(1).page, start + reach + 1, "unless there is no other room");
        assert_eq!(arenas.iter().count(), 1);
    }

    #[test]
    fn an_arena_that_is_had_again_grows_as_if_it_were_new() {
        let system = System::fresh();
        system.set_keeps(true);
        let arenas = Arenas::new();
        let numbers = || {
            let arena = arenas.iter().next().expect("an arena");
            let Growth { reach, sparse, edge, gap, open, .. } = &arena.growth;
            [reach, sparse, edge, gap, open].map(|number| number.load(Ordering::Relaxed))
        };
        let turn = || {
            let sparse = arenas.take_sparse_run(1).expect("memory");
            let begun = numbers();
            let runs = [sparse, arenas.take_run(BLOCK, 1, Fill::Any).expect("memory")];
            let grown = (begun, numbers());
            runs.iter().for_each(|run| arenas.give_run(run.page, run.pages));
            arenas.abandon_free();
            grown
        };
        let first = turn();
        assert!(first.1.iter().all(|number| *number > 0), "{first:?}");
        assert_eq!(arenas.reserved(), 0, "it was given up");
        assert_eq!(turn(), first);
        assert_eq!(arenas.published().count(), 1, "it is the same arena");
    }

    #[test]
    fn the_edge_follows_the_reach_when_memory_goes_back() {
        let _system = System::fresh();
        let arenas = Arenas::new();
        let take = |pages| arenas.take_run(pages, 1, Fill::Any).expect("memory");
        let first = take(BLOCK);
        let (start, all) = arenas.iter().next().map(|arena| (arena.first_page, arena.pages)).expect("an arena");
        let edge = edges(&arenas)[0];
        assert!(
            (APART..APART + BLOCK).contains(&edge) && first.page == start + edge,
            "a run as long as a huge page: {edge}"
        );
        let second = take(3 * BLOCK);
        assert_eq!(edges(&arenas), [edge], "what is passed meanwhile keeps what it has");
        assert_eq!(arenas.purge(), 0);
        assert_eq!(edges(&arenas), [edge], "nothing has gone back");
        arenas.give_run(first.page, first.pages);
        assert_eq!(arenas.purge(), BLOCK * PAGE);
        assert_eq!(edges(&arenas), [edge + 4 * BLOCK]);
        let third = take(2);
        assert_eq!(third.page, start, "there is no gap any more");
        // A later arena has it from its beginning.
        let fourth = take(all - BLOCK);
        assert_eq!(edges(&arenas), [edge + 4 * BLOCK, 0]);
        arenas.set_thp(Thp::Never);
        let ends: std::vec::Vec<usize> = arenas.iter().map(|arena| arena.pages).collect();
        assert_eq!(edges(&arenas), ends);
        for run in [second, third, fourth] {
            arenas.give_run(run.page, run.pages);
        }
        arenas.purge();
        assert_eq!(edges(&arenas), ends, "what was set stays");
        assert_eq!(arenas.check(), Ok(0));
    }

    #[test]
    fn a_slow_huge_page_is_the_last_for_a_while() {
        let system = System::fresh();
        let arenas = Arenas::new();
        let take = |pages| {
            let run = arenas.take_run(pages, 1, Fill::Any).expect("memory");
            arenas.try_huge(run.page, run.pages);
            run
        };
        system.set_touch(SLOW_US - 1);
        let first = take(2 * BLOCK);
        let (start, all) = arenas.iter().next().map(|arena| (arena.first_page, arena.pages)).expect("an arena");
        let edge = edges(&arenas)[0];
        assert_eq!(first.page, start + edge, "one that is not slow changes nothing");
        system.set_touch(SLOW_US);
        let untimed: std::vec::Vec<_> = (BLOCK..TIMED_PART * BLOCK).map(|_| take(1)).collect();
        assert_eq!(edges(&arenas), [edge], "nobody looks at these");
        assert_eq!(untimed[0].page, start + edge + 2 * BLOCK);
        take(1);
        assert_eq!(edges(&arenas), [all], "none is asked for");
        // An arena that is long enough to ask again.
        let last = loop {
            take(4 * BLOCK);
            match arenas.iter().last() {
                Some(arena) if arena.bytes() > 3 * AGAIN => break arena,
                _ => {}
            }
        };
        let asks = |last: &Arena| last.growth.edge.load(Ordering::Relaxed) < last.pages;
        let reach = |last: &Arena| last.growth.reach.load(Ordering::Relaxed);
        assert!(!asks(last), "its first was slow");
        let first = reach(last);
        while !asks(last) {
            take(1);
        }
        assert_eq!(reach(last), first + AGAIN / PAGE);
        while asks(last) {
            take(BLOCK);
        }
        let second = reach(last);
        assert!(second <= first + (AGAIN + GAP) / PAGE + 3 * BLOCK, "the next was slow too");
        assert_eq!(last.growth.again.load(Ordering::Relaxed), second + 2 * AGAIN / PAGE);
        assert!(arenas.iter().all(Arena::growth_holds));
    }

    #[test]
    fn a_huge_page_is_timed_after_a_while_and_where_a_run_is_as_long() {
        for long in [true, false] {
            let system = System::fresh();
            let arenas = Arenas::new();
            let take = |pages| {
                let run = arenas.take_run(pages, 1, Fill::Any).expect("memory");
                arenas.try_huge(run.page, run.pages);
            };
            take(2 * BLOCK);
            let all = arenas.iter().next().map(|arena| arena.pages).expect("an arena");
            let edge = edges(&arenas);
            system.set_touch(SLOW_US);
            if long {
                take(BLOCK);
            } else {
                // Each first page of a huge page, and the rest of it.
                for ms in [0, TIMED_MS as u64 - 1] {
                    system.advance_ms(ms);
                    take(1);
                    take(BLOCK - 1);
                    assert_eq!(edges(&arenas), edge, "nobody looks at it");
                }
                system.advance_ms(1);
                take(1);
            }
            assert_eq!(edges(&arenas), [all], "it was slow");
        }
    }

    #[test]
    fn a_sealed_arena_opens_as_it_is_used() {
        let _system = System::fresh();
        let arenas = Arenas::new();
        arenas.seal();
        let take = |pages| arenas.take_run(pages, 1, Fill::Any).expect("memory");
        let open = || arenas.iter().next().expect("an arena").growth.open.load(Ordering::Relaxed);
        let first = take(1);
        assert_eq!(open(), SEAL_STEP);
        let second = take(SEAL_STEP - 1);
        assert_eq!(open(), SEAL_STEP, "there is room");
        let third = take(2 * SEAL_STEP + 1);
        assert_eq!(open(), 4 * SEAL_STEP);
        let margins = 2 * ARENA_ALIGN;
        assert_eq!(arenas.reserved(), arenas.iter().map(Arena::bytes).sum::<usize>() + margins);
        for run in [first, second, third] {
            arenas.give_run(run.page, run.pages);
        }
        assert_eq!(arenas.check(), Ok(0));
        arenas.abandon_free();
        assert_eq!(arenas.reserved(), 0, "the margins go with it");
    }
}
