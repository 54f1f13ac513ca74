//! Upkeep: what must happen now and then so that memory goes back, without a helper thread.
//!
//! It rides on slow paths, and on frees of large allocations. Every few of them a thread looks at a coarse clock. If the
//! clock has moved, it *arms* its bins, so that it comes back soon even if it would never miss; it returns a bounded
//! batch of what the pools have too much of to the spans, and does one bounded batch of the sweep over the spans. Once
//! per tick, whoever comes first (one exchange; nobody waits) visits all pools, some thread caches, and now and then the
//! arenas:
//!
//! * of a pool's magazines that were not needed since the last tick, half are to return to their spans, or all if few;
//! * spare magazines that their thread has not touched for two ticks are taken from it;
//! * runs that have rested on the shelf for two ticks go to their arena;
//! * spans that have rested get their free OS pages purged;
//! * a part of each arena is visited, and runs that were free at the last visit already are purged.
//!
//! Free pages beyond a share of the heap are purged at once, whatever the clock says. Where spans and large allocations take pages
//! while pools hold more than a share of it, those of other classes return some, each in its turn, to be taken instead: what
//! grows through many classes leaves full magazines in each behind it. A heap of C's returns all that lies in pools
//! each time that it grows by an eighth beyond what it ever was, and a small one (`SLIM`) gives its free pages back as well, since
//! its peak is compared with malloc's: seldom enough to cost nothing, and more often than ticks come to a program that runs for
//! a moment.
//!
//! Bins are armed a limited number of times between two moves of the clock, or a busy program would miss all the time.
//! After the limit a miss of its own looks at the clock again; but a loop that never misses would then keep what was freed
//! before it for ever. So while memory *ebbs* (more went back to spans and arenas of late than was taken from there), whoever frees,
//! or misses though the bin was not armed, arms the bin for the next pop, which costs frees nothing; and a loop that takes its
//! time, some microseconds from one pop to the next, earns a further arming with each. One that takes none keeps its speed,
//! and what lies there until any thread misses.

use super::Heap;
use crate::config::{
    DIRTY_BYTES, DIRTY_PART, EARN_US, EARNED, EBB_FORGOTTEN, EBB_LEAST, EBB_PART, PAGE_SHIFT, POOLED_BYTES,
    POOLED_PART, PULSE, PURGE_TICKS, QUIET_TICKS, REARMS, REFUSED_TICKS, RELIEF_BYTES, REST_TICKS, RETURN_CHUNKS, SLIM,
    SLIM_PART, SPARE_TICKS, SWEEP_SPANS, THIN_STEP, THIN_TIMES, TICK_CACHES, TICK_MS, VAIN,
};
use crate::log::{Bytes, tell};
use crate::os;
use crate::size_class::{CLASSES, Class, INFO};
use crate::slab::Slab;
use crate::span::Span;
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering, Point, point};
use crate::tagged::{Index, NONE};
use crate::thread_cache::ThreadCache;
use crossbeam_utils::CachePadded;

/// How a slow path has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Miss {
    /// The bin had nothing left.
    Pop,
    /// The bin was armed.
    ArmedPop,
    /// The bin was full.
    Push,
}

/// The heap's sense of time. All relaxed: it steers, and orders nothing.
#[derive(Debug)]
pub(super) struct Clock {
    /// When the last tick was, in milliseconds.
    last_ms: AtomicU64,
    /// Ticks so far.
    pub(super) tick: AtomicU32,
    /// How many span nodes the sweep has visited in this round.
    swept: AtomicU64,
    /// The next cache that a tick looks at.
    cache: AtomicU32,
    /// Whether free memory inside of a span was ever to go back.
    thinned: AtomicU32,
    /// Batches of the sweep since the last tick that purged something.
    purged: AtomicU32,
    /// Ticks since the last that found anything to do.
    pub(super) quiet: AtomicU32,
    /// Bytes that have gone back to spans and arenas, less what was taken from there since, and less what is forgotten. On lines
    /// of its own: whoever carves or restores writes it, and what is beside it is read at each miss.
    ebb: CachePadded<AtomicUsize>,
    /// The tick at which pages may be purged out of turn again: the system had refused.
    refused: AtomicU32,
    /// The class at which the return of magazines goes on.
    class: AtomicUsize,
    /// Bytes that had been taken as runs when pools were thinned last, or, if that is less, at the last tick; how many more than
    /// `THIN_STEP` may be until that is done again, and the class at which it goes on.
    pub(super) thinned_at: AtomicUsize,
    thin_later: AtomicUsize,
    thin: AtomicUsize,
    /// Committed bytes beyond which a small heap is to be slimmed.
    pub(super) high: AtomicUsize,
}

