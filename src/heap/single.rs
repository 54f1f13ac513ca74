//! Singles: chunks so large that each fills a magazine by itself.
//!
//! Sizes above [`MAGAZINE_BYTES`](crate::config::MAGAZINE_BYTES) / 2 come here at every second call or more, since there is room
//! for few of them in a thread's cache. So what is done is as little as can be: a chunk is taken out of a spare magazine or one of
//! the pool's, or put into one that goes there, beside the loaded one, which stays where it is.
//!
//! | in hand | whose |
//! |---|---|
//! | a magazine with the chunk in it | the thread's, as any in hand |
//! | the chunk, and the empty magazine | the same: the count is cleared before the magazine is kept, and set before it is passed on |
//!
//! Invariant: that of the magazines.

use super::Heap;
use super::upkeep::Miss;
use crate::config::ADMIT;
use crate::log::{self, Log, tell};
use crate::os;
use crate::pool::Portion;
use crate::size_class::{Class, INFO};
use crate::sync::Slot;
use crate::thread_cache::ThreadCache;
use core::ptr::{NonNull, with_exposed_provenance_mut};

/// Whether a chunk of the class is a single.
#[inline(always)]
pub(super) fn is_single(class: Class) -> bool {
    INFO[class].slots == 1
}

impl Heap {
    /// Takes a single out of one of the thread's spare magazines, or of the pool's, by an exchange; else it is carved.
    #[inline(always)]
    pub(super) fn take_single(&self, cache: &ThreadCache, class: Class) -> Option<NonNull<u8>> {
        cache.bin(class).refills.add(1);
        let spare = cache.take_spare(class, &self.magazines, self.clock.now());
        if spare.is_some() {
            cache.discharge(INFO[class].size);
            // The other spares were in hand meanwhile.
            self.spans.arenas.budget().count_change();
        }
        let Some(magazine) = spare.or_else(|| self.shards.refill(class, cache.home(), &self.magazines)) else {
            return self.carve_single(cache, class);
        };
        if log::wants(Log::Pool) {
            let whose =
                if spare.is_some() { "of a spare magazine of the thread's" } else { "of a magazine of the pool's" };
            self.tell_taken(class, whose);
        }
        let chunk = magazine.slots()[0].get();
        magazine.set_count(0);
        cache.put_empty(&self.magazines, magazine);
        cache.bin(class).served.add(1);
        NonNull::new(with_exposed_provenance_mut(chunk))
    }

    /// Carves a single, for which no magazine has to be loaded.
    #[cold]
    #[inline(never)]
    fn carve_single(&self, cache: &ThreadCache, class: Class) -> Option<NonNull<u8>> {
        let chunk = [Slot::new(0)];
        if self.carve(class, cache.home(), Portion::any(1), &chunk, self.clock.now()) == 0 {
            return None;
        }
        self.tell_taken(class, "of a span");
        self.watch_growth();
        cache.bin(class).served.add(1);
        NonNull::new(with_exposed_provenance_mut(chunk[0].get()))
    }

    #[cold]
    #[inline(never)]
    fn tell_taken(&self, class: Class, whose: &str) {
        let size = INFO[class].size;
        tell!(self.voice(), Cache, "{size} B: miss: the thread's magazine is empty");
        tell!(self.voice(), Pool, "{size} B: the chunk is taken out {whose}");
    }

    /// Takes a single that a thread frees whose bin has missed.
    #[cold]
    #[inline(never)]
    pub(super) fn free_single(&self, cache: &ThreadCache, class: Class, chunk: NonNull<u8>) {
        if self.attend(cache, class) && cache.bin(class).push(chunk) || self.put_single(cache, class, chunk) {
            return self.rearm(cache, class, Miss::Push);
        }
        self.free_slow(cache, class, chunk);
    }

    /// Puts a single that is freed into a magazine of its own, which becomes a spare or goes to the pool. Where none is loaded, it
    /// asks for one to be only where there is room, and now and then: else such classes would put each other's out all the
    /// time. False: nothing is done.
    #[inline(always)]
    fn put_single(&self, cache: &ThreadCache, class: Class, chunk: NonNull<u8>) -> bool {
        let (bin, bytes) = (cache.bin(class), INFO[class].size);
        let loaded = cache.is_loaded(class);
        let room = !(loaded && self.shards.in_burst(class, cache.home())) && cache.charge(bytes);
        let admits = !loaded && (room || bin.drains.get() % ADMIT == 0);
        let single = if admits { None } else { cache.take_empty(&self.magazines) };
        let Some(single) = single else {
            cache.discharge(if room { bytes } else { 0 });
            return false;
        };
        bin.drains.add(1);
        // It is likely to be the next of its class that is allocated, and written to.
        os::prefetch_write(chunk.addr().get());
        single.slots()[0].set(chunk.as_ptr().expose_provenance());
        single.set_count(1);
        if let Some(empty) = self.lay_aside(cache, class, single, room, self.clock.now()) {
            cache.put_empty(&self.magazines, empty);
        }
        true
    }
}
