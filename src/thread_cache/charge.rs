//! What a cache may hold, and what it takes of its pools.
//!
//! Each magazine that a cache has, loaded or spare, is charged with what it can hold. Who wants one more and may not puts
//! another class's out, in turn. Thieves take spares without a word and leave a mark: then the owner counts anew, and
//! only then, since that is a walk over all bins.
//!
//! Carves begin small and double. An owner that has not allocated any chunk of a class is a *stranger* to it; chunks smaller
//! than a line of the processor's caches that others hand it are not served to it.
//!
//! Only the owner comes here, but thieves to leave that mark. Invariant: `charge` is at least the bytes that loaded and spare
//! magazines can hold, and at most `CACHE_BYTES`.

use super::ThreadCache;
use crate::config::{CACHE_BYTES, FIRST_CARVE, LINE};
use crate::pool::Portion;
use crate::size_class::{CLASSES, Class, INFO};
use crate::sync::{Fault, Ordering, planted};

impl ThreadCache {
    /// What the owner's next carve of a class should take: few chunks at first, so that many threads with few chunks each
    /// share OS pages, but no lines; and twice as many each time.
    pub(crate) fn portion(&self, class: Class) -> Portion {
        let lines = self.is_stranger(class);
        self.settle_in(class);
        let chunks = self.bins[class].portion.load(Ordering::Relaxed);
        self.bins[class].portion.store((2 * chunks).min(INFO[class].slots as u32), Ordering::Relaxed);
        Portion { chunks: chunks as usize, lines }
    }

    /// Whether chunks of the class share lines of the processor's caches, and the owner has had none but what others handed
    /// it, less than a magazine.
    pub(crate) fn is_stranger(&self, class: Class) -> bool {
        INFO[class].size < LINE && self.bins[class].portion.load(Ordering::Relaxed) == 0
    }

    /// Says that the owner is no stranger to a class any more.
    pub(crate) fn settle_in(&self, class: Class) {
        let portion = &self.bins[class].portion;
        if portion.load(Ordering::Relaxed) == 0 {
            let (size, slots) = (INFO[class].size, INFO[class].slots);
            // Eight chunks are whole lines, whatever their size.
            let grain = if size < LINE { 8 } else { 1 };
            portion.store((FIRST_CARVE / size).next_multiple_of(grain).clamp(1, slots) as u32, Ordering::Relaxed);
        }
    }

    /// Whether `bytes` more may be held; if so, they are charged.
    pub(crate) fn charge(&self, bytes: usize) -> bool {
        let charged = self.charge.load(Ordering::Relaxed) + bytes;
        if charged > CACHE_BYTES && (self.robbed.load(Ordering::Relaxed) == 0 || self.recount() + bytes > CACHE_BYTES) {
            return false;
        }
        self.charge.store(self.charge.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
        true
    }

    /// Has the owner count its charge anew when it is next full: spares were taken.
    pub(crate) fn note_theft(&self) {
        // ORDERING: Release pairs with `recount`: whoever takes the mark sees what was stolen before. Not a store: that of another
        // thief may lie below, and it is taken with this.
        self.robbed.swap(1, Ordering::Release);
    }

    /// Takes `bytes` off the charge.
    pub(crate) fn discharge(&self, bytes: usize) {
        self.charge.store(self.charge.load(Ordering::Relaxed).saturating_sub(bytes), Ordering::Relaxed);
    }

    /// Counts the charge anew: thieves take spares without a word.
    #[cold]
    fn recount(&self) -> usize {
        if planted(Fault::RobbedStore) {
            self.robbed.store(0, Ordering::Relaxed);
        } else {
            // ORDERING: Acquire pairs with `note_theft`. What is not seen is stolen before a mark that stays.
            self.robbed.swap(0, Ordering::Acquire);
        }
        let charge = (0..CLASSES)
            .map(|class| (self.is_loaded(class) as usize + self.spare_count(class)) * INFO[class].magazine_bytes())
            .sum();
        self.charge.store(charge, Ordering::Relaxed);
        charge
    }

    /// The next class, in turn, that holds a magazine and is not `except`.
    pub(crate) fn next_victim(&self, except: Class) -> Option<Class> {
        let next = self.hand.load(Ordering::Relaxed) + 1;
        let holds = |class: Class| self.is_loaded(class) || self.spare_count(class) > 0;
        // Two ranges: a remainder for each class takes longer than the look at it.
        let victim = (next..CLASSES).chain(0..next).find(|class| *class != except && holds(*class))?;
        self.hand.store(victim, Ordering::Relaxed);
        Some(victim)
    }
}