impl Clock {
    const_fn! {
        pub(super) const fn new() -> Self {
            Self {
                last_ms: AtomicU64::new(0),
                tick: AtomicU32::new(0),
                swept: AtomicU64::new(0),
                cache: AtomicU32::new(0),
                thinned: AtomicU32::new(0),
                purged: AtomicU32::new(0),
                quiet: AtomicU32::new(0),
                ebb: CachePadded::new(AtomicUsize::new(0)),
                refused: AtomicU32::new(0),
                class: AtomicUsize::new(0),
                thinned_at: AtomicUsize::new(0),
                thin_later: AtomicUsize::new(0),
                thin: AtomicUsize::new(0),
                high: AtomicUsize::new(0),
            }
        }
    }

    /// Ticks so far.
    pub(super) fn now(&self) -> u32 {
        self.tick.load(Ordering::Relaxed)
    }

    /// Whether a tick is still to come, of those that are near: one that was never set is past, however many there have been.
    fn is_ahead(&self, tick: &AtomicU32) -> bool {
        (1..=REFUSED_TICKS).contains(&tick.load(Ordering::Relaxed).wrapping_sub(self.now()))
    }

    /// Sets a tick to one that is to come.
    fn set_ahead(&self, tick: &AtomicU32, ticks: u32) {
        let ahead = self.now().wrapping_add(ticks);
        // A load first: most calls change nothing.
        if tick.load(Ordering::Relaxed) != ahead {
            tick.store(ahead, Ordering::Relaxed);
        }
    }
}

impl Heap {
    /// What each slow path of a thread does first. True: the bin was armed, and works now.
    pub(super) fn attend(&self, cache: &ThreadCache, class: Class) -> bool {
        let armed = cache.disarm(class, &self.magazines);
        let left = cache.pulse.load(Ordering::Relaxed);
        // Once the bins have been armed often enough, misses are either the bin's own and few, or armed and many.
        let spent = cache.rearm.load(Ordering::Relaxed) == 0;
        let step = if armed != spent { PULSE / 2 } else { 1 };
        // A child's first slow path settles the fork: later there may be other threads, and what is in no place stays so.
        if left < step || self.is_unsettled(cache) {
            self.upkeep(cache);
            cache.disarm(class, &self.magazines);
        } else {
            cache.pulse.store(left - step, Ordering::Relaxed);
        }
        armed
    }

    /// What each slow path does last: while there is upkeep to do, the bin is armed again, a limited number of times
    /// between two moves of the clock; while memory ebbs, also as often as that costs little.
    pub(super) fn rearm(&self, cache: &ThreadCache, class: Class, miss: Miss) {
        if miss == Miss::Push {
            self.wake();
        }
        let left = cache.rearm.load(Ordering::Relaxed);
        if left > 0 && self.clock.quiet.load(Ordering::Relaxed) < QUIET_TICKS {
            cache.rearm.store(left - 1, Ordering::Relaxed);
            cache.arm(class..class + 1);
        } else if left == 0 && self.is_ebbing() {
            let arms = match miss {
                // A miss of its own may be the last for long.
                Miss::Push | Miss::Pop => true,
                Miss::ArmedPop => self.has_earned(cache),
            };
            if arms {
                cache.arm(class..class + 1);
            }
        }
    }

    /// Whether the thread has taken its time, so that its bins may be armed: once for each few microseconds since it was
    /// asked for the first time.
    fn has_earned(&self, cache: &ThreadCache) -> bool {
        let now = os::fine_us();
        let since = now.wrapping_sub(cache.earned_us.load(Ordering::Relaxed));
        if since < EARN_US {
            return false;
        }
        // What was not used at once is kept, up to a bound.
        // Wrapping, as above: somebody may fake the clock, and have it go back.
        let kept = (since - EARN_US).min(EARN_US * EARNED);
        cache.earned_us.store(now.wrapping_sub(kept), Ordering::Relaxed);
        true
    }

    /// Says that memory has come back: there will be work, though ticks have found none for long.
    fn wake(&self) {
        // A load first: most calls change nothing. No model arms bins.
        if REARMS > 0 && self.clock.quiet.load(Ordering::Relaxed) != 0 {
            self.clock.quiet.store(0, Ordering::Relaxed);
        }
    }

    /// Says that so many bytes have gone back to spans or arenas.
    pub(super) fn ebb(&self, bytes: usize) {
        self.wake();
        // Not a read-modify-write, here and below: a lost count now and then changes little.
        let ebb = self.clock.ebb.load(Ordering::Relaxed);
        self.clock.ebb.store(ebb.saturating_add(bytes), Ordering::Relaxed);
    }

