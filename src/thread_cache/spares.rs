//! Spares and empties: the magazines that a thread keeps beside those that are loaded.
//!
//! | what | owner |
//! |---|---|
//! | full spares of a class, in a chain that one word names | the owner; or a thief, from any thread, who takes the whole chain by an exchange |
//! | empty magazines | the owner alone |
//!
//! A mark says whether there may be spares, so that who looks for some need not look at each bin.
//!
//! Invariant: a magazine is in one chain at most, and a chain is as long as its word says.

use super::ThreadCache;
use super::bin::Chain;
use crate::config::{EMPTIES, SPARES};
use crate::pool::{Magazine, Magazines};
use crate::size_class::Class;
use crate::slab::Node;
use crate::sync::{Fault, Ordering, planted};
use crate::tagged::NONE;

impl ThreadCache {
    /// Puts a full magazine that the owner has in hand at the head of the spares. False: there are enough.
    pub(crate) fn put_spare(&self, class: Class, magazine: &Magazine, now: u32) -> bool {
        let spares = &self.bins[class].spares;
        // Relaxed: what a thief left is nothing; what the owner left is its own. The exchange makes the chain ours, as for
        // everybody who takes it.
        let old = Chain::from_bits(spares.swap(Chain::NONE, Ordering::Relaxed));
        let enough = old.len >= SPARES;
        let mut new = Chain { stamp: now as u16, ..old };
        if !enough {
            // ORDERING: Release pairs with the walks, which may stand at this magazine: what its link names is made.
            let link = if planted(Fault::LinkRelaxed) { Ordering::Relaxed } else { Ordering::Release };
            magazine.link().store(old.first, link);
            new = Chain { first: magazine.index(), len: old.len + 1, stamp: now as u16 };
        }
        // ORDERING: Release pairs with the Acquire of whoever takes the chain.
        let publish = if planted(Fault::SparePut) { Ordering::Relaxed } else { Ordering::Release };
        spares.store(new.bits(), publish);
        self.put_mark();
        !enough
    }

