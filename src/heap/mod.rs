//! The heap: a whole allocator as a value, and the only place that sees all floors.
//!
//! A call that the bins cannot serve comes here. `alloc`: spare magazine, else a full one from the pool, else carve;
//! `free`: keep the magazine as a spare, else drain it to the pool, else restore. Each exchanges whole magazines. What
//! has to look at more than one floor lives beside this file: upkeep, trim, adoption, statistics.
//!
//! Nobody waits for anybody here: whatever a thread has in hand when it stops for ever is missing, bounded, and nothing
//! else.

mod adopt;
mod audit;
mod check;
mod edges;
mod guard;
mod huge;
mod large;
mod lease;
mod lookup;
mod repair;
mod resize;
mod shelf;
mod single;
mod stats;
#[cfg(all(test, not(millpond_loom)))]
mod tests;
mod told;
mod tracked;
mod trim;
mod unbind;
mod upkeep;
mod walk;

pub(crate) use told::Called;
pub(crate) use tracked::Tracked;
pub(crate) use walk::Stretch;

use crate::config::{SHELF_PAGES, SHELF_SLOTS};
use crate::log::{Count, Voice, tell};
use crate::os;
use crate::pool::{Magazine, Magazines, Pool, Portion, Shards};
use crate::size_class::{CLASSES, Class, INFO};
use crate::slab::Slab;
use crate::span::{Large, Spans};
use crate::sync::{AtomicPtr, AtomicU32, AtomicUsize, Ordering, Slot};
use crate::thread_cache::ThreadCache;
use core::ptr::{NonNull, null_mut, with_exposed_provenance_mut};
use huge::Kept;
use shelf::Shelf;
use single::is_single;
use stats::Counts;
use upkeep::{Clock, Miss};

/// See the module's documentation. What a small program touches lies together, since each OS page that is touched is one that the
/// program has less of: at the beginning all but what follows, and the pools of small classes; near the end of the spans' part
/// what they say of it. Most of what is between stays untouched.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Heap {
    /// For whoever has the heap, what is read at each miss, and what at each birth.
    pub(crate) note: AtomicU32,
    pub(crate) key: AtomicU32,
    /// The next cache whose thread is asked for.
    asked: AtomicU32,
    /// Threads in the allocator without a live cache of their own.
    guests: AtomicU32,
    /// One word a cache: the number of the process in which its thread was heard of, zero in the child of a fork until
    /// then. Word 0 is the process's own, zero there until the fork is settled.
    heard: AtomicPtr<AtomicU32>,
    clock: Clock,
    pub(crate) magazines: Magazines,
    pub(crate) caches: Slab<ThreadCache>,
    pub(crate) shards: Shards,
    counts: Counts,
    shelf: Shelf<SHELF_SLOTS, SHELF_PAGES>,
    larges: Slab<Large>,
    /// Bytes of huge allocations, and of those that are kept.
    huge: AtomicUsize,
    kept: Kept,
    pub(crate) spans: Spans,
}