    /// Says that so many were taken from there.
    pub(super) fn flow(&self, bytes: usize) {
        let ebb = self.clock.ebb.load(Ordering::Relaxed);
        if ebb > 0 {
            self.clock.ebb.store(ebb.saturating_sub(bytes), Ordering::Relaxed);
        }
    }

    /// Whether memory ebbs: what has just been freed should go back even if its thread never misses again.
    pub(super) fn is_ebbing(&self) -> bool {
        let part = self.spans.arenas.committed().load(Ordering::Relaxed) / EBB_PART;
        self.clock.ebb.load(Ordering::Relaxed) > EBB_LEAST.max(part)
    }

    /// Upkeep for a thread that frees large allocations, whether or not it has a cache.
    pub(super) fn attend_large(&self, thread: Index) {
        if thread == NONE {
            return self.beat(os::coarse_ms());
        }
        let cache = self.caches.get(thread);
        match cache.pulse.load(Ordering::Relaxed) {
            0 => self.upkeep(cache),
            left => cache.pulse.store(left - 1, Ordering::Relaxed),
        }
    }

    #[cold]
    fn upkeep(&self, cache: &ThreadCache) {
        if self.is_unsettled(cache) {
            // The clock is left to the next slow path: most children run another program at once, and each page that they
            // touch is copied.
            return self.settle_fork(cache);
        }
        self.find_home(cache);
        let now = os::coarse_ms();
        let vain = now == cache.seen_ms.load(Ordering::Relaxed);
        // A thread that misses far more often than the clock moves looks at it less and less.
        let pulses = if vain { (2 * cache.pulses.load(Ordering::Relaxed)).clamp(1, VAIN) } else { 1 };
        cache.pulses.store(pulses, Ordering::Relaxed);
        cache.pulse.store(PULSE.saturating_mul(pulses), Ordering::Relaxed);
        if vain {
            return;
        }
        cache.seen_ms.store(now, Ordering::Relaxed);
        cache.rearm.store(REARMS, Ordering::Relaxed);
        cache.arm(0..CLASSES);
        self.beat(now);
    }

    /// Has the calling thread's cache know on which processor it is.
    pub(super) fn find_home(&self, cache: &ThreadCache) {
        cache.set_home(self.shards.home(os::processor()));
    }

