//! A heap as a value: its caches go with those of the global heap, and it ends.
//!
//! A thread has one cache of the global heap, with an index of its own as long as it lives, and a word that names it as the
//! owner. Its cache of any other heap is the node with the same index there, found by a shift and a load, without a table
//! of the thread's; and it is the thread's while it bears the same word. At its first use a thread *claims* the node by one
//! exchange, from an owner that is no more: what lies in it is then the thread's, once its bins are set right, in whose middle
//! that owner may have vanished (`fork`). Whoever looks for what threads that have ended left, *adopts* the node by an exchange of
//! the same word. Neither the end of a thread nor the end of a heap has anything to settle with the other.
//!
//! | state of a cache | owner |
//! |---|---|
//! | not yet reached; `FREE` | nobody |
//! | `LIVE`, with the word of the global cache of its index | that thread |
//! | `LIVE`, with another word | nobody: claimed by the thread that has the index now, or adopted |
//! | `ADOPTED` | the adopter, until it is free, or, once that has vanished, whoever is alone; the index's thread does without meanwhile |
//!
//! Invariant: a thread uses a cache only while both bear its word, which no other thread ever has.

use super::Heap;
use crate::os;
use crate::slab::Slab;
use crate::sync::Ordering;
use crate::tagged::Index;
use crate::thread_cache::ThreadCache;

/// How many caches a claiming thread looks at, whether their owners have ended.
const ASK: u32 = 2;

impl Heap {
    /// The cache that goes with `own`, the calling thread's cache among those of the `global` heap. `None` if there is no memory for it, or
    /// somebody is emptying it.
    #[inline]
    pub(crate) fn cache_of(&self, own: &ThreadCache, global: &Slab<ThreadCache>) -> Option<&ThreadCache> {
        match self.caches.reached(own.index()) {
            Some(cache) if cache.has_word_of(own) => Some(cache),
            _ => self.claim(own, global),
        }
    }

    #[cold]
    fn claim(&self, own: &ThreadCache, global: &Slab<ThreadCache>) -> Option<&ThreadCache> {
        let index = own.index();
        let made = self.caches.made();
        if made > 0 {
            let first = self.asked.fetch_add(ASK, Ordering::Relaxed);
            for at in 0..ASK {
                self.flush_ended(first.wrapping_add(at) % made + 1, global);
            }
        }
        let cache = match self.caches.reached(index) {
            Some(cache) if cache.index() == index => cache,
            _ => self.caches.reach(index)?,
        };
        // A cache that nobody has had is not touched for this.
        let is_left = cache.owner().is_some();
        if !cache.claim(own) {
            return None;
        }
        if is_left {
            cache.set_right(&self.magazines);
        }
        self.find_home(cache);
        Some(cache)
    }

    /// Gives back what lies in the caches of threads that have ended: those whose word no cache in `global` bears.
    /// Says whether there was any.
    pub(crate) fn flush_all_ended(&self, global: &Slab<ThreadCache>) -> bool {
        (1..self.caches.made() + 1).filter(|index| self.flush_ended(*index, global)).count() > 0
    }

    fn flush_ended(&self, index: Index, global: &Slab<ThreadCache>) -> bool {
        let cache = self.caches.get(index);
        let Some(owner) = cache.owner() else { return false };
        if global.get(index).is_owned(owner) || !cache.adopt(owner) {
            return false;
        }
        self.empty(cache);
        true
    }

    /// Gives back what lies in a cache that the caller has adopted, and lets it go.
    fn empty(&self, cache: &ThreadCache) {
        self.flush(cache);
        // Whoever had it may have vanished in between.
        cache.discharge(usize::MAX);
        cache.leave();
    }

    /// Goes on with caches whose adopter has vanished: those are all that are adopted, if the calling thread is alone, which is asked
    /// where there is one. Says whether there was any.
    pub(crate) fn flush_all_left(&self, is_alone: impl FnOnce() -> bool) -> bool {
        let mut left = self.caches.iter().filter(|cache| cache.is_adopted()).peekable();
        let are_left = left.peek().is_some() && is_alone();
        if are_left {
            left.for_each(|cache| self.empty(cache));
        }
        are_left
    }

    /// Gives all memory back to the system at once, and the heap's tables.
    ///
    /// # Safety
    /// Nothing that the heap has given out is used any more, and neither is the heap.
    pub(crate) unsafe fn dispose(&self) {
        self.clear_kept(|_| true);
        for (node, bytes) in self.huges() {
            os::release(node.head.start(), bytes);
        }
        // SAFETY: the caller's word.
        unsafe {
            self.caches.dispose();
            self.magazines.dispose();
            self.larges.dispose();
            self.spans.dispose();
        }
    }
}