    /// Takes one spare magazine. Only the owner may.
    pub(crate) fn take_spare<'a>(&self, class: Class, magazines: &'a Magazines, now: u32) -> Option<&'a Magazine> {
        let spares = &self.bins[class].spares;
        if Chain::from_bits(spares.load(Ordering::Relaxed)).first == NONE {
            return None;
        }
        // Relaxed: what is there the owner has put there. A thief may have been faster.
        let chain = Chain::from_bits(spares.swap(Chain::NONE, Ordering::Relaxed));
        if chain.first == NONE {
            return None;
        }
        let magazine = magazines.get(chain.first);
        let rest = magazine.link().load(Ordering::Relaxed);
        if rest != NONE {
            let rest = Chain { first: rest, len: chain.len - 1, stamp: now as u16 };
            // ORDERING: Release pairs with the Acquire of whoever takes the chain.
            spares.store(rest.bits(), Ordering::Release);
        }
        Some(magazine)
    }

    /// Takes all spares of a class, from any thread, if they have rested for so many ticks; calls `take` with each. Who is not
    /// the owner leaves word by `note_theft`.
    pub(crate) fn steal_spares(
        &self,
        class: Class,
        magazines: &Magazines,
        rested: impl Fn(u16) -> bool,
        mut take: impl FnMut(&Magazine),
    ) {
        let spares = &self.bins[class].spares;
        let seen = Chain::from_bits(spares.load(Ordering::Relaxed));
        if seen.first == NONE || !rested(seen.stamp) {
            return;
        }
        let taken = if planted(Fault::StealCopies) {
            // ORDERING: as below.
            spares.load(Ordering::Acquire)
        } else {
            // ORDERING: Acquire pairs with the Release of `put_spare`.
            spares.swap(Chain::NONE, Ordering::Acquire)
        };
        let mut at = Chain::from_bits(taken).first;
        while at != NONE {
            let magazine = magazines.get(at);
            at = magazine.link().load(Ordering::Relaxed);
            take(magazine);
        }
    }

    /// Takes the mark that says whether there may be spares; a thief that leaves some [puts it back](Self::put_mark_back).
    pub(crate) fn take_mark(&self) -> bool {
        // Relaxed: only whether it is worth an exchange.
        if self.has_spares.load(Ordering::Relaxed) == 0 {
            return false;
        }
        if planted(Fault::MarkTake) {
            self.has_spares.store(0, Ordering::Relaxed);
            return true;
        }
        // ORDERING: Acquire pairs with `put_mark`, and `put_mark_back`: what was put before a mark that this takes is seen, and not left behind.
        self.has_spares.swap(0, Ordering::Acquire) != 0
    }

    /// Says that there may be spares. Only the owner may.
    pub(crate) fn put_mark(&self) {
        // ORDERING: Release pairs with `take_mark`.
        self.has_spares.store(1, Ordering::Release);
    }

    /// The same by anybody else: a thief that leaves some, or who does not know.
    pub(crate) fn put_mark_back(&self) {
        if planted(Fault::MarkBack) {
            return self.put_mark();
        }
        // Relaxed, but no store: what the owner has released goes on with it, so whoever takes this mark sees what that told of.
        self.has_spares.swap(1, Ordering::Relaxed);
    }

    /// Magazines in the chain of spares. From another thread, a moment's picture.
    pub(crate) fn spare_count(&self, class: Class) -> usize {
        Chain::from_bits(self.bins[class].spares.load(Ordering::Relaxed)).len as usize
    }

    /// Calls `visit` for each spare magazine. Exact while no other thread uses the cache, a moment's picture else.
    pub(crate) fn walk_spares(&self, class: Class, magazines: &Magazines, mut visit: impl FnMut(&Magazine)) {
        // ORDERING: Acquire pairs with the Release of `put_spare`.
        let chain = Chain::from_bits(self.bins[class].spares.load(Ordering::Acquire));
        let mut at = chain.first;
        for _ in 0..chain.len {
            if at == NONE {
                return;
            }
            let magazine = magazines.get(at);
            // ORDERING: Acquire pairs with whoever linked it, here or elsewhere meanwhile: what the link names is made.
            at = magazine.link().load(Ordering::Acquire);
            visit(magazine);
        }
    }

    /// An empty magazine: one of the thread's few, else one from the slab.
    #[inline(always)]
    pub(crate) fn take_empty<'a>(&self, magazines: &'a Magazines) -> Option<&'a Magazine> {
        match self.empties.load(Ordering::Relaxed) {
            NONE => magazines.take_near(self.home() as usize),
            index => {
                let magazine = magazines.get(index);
                self.empties.store(magazine.link().load(Ordering::Relaxed), Ordering::Relaxed);
                let count = self.empty_count.load(Ordering::Relaxed);
                self.empty_count.store(count.saturating_sub(1), Ordering::Relaxed);
                Some(magazine)
            }
        }
    }

    /// Keeps an empty magazine, or returns it to the slab.
    #[inline(always)]
    pub(crate) fn put_empty(&self, magazines: &Magazines, magazine: &Magazine) {
        let count = self.empty_count.load(Ordering::Relaxed);
        if count >= EMPTIES {
            return magazines.give_near(self.home() as usize, magazine.index());
        }
        // ORDERING: Release, as in `put_spare`: a walk of spares may stand at this magazine still.
        let link = if planted(Fault::LinkRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        magazine.link().store(self.empties.load(Ordering::Relaxed), link);
        self.empties.store(magazine.index(), Ordering::Relaxed);
        self.empty_count.store(count + 1, Ordering::Relaxed);
    }

    /// Returns all empty magazines to the slab.
    pub(crate) fn give_empties(&self, magazines: &Magazines) {
        while self.empties.load(Ordering::Relaxed) != NONE {
            if let Some(magazine) = self.take_empty(magazines) {
                magazines.give_near(self.home() as usize, magazine.index());
            }
        }
        // An owner that vanished between chain and count left them apart.
        self.empty_count.store(0, Ordering::Relaxed);
    }

    /// Calls `visit` for each empty magazine, while no other thread uses the cache.
    pub(crate) fn walk_empties(&self, magazines: &Magazines, mut visit: impl FnMut(&Magazine)) {
        let mut at = self.empties.load(Ordering::Relaxed);
        let mut count = 0;
        while at != NONE && count <= EMPTIES {
            let magazine = magazines.get(at);
            at = magazine.link().load(Ordering::Relaxed);
            visit(magazine);
            count += 1;
        }
    }

    /// How many empty magazines the thread keeps.
    pub(crate) fn empties(&self) -> usize {
        self.empty_count.load(Ordering::Relaxed) as usize
    }
}
