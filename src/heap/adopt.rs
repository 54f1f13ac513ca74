//! Threads come and go: joining, leaving, and adopting the caches of those that vanished.
//!
//! A thread vanishes when another one forks, in the child; or when it ends without its destructors (or allocates for
//! the first time in the last of them). Nothing it could have held is a lock, so nobody waits; its cache is settled by
//! whoever notices.
//!
//! *Fork.* Each cache has a word in memory that the kernel wipes in the child. The forking thread, and only it, finds
//! the word of its own live cache wiped: so it knows that it is alone of its kind, and adopts every other live cache
//! whose word is wiped too. Threads born in the child have set theirs. It does so at a slow path, not in a fork handler:
//! a child that calls `exec` at once copies no page.
//!
//! A forking thread that has no cache, not yet or no more, is known by being the first thread of its process. If it comes
//! here without one, to make it or on the shared path, every live cache that is not heard of is a vanished thread's. No
//! other thread can know that before: the forking thread may have a cache and not have used it yet. So until it comes,
//! what the vanished had cached stays where it is, bounded by `CACHE_BYTES` a thread; those born in the child and ended
//! there are asked for all the same. In the child of a `vfork` the first thread proves nothing of the kind, so nobody
//! adopts in this way, and nobody repairs, where a thread of another process is heard of.
//!
//! *Other ends.* A thread that joins, or that gets no cache, asks the system for two others, in turn, whether they still exist. The
//! system knows only those of the caller's own process, so a cache's word is the number of the process in which its thread was heard of.
//! The child of a `vfork` has memory and slot in common with the thread that made it: a cache that it makes is then that
//! thread's, under the number of a process that is no more, and nobody asks for it.

use super::Heap;
use crate::config::{THREADS, ZERO_IS_NODE};
use crate::os;
use crate::size_class::CLASSES;
use crate::sync::{AtomicU32, Fault, Ordering, Point, planted, point};
use crate::tagged::Index;
use crate::thread_cache::ThreadCache;
use core::ptr;

/// How many caches a joining thread asks for.
const ASK: u32 = 2;

impl Heap {
    /// A cache for the calling thread; `None` if there is no memory for one, or too many threads have one.
    pub(crate) fn join(&self, wipe: extern "C" fn()) -> Option<&ThreadCache> {
        self.hear(wipe)?;
        self.settle_without_cache();
        let process = os::process_id();
        let guest = self.guest();
        let Some(cache) = self.caches.take_below(THREADS as Index) else {
            // Who gets none comes again at the next miss, and by then those of a few that have ended may be free.
            self.adopt_ended(process);
            return None;
        };
        if planted(Fault::JoinUnheard) {
            cache.join(os::thread_id());
        }
        // Relaxed: `join` publishes it.
        self.heard(cache.index()).store(process, Ordering::Relaxed);
        cache.join(os::thread_id());
        self.find_home(cache);
        drop(guest);
        self.adopt_ended(process);
        Some(cache)
    }