/// A thread in the allocator without a live cache of its own: it counts as long as this lives.
struct Guest<'a>(&'a AtomicU32);

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Heap {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self {
                note: AtomicU32::new(0),
                key: AtomicU32::new(0),
                spans: Spans::new(),
                shards: Shards::new(),
                magazines: Magazines::new(),
                caches: Slab::new(),
                larges: Slab::new(),
                shelf: Shelf::new(),
                kept: Kept::new(),
                huge: AtomicUsize::new(0),
                clock: Clock::new(),
                heard: AtomicPtr::new(null_mut()),
                asked: AtomicU32::new(0),
                guests: AtomicU32::new(0),
                counts: Counts::new(),
            }
        }
    }

    /// A chunk of `class` for a thread whose bin has missed. `None`: the system gives no more, even after a trim.
    #[cold]
    #[inline(never)]
    pub(crate) fn alloc_slow(&self, cache: &ThreadCache, class: Class) -> Option<NonNull<u8>> {
        let served = if self.attend(cache, class) { self.pop_armed(cache, class) } else { None };
        let miss = if served.is_some() { Miss::ArmedPop } else { Miss::Pop };
        let chunk = served.or_else(|| self.serve(cache, class)).or_else(|| self.serve_after_all(cache, class));
        self.rearm(cache, class, miss);
        chunk
    }

    /// Takes a chunk that a thread frees whose bin has missed.
    #[inline(always)]
    pub(crate) fn free_after_miss(&self, cache: &ThreadCache, class: Class, chunk: NonNull<u8>) {
        if is_single(class) {
            self.free_single(cache, class, chunk);
        } else {
            self.free_slow(cache, class, chunk);
        }
    }

    /// The same by the exchange of magazines.
    #[cold]
    #[inline(never)]
    fn free_slow(&self, cache: &ThreadCache, class: Class, chunk: NonNull<u8>) {
        if !(self.attend(cache, class) && cache.bin(class).push(chunk)) {
            self.drain(cache, class);
            if !cache.bin(class).push(chunk) {
                self.free_shared(class, chunk);
            }
        }
        self.rearm(cache, class, Miss::Push);
    }

    /// Takes a chunk from a bin that was armed: not from a stranger's, whose chunks others have allocated. They share lines of
    /// the processor's caches with what those others write, and would be served to the thread again and again, so they are
    /// restored to their spans.
    fn pop_armed(&self, cache: &ThreadCache, class: Class) -> Option<NonNull<u8>> {
        let strange = if cache.is_stranger(class) { cache.unload(class, &self.magazines) } else { None };
        if let Some(magazine) = strange {
            tell!(
                self.voice(),
                Cache,
                "{} B: {} of other threads restored",
                INFO[class].size,
                Count(magazine.count(), "chunk")
            );
            if magazine.count() > 0 {
                self.pool(class, cache.home()).restore_all(magazine, self.clock.now());
            }
            cache.load(class, magazine);
        }
        let chunk = cache.bin(class).pop();
        if chunk.is_some() {
            tell!(
                self.voice(),
                Cache,
                "{} B: made to miss, for upkeep; the thread's magazine has a chunk",
                INFO[class].size
            );
        }
        chunk
    }

    /// A class's pool, as it is seen from a shard.
    #[inline(always)]
    pub(crate) fn pool(&self, class: Class, home: u32) -> Pool<'_> {
        Pool { class, home, shards: &self.shards, spans: &self.spans }
    }

    /// The home of the calling thread, whether or not it has a cache.
    fn here(&self) -> u32 {
        self.shards.home(os::processor())
    }

    /// Should a fork leave the caller behind now, its child knows that somebody had things in hand.
    fn guest(&self) -> Guest<'_> {
        // Relaxed: read only in a child, after all of it.
        self.guests.fetch_add(1, Ordering::Relaxed);
        Guest(&self.guests)
    }

    /// Guests that there are.
    #[allow(dead_code, reason = "for tests")]
    pub(crate) fn guests(&self) -> u32 {
        self.guests.load(Ordering::Relaxed)
    }

    /// A chunk for a thread that has no cache.
    #[cold]
    pub(crate) fn alloc_shared(&self, class: Class) -> Option<NonNull<u8>> {
        let _guest = self.guest();
        let one = || {
            let chunk = [Slot::new(0)];
            self.carve(class, self.here(), Portion::any(1), &chunk, self.clock.now());
            NonNull::new(with_exposed_provenance_mut(chunk[0].get()))
        };
        let chunk = one().or_else(|| self.reclaim(None, one));
        if chunk.is_some() {
            self.counts.shared[class].add_shared(1);
        }
        chunk
    }

    /// Takes a chunk from a thread that has no cache.
    #[cold]
    pub(crate) fn free_shared(&self, class: Class, chunk: NonNull<u8>) {
        let _guest = self.guest();
        let chunk = chunk.as_ptr().expose_provenance();
        self.pool(class, self.here()).restore(&mut [chunk], self.clock.now());
    }

    /// A chunk for a thread whose bin is empty.
    #[inline(always)]
    fn serve(&self, cache: &ThreadCache, class: Class) -> Option<NonNull<u8>> {
        if is_single(class) { self.take_single(cache, class) } else { self.refill(cache, class) }
    }

    /// The same once all that is free has been given back.
    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn serve_after_all(&self, cache: &ThreadCache, class: Class) -> Option<NonNull<u8>> {
        // What found nothing is no refill. The caller's bin, which nobody else counts.
        let refills = &cache.bin(class).refills;
        let uncount = || refills.set(refills.get().saturating_sub(1));
        uncount();
        self.reclaim(Some(cache), || {
            let chunk = self.serve(cache, class);
            if chunk.is_none() {
                uncount();
            }
            chunk
        })
    }

    /// Refills an empty bin and takes a chunk from it.
    #[inline(never)]
    fn refill(&self, cache: &ThreadCache, class: Class) -> Option<NonNull<u8>> {
        let now = self.clock.now();
        cache.bin(class).refills.add(1);
        let size = INFO[class].size;
        tell!(self.voice(), Cache, "{size} B: miss: the thread's magazine is empty");
        let full = match cache.take_spare(class, &self.magazines, now) {
            Some(spare) => {
                cache.discharge(INFO[class].magazine_bytes());
                // The other spares were in hand meanwhile.
                self.spans.arenas.budget().count_change();
                tell!(
                    self.voice(),
                    Pool,
                    "{size} B: refilled by a spare magazine of the thread's, {}",
                    Count(spare.count(), "chunk")
                );
                Some(spare)
            }
            None => self.shards.refill(class, cache.home(), &self.magazines).inspect(|full| {
                tell!(
                    self.voice(),
                    Pool,
                    "{size} B: refilled by a magazine of the pool's, {}, by one exchange",
                    Count(full.count(), "chunk")
                );
            }),
        };
        let loaded = cache.unload(class, &self.magazines);
        if loaded.is_none() && !self.admit(cache, class) {
            if let Some(full) = full {
                self.put_back(cache, class, full);
            }
            return self.alloc_shared(class);
        }
        let magazine = match (full, loaded) {
            (Some(full), empty) => {
                cache.settle_in(class);
                if let Some(empty) = empty {
                    cache.put_empty(&self.magazines, empty);
                }
                full
            }
            (None, loaded) => {
                let Some(empty) = loaded.or_else(|| cache.take_empty(&self.magazines)) else {
                    cache.discharge(INFO[class].magazine_bytes());
                    return self.alloc_shared(class);
                };
                if self.carve_into(cache, class, empty, now) == 0 {
                    cache.put_empty(&self.magazines, empty);
                    cache.discharge(INFO[class].magazine_bytes());
                    return None;
                }
                empty
            }
        };
        cache.load(class, magazine);
        cache.bin(class).pop()
    }

    /// Carves a portion into `slots`, the lowest address into the last one in use, and returns how many are. For all who carve: in
    /// one copy.
    #[inline(never)]
    fn carve(&self, class: Class, home: u32, want: Portion, slots: &[Slot], now: u32) -> usize {
        let size = INFO[class].size;
        let slots = &slots[..want.chunks];
        let mut free = slots.len();
        self.pool(class, home).carve(want, now, |mut chunk, run| {
            for slot in slots[free - run..free].iter().rev() {
                slot.set(chunk);
                chunk += size;
            }
            free -= run;
        });
        if free > 0 {
            for (slot, carved) in slots.iter().zip(&slots[free..]) {
                slot.set(carved.get());
            }
        }
        let count = slots.len() - free;
        self.flow(count * size);
        count
    }

    /// Fills an empty magazine with a portion of chunks from the spans, so that the lowest address comes out first.
    fn carve_into(&self, cache: &ThreadCache, class: Class, magazine: &Magazine, now: u32) -> usize {
        let count = self.carve(class, cache.home(), cache.portion(class), magazine.slots(), now);
        magazine.set_count(count);
        tell!(self.voice(), Pool, "{} B: {} carved from spans", INFO[class].size, Count(count, "chunk"));
        self.watch_growth();
        count
    }

    /// Makes room in a full bin, or gives a bin that has no magazine an empty one. Fails only without memory for one.
    fn drain(&self, cache: &ThreadCache, class: Class) {
        let now = self.clock.now();
        cache.bin(class).drains.add(1);
        let size = INFO[class].size;
        tell!(self.voice(), Cache, "{size} B: no room: the thread's magazine is full");
        let bytes = INFO[class].magazine_bytes();
        // Charged while the bin still shows its magazine: the charge may be counted anew.
        let room = cache.loaded(class, &self.magazines).is_some()
            && !self.shards.in_burst(class, cache.home())
            && cache.charge(bytes);
        let loaded = cache.unload(class, &self.magazines);
        if loaded.is_some() {
            cache.settle_in(class);
        }
        let empty = match loaded {
            None if self.admit(cache, class) => None,
            None => return,
            Some(full) => self.lay_aside(cache, class, full, room, now),
        };
        match empty.or_else(|| cache.take_empty(&self.magazines)) {
            Some(magazine) => {
                cache.load(class, magazine);
                if cache.is_stranger(class) {
                    cache.arm(class..class + 1);
                }
            }
            None => cache.discharge(bytes),
        }
    }

    /// Puts a full magazine in hand among the thread's spares, if there is `room`, which the caller has charged; else into the
    /// pool. Where that has enough, or spills and the chunks are in disorder, they go to their spans, and it is the caller's again.
    #[inline(always)]
    fn lay_aside<'a>(
        &self,
        cache: &ThreadCache,
        class: Class,
        full: &'a Magazine,
        room: bool,
        now: u32,
    ) -> Option<&'a Magazine> {
        let size = INFO[class].size;
        if room {
            if cache.put_spare(class, full, now) {
                self.spans.arenas.budget().count_change();
                tell!(self.voice(), Pool, "{size} B: the full magazine is kept as a spare");
                return None;
            }
            cache.discharge(INFO[class].magazine_bytes());
        }
        let unwanted = self.shards.spills(class, cache.home()) && self.pool(class, cache.home()).is_in_disorder(full);
        if !unwanted && self.drain_to_pool(cache, class, full) {
            tell!(self.voice(), Pool, "{size} B: the full magazine goes to the pool, by one exchange");
            return None;
        }
        self.restore(cache, class, full);
        Some(full)
    }

    /// Puts a magazine in hand, of any count but zero, into the pool, if that takes it.
    #[inline(always)]
    fn drain_to_pool(&self, cache: &ThreadCache, class: Class, magazine: &Magazine) -> bool {
        let is_taken = self.shards.drain(class, cache.home(), &self.magazines, magazine);
        if is_taken {
            self.spans.arenas.budget().count_change();
        }
        is_taken
    }

    /// Restores what a full magazine in hand holds, which the pool has no room for, or is not to have.
    #[cold]
    #[inline(never)]
    fn restore(&self, cache: &ThreadCache, class: Class, full: &Magazine) {
        let (size, count) = (INFO[class].size, full.count());
        tell!(self.voice(), Pool, "{size} B: {} restored to their spans", Count(count, "chunk"));
        self.pool(class, cache.home()).restore_all(full, self.clock.now());
        // The thread's spares may have been in hand meanwhile, to see whether there is room among them.
        self.spans.arenas.budget().count_change();
        self.ebb(count * size);
        self.relieve();
    }

    /// Charges one magazine of a class to the cache, and makes room for it by draining others. False: there is none.
    fn admit(&self, cache: &ThreadCache, class: Class) -> bool {
        let bytes = INFO[class].magazine_bytes();
        while !cache.charge(bytes) {
            let Some(victim) = cache.next_victim(class) else {
                self.evict_spares(cache, class);
                return cache.charge(bytes);
            };
            self.evict(cache, victim);
        }
        true
    }

    /// Drains all that a cache holds of a class.
    fn evict(&self, cache: &ThreadCache, class: Class) {
        if let Some(magazine) = cache.unload(class, &self.magazines) {
            cache.discharge(INFO[class].magazine_bytes());
            self.hand_over(cache, class, magazine);
        }
        self.evict_spares(cache, class);
    }

    fn evict_spares(&self, cache: &ThreadCache, class: Class) {
        cache.steal_spares(
            class,
            &self.magazines,
            |_| true,
            |spare| {
                cache.discharge(INFO[class].magazine_bytes());
                self.hand_over(cache, class, spare);
            },
        );
    }

    /// Gives a magazine of any count to the pool, or its chunks to their spans and the magazine to the thread's empties.
    fn hand_over(&self, cache: &ThreadCache, class: Class, magazine: &Magazine) {
        if magazine.count() > 0 {
            if self.drain_to_pool(cache, class, magazine) {
                return;
            }
            self.pool(class, cache.home()).restore_all(magazine, self.clock.now());
        }
        cache.put_empty(&self.magazines, magazine);
    }

    /// Gives a magazine of any count to the pool, or its chunks to their spans and the magazine to the slab.
    fn put_back(&self, cache: &ThreadCache, class: Class, magazine: &Magazine) {
        if magazine.count() == 0 || !self.drain_to_pool(cache, class, magazine) {
            self.dissolve(class, magazine);
        }
    }

    /// Restores what a magazine in hand holds and returns it to the slab.
    #[unsafe(link_section = ".millpond_cold")]
    fn dissolve(&self, class: Class, magazine: &Magazine) {
        if magazine.count() > 0 {
            self.pool(class, self.here()).restore_all(magazine, self.clock.now());
        }
        self.magazines.give(magazine.index());
    }

    /// Gives all that a cache holds back to the spans.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn flush(&self, cache: &ThreadCache) {
        for (class, info) in INFO.iter().enumerate() {
            if let Some(magazine) = cache.unload(class, &self.magazines) {
                cache.discharge(info.magazine_bytes());
                self.dissolve(class, magazine);
            }
            cache.steal_spares(
                class,
                &self.magazines,
                |_| true,
                |spare| {
                    cache.discharge(info.magazine_bytes());
                    self.dissolve(class, spare);
                },
            );
        }
        cache.give_empties(&self.magazines);
    }

    /// Hands all that a cache holds over to the pools: what a thread does at its end.
    pub(crate) fn hand_over_all(&self, cache: &ThreadCache) {
        for class in 0..CLASSES {
            self.evict(cache, class);
        }
        cache.give_empties(&self.magazines);
    }

    /// How much the heap tells.
    pub(crate) fn voice(&self) -> &Voice {
        self.spans.arenas.voice()
    }

    /// Bytes that may hold memory, counted where they are committed and purged.
    pub(crate) fn committed(&self) -> usize {
        self.spans.arenas.committed().load(Ordering::Relaxed) + self.huge.load(Ordering::Relaxed) + self.metadata()
    }

    /// Bytes of tables: nodes ever made, arenas' bitmaps, page-map entries.
    pub(crate) fn metadata(&self) -> usize {
        self.spans.bytes()
            + self.magazines.bytes()
            + self.caches.bytes()
            + self.larges.bytes()
            + self.spans.arenas.metadata()
    }
}
