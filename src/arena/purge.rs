//! Purges: free dirty pages are claimed, their memory goes back to the system, and they are free again, clean. And visits: free
//! pages are claimed, something that belongs to them elsewhere is changed, and they are free again.
//!
//! Whoever purges a part of an arena takes some words of the bitmap for itself, where the last one left off. Purges go from the
//! top down, since searches for free pages begin at the bottom. A purge of all goes through all words by itself.
//!
//! The system may refuse, and go on refusing (locked memory). So a limit counts what is tried, not what succeeds, and a visit
//! ends after some refusals in a row.

use super::bits::{ones, runs_of};
use super::region::{Arena, Books};
use crate::config::{PAGE, PAGE_SHIFT, PURGE_FAILURES, PURGE_WORDS};
use crate::log::{Bytes, tell};
use crate::os::{self, Purged};
use crate::sync::{Fault, Ordering, Point, planted, point};

/// What a purge has done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Purge {
    /// Bytes that the system has taken back.
    pub(crate) gone: usize,
    /// Bytes that it was asked to.
    pub(crate) tried: usize,
    /// How many times in a row it may still refuse, and how many times at all.
    left: u32,
    patience: u32,
}

impl Purge {
    fn new(patience: u32) -> Self {
        Self { gone: 0, tried: 0, left: patience, patience }
    }
}

impl Arena {
    /// Purges all free dirty pages, and takes what has gone off the books. Returns bytes.
    pub(crate) fn purge_all(&self, books: &Books) -> usize {
        let mut purge = Purge::new(u32::MAX);
        for word in (0..self.words).rev() {
            // Relaxed: a page given back a moment later is for the next purge.
            if self.dirty_free.load(Ordering::Relaxed) == 0 {
                break;
            }
            self.visit_word(word, true, &mut purge, books);
        }
        books.committed.fetch_sub(purge.gone, Ordering::Relaxed);
        purge.gone
    }

    /// Purges free dirty pages in words of the bitmap, beginning where the last call left off: at most `words` of them,
    /// and little more than `limit` bytes. All such pages, or only those that were so at the last visit already. Takes
    /// what has gone off the books.
    pub(crate) fn purge_some(&self, all: bool, words: usize, limit: usize, books: &Books) -> Purge {
        let mut purge = Purge::new(PURGE_FAILURES);
        let mut left = words.min(self.words);
        let enough = |purge: &Purge| purge.tried >= limit || purge.left == 0;
        // Relaxed: as above.
        while left > 0 && !enough(&purge) && self.dirty_free.load(Ordering::Relaxed) > 0 {
            let count = left.min(PURGE_WORDS);
            left -= count;
            let first = self.visit.fetch_add(count, Ordering::Relaxed);
            let (mut next, end) = (first, first.wrapping_add(count));
            while next != end && !enough(&purge) {
                self.visit_word(self.words - 1 - next % self.words, all, &mut purge, books);
                next = next.wrapping_add(1);
            }
            if next != end {
                // The rest is for the next call, unless somebody has gone on behind it.
                let _ = self.visit.compare_exchange(end, next, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        books.committed.fetch_sub(purge.gone, Ordering::Relaxed);
        purge
    }

    /// Calls `visit` with the number of each free page, which is the caller's meanwhile: 64 at a time are claimed.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn visit_free(&self, books: &Books, mut visit: impl FnMut(usize)) {
        for (word, used) in self.used().iter().enumerate().rev() {
            // Relaxed: a page given back a moment later is for the next visit.
            let free = !used.load(Ordering::Relaxed) & ones((self.pages - word * 64).min(64));
            if free == 0 {
                continue;
            }
            let claimed = self.borrow(word, free);
            point(Point::Sweep);
            for (bit, len) in runs_of(claimed) {
                (0..len).for_each(|at| visit(self.first_page + word * 64 + bit + at));
            }
            self.hand_back(word, claimed);
        }
        // A search may have missed them.
        books.stir();
    }

    /// Purges the free dirty pages of a word: all, or those that were so at the last visit already.
    fn visit_word(&self, word: usize, all: bool, purge: &mut Purge, books: &Books) {
        let dirty = self.dirty()[word].load(Ordering::Relaxed);
        let free = dirty & !self.used()[word].load(Ordering::Relaxed);
        let due = if all { free } else { free & self.aged()[word].load(Ordering::Relaxed) };
        if due != 0 {
            self.purge_word(word, due, purge, books);
        }
        if free != due {
            // Relaxed: a hint. A page taken meanwhile is purged a little early, once it is free again.
            self.aged()[word].fetch_or(free & !due, Ordering::Relaxed);
        }
    }

    /// Purges those of `due` that can be claimed.
    fn purge_word(&self, word: usize, due: u64, purge: &mut Purge, books: &Books) {
        let claimed = self.borrow(word, due);
        // Pages in `due` that another claimed first stay theirs; those that are ours may have been purged meanwhile.
        let ours = claimed & self.dirty()[word].load(Ordering::Relaxed);
        let (mut gone, mut zero) = (0u64, 0u64);
        for (bit, len) in runs_of(ours) {
            if purge.left == 0 {
                break;
            }
            let at = (self.first_page + word * 64 + bit) << PAGE_SHIFT;
            point(Point::Purge);
            let outcome = os::purge(at, len * PAGE);
            tell!(&books.voice, Os, "{} purged at {at:#x}: {outcome}", Bytes(len * PAGE));
            purge.tried += len * PAGE;
            purge.left = if outcome == Purged::Failed { purge.left - 1 } else { purge.patience };
            if outcome != Purged::Failed {
                gone |= ones(len) << bit;
            }
            if outcome == Purged::Zero {
                zero |= ones(len) << bit;
            }
        }
        // In this order, as in `commit`.
        self.dirty()[word].fetch_and(!gone, Ordering::Relaxed);
        if planted(Fault::GiveStore) {
            self.touched()[word].store(self.touched()[word].load(Ordering::Relaxed) & !zero, Ordering::Relaxed);
        } else {
            self.touched()[word].fetch_and(!zero, Ordering::Relaxed);
        }
        self.aged()[word].fetch_and(!gone, Ordering::Relaxed);
        self.dirty_free.fetch_sub(gone.count_ones(), Ordering::Relaxed);
        purge.gone += gone.count_ones() as usize * PAGE;
        self.hand_back(word, claimed);
    }

    /// Claims those of a word's pages that are free: which they were.
    fn borrow(&self, word: usize, pages: u64) -> u64 {
        if planted(Fault::PurgeUnclaimed) {
            return pages;
        }
        // ORDERING: Acquire as in `claim`: the last owner's work on the pages is done and visible.
        pages & !self.used()[word].fetch_or(pages, Ordering::Acquire)
    }

    /// Gives up claims of pages that are as free as before.
    fn hand_back(&self, word: usize, claimed: u64) {
        if planted(Fault::PurgeUnclaimed) {
            return;
        }
        // ORDERING: Release, as in `unclaim`: what was done to them, and their bits, are visible to the next owner.
        self.used()[word].fetch_and(!claimed, Ordering::Release);
        // A search may have missed them, and one for a dirty page too.
        if self.dirty()[word].load(Ordering::Relaxed) & claimed != 0 {
            self.dirty_hint.fetch_min(word, Ordering::Relaxed);
        }
        runs_of(claimed).for_each(|(bit, len)| self.freed(word * 64 + bit, len));
    }
}