    /// Ends the calling thread's use of its cache.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn leave(&self, cache: &ThreadCache) {
        self.settle_fork(cache);
        if planted(Fault::LeaveEarly) {
            cache.leave();
            self.caches.give(cache.index());
            return self.hand_over_all(cache);
        }
        self.hand_over_all(cache);
        let _guest = self.guest();
        cache.leave();
        self.caches.give(cache.index());
    }

    /// Does nothing, but in the forking thread of a new child once.
    #[inline]
    pub(crate) fn settle_fork(&self, cache: &ThreadCache) {
        if self.is_unsettled(cache) {
            self.settle_unheard(cache);
        }
    }

    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn settle_unheard(&self, cache: &ThreadCache) {
        let heard = self.heard(cache.index());
        let process = os::process_id();
        if planted(Fault::HeardEarly) {
            // ORDERING: as below.
            heard.store(process, Ordering::Release);
        }
        cache.renumber(os::thread_id());
        // ORDERING: Release, and this order: pairs with the Acquire in `adopt_ended`. Whoever finds the word set finds
        // the cache under its new number, and so cannot take it for that of the old one, which no thread has here.
        heard.store(process, Ordering::Release);
        self.adopt_unheard();
    }

    /// Whether the caller, whose cache this is, has a fork to settle.
    #[inline]
    pub(super) fn is_unsettled(&self, cache: &ThreadCache) -> bool {
        // Relaxed: whoever has a cache has acquired them by `heard`, in `join`. A heap whose caches go with those of another has
        // no words.
        let words = self.heard.load(Ordering::Relaxed);
        // SAFETY: as in `heard`.
        !words.is_null() && unsafe { &*words.add(cache.index() as usize) }.load(Ordering::Relaxed) == 0
    }

    /// What a thread without a cache does before anything else here. Does nothing, but in the forking thread of a new child
    /// once.
    pub(crate) fn settle_without_cache(&self) {
        // Relaxed: `heard` acquires them. Without words, no thread has ever had a cache.
        if self.heard.load(Ordering::Relaxed).is_null() || self.heard(0).load(Ordering::Relaxed) != 0 {
            return;
        }
        if os::is_first_thread() && !self.is_shared(os::process_id()) {
            self.adopt_unheard();
        }
    }

    /// Whether the calling thread is the only one in this memory.
    pub(crate) fn is_alone(&self, process: u32) -> bool {
        os::is_alone() && !self.is_shared(process)
    }

    /// Whether the calling thread is its process's first, with this cache, and no other has one, or is in the allocator without.
    pub(crate) fn has_one_thread(&self, own: &ThreadCache) -> bool {
        let others = self.caches.iter().any(|cache| cache.owner().is_some() && cache.index() != own.index());
        os::is_first_thread() && !others && self.guests.load(Ordering::Relaxed) == 0
    }

    /// Whether a thread of another process has been heard of in this memory: one of the two is the other's `vfork`.
    fn is_shared(&self, process: u32) -> bool {
        self.caches.iter().any(|cache| {
            let heard = cache.owner().map_or(0, |_| self.heard(cache.index()).load(Ordering::Relaxed));
            heard != 0 && heard != process
        })
    }

    /// Makes the words that tell a child from its parent. Built privately, published by one exchange.
    fn hear(&self, wipe: extern "C" fn()) -> Option<()> {
        // Relaxed: only whether they are there; `heard` acquires them.
        if !self.heard.load(Ordering::Relaxed).is_null() {
            return Some(());
        }
        let bytes = THREADS * size_of::<AtomicU32>();
        let at = os::wiped_metadata(bytes, wipe)?;
        let words = ptr::with_exposed_provenance_mut::<AtomicU32>(at);
        if !ZERO_IS_NODE {
            for word in 0..THREADS {
                // SAFETY: inside the bytes reserved just now.
                unsafe { words.add(word).write(AtomicU32::new(0)) };
            }
        }
        // Their OS page would take two faults, were it read before it is written to: and the first search reads it.
        self.spans.arenas.stir();
        point(Point::FirstUse);
        // ORDERING: Release publishes the words; pairs with the Acquire loads. The loser's are undone.
        let publish = if planted(Fault::HearRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        if self.heard.compare_exchange(ptr::null_mut(), words, publish, Ordering::Relaxed).is_err() {
            os::release_wiped(at, bytes);
        }
        // Who finds a zero there meanwhile, without a cache, looks for caches that are not heard of: there are none.
        self.heard(0).store(os::process_id(), Ordering::Relaxed);
        Some(())
    }

    /// The word by which the thread with this cache is known in this process.
    pub(crate) fn heard(&self, index: Index) -> &AtomicU32 {
        // ORDERING: Acquire pairs with the exchange in `hear`, which every caller's cache came after.
        let words = self.heard.load(Ordering::Acquire);
        // SAFETY: published, with a word for every index below `THREADS`, and there for ever.
        unsafe { &*words.add(index as usize) }
    }

    /// Wipes the words where the kernel does not: in a child, before anything else runs there.
    pub(crate) fn wipe(&self) {
        // Relaxed, as in `hear`.
        if !self.heard.load(Ordering::Relaxed).is_null() {
            (0..=self.caches.made()).for_each(|index| self.heard(index).store(0, Ordering::Relaxed));
        }
    }

    /// Adopts every live cache that has not been heard of in this process.
    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn adopt_unheard(&self) {
        let process = os::process_id();
        self.heard(0).store(process, Ordering::Relaxed);
        let mut adopted = false;
        for cache in self.caches.iter() {
            // A cache's word is set before the cache is live, so a thread that was born meanwhile is not mistaken.
            // One that was being settled by a thread which has vanished too: a repair goes on with it.
            adopted |= cache.is_adopted();
            let Some(owner) = cache.owner() else { continue };
            if self.heard(cache.index()).load(Ordering::Relaxed) == 0 && cache.adopt(owner) {
                self.settle(cache);
                adopted = true;
            }
        }
        // Only another thread can have had something in hand. Nobody can start one while this one is here. Those of a
        // process that shares this one's memory are not counted by the system.
        if (adopted || self.guests.load(Ordering::Relaxed) > 0) && self.is_alone(process) {
            self.guests.store(0, Ordering::Relaxed);
            self.repair();
        }
    }

    /// Adopts the caches of threads of the calling process that ended without a word, of a few at a time.
    fn adopt_ended(&self, process: u32) {
        let made = self.caches.made();
        if made == 1 {
            // The caller's own, if it has one.
            return;
        }
        let first = self.asked.fetch_add(ASK, Ordering::Relaxed);
        for at in 0..ASK.min(made) {
            let cache = self.caches.get(first.wrapping_add(at) % made + 1);
            // The owner first: `join` sets the word before it makes the cache live, `settle_fork` after it has.
            let Some(owner) = cache.owner() else { continue };
            // Of threads of another process the system would say that they are gone: of those from before a fork that is
            // not settled yet, and of those of a process that shares this one's memory.
            // ORDERING: Acquire pairs with the Release in `settle_fork`.
            let ours = self.heard(cache.index()).load(Ordering::Acquire) == process;
            if ours && os::thread_is_gone(owner.thread()) && cache.adopt(owner) {
                self.settle(cache);
            }
        }
    }

    /// Gives back all that an adopted cache holds, and the cache itself.
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn settle(&self, cache: &ThreadCache) {
        for class in 0..CLASSES {
            if let Some(magazine) = cache.unload(class, &self.magazines) {
                self.dissolve(class, magazine);
            }
            cache.steal_spares(class, &self.magazines, |_| true, |spare| self.dissolve(class, spare));
        }
        cache.give_empties(&self.magazines);
        cache.discharge(usize::MAX);
        cache.leave();
        self.caches.give(cache.index());
    }
}