    /// What is done when a thread's clock has moved.
    fn beat(&self, now: u64) {
        let last = self.clock.last_ms.load(Ordering::Relaxed);
        if last == 0 {
            // The heap's first look at the clock: nothing has rested yet, and pools that nobody has used are not touched. Who
            // comes late does no harm.
            return self.clock.last_ms.store(now, Ordering::Relaxed);
        }
        if now.wrapping_sub(last) >= TICK_MS
            && self.clock.last_ms.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.tick();
        }
        self.return_surplus();
        self.sweep(SWEEP_SPANS, |stamp| self.clock.now().wrapping_sub(stamp) >= REST_TICKS);
        self.relieve_all();
    }

    /// Purges some free pages at once if there are too many for the heap's size: a bound that holds without any clock.
    /// Returns how many bytes of them there were.
    pub(super) fn relieve(&self) -> usize {
        let arenas = &self.spans.arenas;
        let (dirty, bound) = (arenas.dirty(), self.dirty_bound());
        if dirty > bound && !self.clock.is_ahead(&self.clock.refused) {
            let is_taken = arenas.relieve((dirty - bound).max(RELIEF_BYTES));
            if !is_taken {
                // Locked memory, say: to try again at each call would cost a walk over all free pages.
                self.clock.set_ahead(&self.clock.refused, REFUSED_TICKS);
            }
        }
        dirty
    }

    /// The same, with what is kept of huge allocations: restores leave that to upkeep.
    pub(super) fn relieve_all(&self) -> usize {
        let dirty = self.relieve();
        self.clear_kept_beyond(self.dirty_bound().saturating_sub(dirty));
        dirty
    }

    /// How many bytes of free pages may hold memory.
    pub(super) fn dirty_bound(&self) -> usize {
        DIRTY_BYTES.max(self.spans.arenas.committed().load(Ordering::Relaxed) / DIRTY_PART)
    }

    /// What is done when more may have been committed, before it is used.
    #[inline]
    pub(super) fn watch_growth(&self) {
        self.watch_kept();
        if THIN_STEP < usize::MAX {
            // In this order: what others take and count meanwhile is more. Less than nothing, once large ones have been freed.
            let last = self.clock.thinned_at.load(Ordering::Relaxed);
            let taken = self.spans.arenas.taken().wrapping_sub(last);
            let is_less = taken > isize::MAX as usize;
            if taken >= THIN_STEP.saturating_add(self.clock.thin_later.load(Ordering::Relaxed)) && !is_less {
                self.thin_pools(last, taken);
            }
        }
        if !SLIM.is_empty() {
            let committed = self.spans.arenas.committed().load(Ordering::Relaxed);
            let tiny = (..SLIM.start).contains(&committed);
            if !tiny && committed > self.clock.high.load(Ordering::Relaxed) {
                self.slim(committed);
            }
        }
    }

    /// Returns some of what lies in pools to its spans, if that is much, for what was taken since the `last` time; a look in vain
    /// doubles what is taken until the next. No pool that has just been found empty is concerned; one that is needed again carves
    /// what it has returned.
    #[cold]
    #[inline(never)]
    fn thin_pools(&self, last: usize, taken: usize) {
        let (at, order) = (last.wrapping_add(taken), Ordering::Relaxed);
        if self.clock.thinned_at.compare_exchange(last, at, order, order).is_err() {
            // Somebody else does it for the same.
            return;
        }
        let committed = self.spans.arenas.committed().load(Ordering::Relaxed);
        let bound = POOLED_BYTES.max(committed / POOLED_PART);
        let bytes = |class: Class| self.shards.depth(class, &self.magazines) as usize * INFO[class].magazine_bytes();
        let pooled: usize = (0..CLASSES).map(bytes).sum();
        let mut left = pooled.saturating_sub(bound).min(taken.saturating_mul(THIN_TIMES));
        let later = if left > 0 { 0 } else { taken.min(bound) };
        self.clock.thin_later.store(later, Ordering::Relaxed);
        let first = self.clock.thin.load(Ordering::Relaxed);
        let mut chunks = RETURN_CHUNKS;
        for class in (first..CLASSES).chain(0..first) {
            if left == 0 || chunks == 0 {
                return self.clock.thin.store(class, Ordering::Relaxed);
            }
            let info = &INFO[class];
            let some = bytes(class).min(left).min(chunks * info.size);
            self.return_magazines(class, some.div_ceil(info.magazine_bytes()) as u32);
            left -= some;
            chunks -= some / info.size;
        }
    }

    /// Gives back what lies in pools and on the shelf, and all free pages of a small heap.
    #[cold]
    #[inline(never)]
    fn slim(&self, committed: usize) {
        // First, so that others who come meanwhile do not do the same.
        self.clock.high.store(committed + committed / SLIM_PART, Ordering::Relaxed);
        for class in 0..CLASSES {
            self.return_magazines(class, self.shards.depth(class, &self.magazines));
        }
        self.clear_shelf(|_| true);
        if SLIM.contains(&committed) {
            self.spans.arenas.purge();
        }
        // Beyond what there was before as well: what comes and goes all the time costs nothing for that.
        let left = self.spans.arenas.committed().load(Ordering::Relaxed);
        let most = (committed + committed / (2 * SLIM_PART)).max(left + left / SLIM_PART);
        self.clock.high.store(most, Ordering::Relaxed);
    }

    pub(super) fn tick(&self) {
        let now = self.clock.tick.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        tell!(self.voice(), Pool, "tick {now}: magazines that nobody needed go back to their spans");
        self.flow(self.clock.ebb.load(Ordering::Relaxed).div_ceil(EBB_FORGOTTEN));
        let mut pooled = 0;
        for class in 0..CLASSES {
            self.shards.tick(class, &self.magazines);
            pooled += self.shards.depth(class, &self.magazines);
            self.pool(class, 0).reap(64, now);
        }
        let rested = |stamp| (now as u16).wrapping_sub(stamp) as u32 >= SPARE_TICKS;
        let made = self.caches.made();
        let first = self.clock.cache.fetch_add(TICK_CACHES.min(made), Ordering::Relaxed);
        for at in 0..TICK_CACHES.min(made) {
            self.rob(self.caches.get(first.wrapping_add(at) % made + 1), rested);
        }
        let shelved = self.shelf.bytes() + self.kept.shelf.bytes();
        self.clear_shelf(rested);
        let sweeps = self.clock.swept.load(Ordering::Relaxed) < self.nodes();
        if !sweeps {
            self.clock.swept.store(0, Ordering::Relaxed);
        }
        // What large ones have left is purged soon.
        let (thinned_at, taken) = (self.clock.thinned_at.load(Ordering::Relaxed), self.spans.arenas.taken());
        if thinned_at.wrapping_sub(taken) <= isize::MAX as usize {
            // Whoever thins meanwhile has counted anew.
            let order = Ordering::Relaxed;
            let _ = self.clock.thinned_at.compare_exchange(thinned_at, taken, order, order);
        }
        let dirty = self.spans.arenas.dirty();
        self.spans.arenas.purge_aged(PURGE_TICKS, (dirty / 16).max(DIRTY_BYTES / 2));
        // Work is left while anything comes back, free pages and what will become free pages, and until all spans were looked at.
        let busy = dirty + shelved > 0 || pooled > 0 || self.clock.purged.swap(0, Ordering::Relaxed) > 0 || sweeps;
        let quiet = self.clock.quiet.load(Ordering::Relaxed);
        let next = if busy { 0 } else { quiet.saturating_add(1) };
        // Whoever wakes upkeep meanwhile has it awake.
        let _ = self.clock.quiet.compare_exchange(quiet, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Returns a batch of the magazines that pools have too many of to their spans.
    fn return_surplus(&self) {
        let first = self.clock.class.load(Ordering::Relaxed);
        let mut left = RETURN_CHUNKS;
        for class in (first..CLASSES).chain(0..first) {
            while let Some(magazine) = self.shards.take_surplus(class, &self.magazines) {
                self.dissolve(class, magazine);
                left = left.saturating_sub(INFO[class].slots);
                if left == 0 {
                    return self.clock.class.store(class, Ordering::Relaxed);
                }
            }
        }
    }

    /// Returns up to `count` of a pool's magazines to their spans.
    pub(super) fn return_magazines(&self, class: Class, count: u32) {
        for _ in 0..count {
            let Some(magazine) = self.shards.take(class, &self.magazines) else { return };
            self.dissolve(class, magazine);
        }
    }

    /// Takes a cache's rested spares and returns them to their spans; from any thread.
    pub(crate) fn rob(&self, cache: &ThreadCache, rested: impl Fn(u16) -> bool) {
        if cache.owner().is_none() || !cache.take_mark() {
            return;
        }
        for class in 0..CLASSES {
            cache.steal_spares(class, &self.magazines, &rested, |spare| {
                cache.note_theft();
                self.dissolve(class, spare);
            });
            if cache.spare_count(class) > 0 {
                cache.put_mark_back();
            }
        }
    }

    pub(super) fn nodes(&self) -> u64 {
        self.spans.slabs().iter().map(|slab| slab.made() as u64).sum()
    }

    /// Whether free chunks of spans in use may read as zero although they did not.
    pub(crate) fn has_thinned(&self) -> bool {
        // Relaxed: it is set before anything has gone back.
        self.clock.thinned.load(Ordering::Relaxed) != 0
    }

    /// Visits the next `count` span nodes of this round, and purges the free OS pages of those that have rested.
    pub(super) fn sweep(&self, count: u32, rested: impl Fn(u32) -> bool + Copy) {
        // A load first: most calls come when the round is over.
        if self.clock.swept.load(Ordering::Relaxed) >= self.nodes() {
            return;
        }
        let mut skip = self.clock.swept.fetch_add(count as u64, Ordering::Relaxed);
        let mut left = count;
        for slab in self.spans.slabs() {
            let made = slab.made();
            let first = skip.min(made as u64) as u32;
            skip -= first as u64;
            let some = left.min(made - first);
            left -= some;
            self.purge_spans(slab, first + 1, some, rested);
            if left == 0 {
                return;
            }
        }
    }

    /// Purges the free OS pages of spans in a range of a slab. Returns bytes.
    pub(crate) fn purge_spans(
        &self,
        slab: &Slab<Span>,
        first: u32,
        count: u32,
        rested: impl Fn(u32) -> bool + Copy,
    ) -> usize {
        let mut purged = 0;
        for span in (first..first + count).map(|index| slab.get(index)) {
            if let Some(token) = span.hold_in_place(rested) {
                point(Point::Sweep);
                self.clock.thinned.store(1, Ordering::Relaxed);
                let (bytes, done) = span.purge_units();
                purged += bytes;
                if bytes > 0 {
                    tell!(self.voice(), Os, "{} purged inside the span at {:#x}", Bytes(bytes), span.head.start());
                    self.spans.arenas.ebb(span.head.start() >> PAGE_SHIFT);
                }
                let class = span.head.kind() as Class;
                self.pool(class, self.here()).settle(span, span.unhold_in_place(token, done));
            }
        }
        if purged > 0 {
            self.spans.arenas.committed().fetch_sub(purged, Ordering::Relaxed);
            self.clock.purged.fetch_add(1, Ordering::Relaxed);
        }
        purged
    }
}
