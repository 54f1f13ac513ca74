//! Statistics: where the bytes are.
//!
//! What is live, cached, pooled and free follows from the structures, by a walk over the nodes. Counted on the way are
//! allocations, by each bin for itself, and `committed`, where it changes: at commit and purge alone, so that the sum can be
//! wrong:
//!
//! `committed = live + thread_cached + pooled + span_free + tails + dirty + stranded + metadata`
//!
//! What has been freed is what was allocated and is not live.

use super::Heap;
use crate::config::PAGE;
use crate::report::{POOLS, Stats};
use crate::size_class::{CLASSES, INFO};
use crate::span::HUGE;
use crate::sync::{Counter, Ordering};

const _: () = assert!(CLASSES <= POOLS);

/// Counts of what no bin has served.
#[derive(Debug)]
pub(super) struct Counts {
    /// Chunks for threads without a cache.
    pub(super) shared: [Counter; CLASSES],
    /// Large allocations for threads without a cache, and their bytes.
    pub(super) larges: Counter,
    pub(super) large_bytes: Counter,
}

impl Counts {
    const_fn! {
        pub(super) const fn new() -> Self {
            Self { shared: array_of![Counter::new(); CLASSES], larges: Counter::new(), large_bytes: Counter::new() }
        }
    }
}

impl Stats {
    /// Adds bytes of tables.
    pub(crate) fn add_tables(&mut self, bytes: usize) {
        self.metadata += bytes;
        self.committed += bytes;
        self.reserved += bytes;
    }
}

impl Heap {
    /// As [`fill`](Self::fill), for those with a large stack.
    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.fill(&mut stats);
        stats
    }

    /// See [`Stats`]. Linear in the number of spans and thread caches. Fills what is all zeros yet: a copy would be a quarter
    /// of a small stack.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn fill(&self, stats: &mut Stats) {
        stats.dirty = self.spans.arenas.dirty();
        stats.metadata = self.metadata();
        stats.committed = self.committed();
        stats.reserved = self.spans.arenas.reserved() + self.huge.load(Ordering::Relaxed) + self.metadata();
        // Signed, and cut off at zero only at the end: while others go on, the parts are of different moments.
        let mut live = 0isize;
        let mut span_free = 0isize;
        let mut runs = 0;
        let used = self.spans.arenas.used_bytes();
        for span in self.spans.live() {
            let class = span.head.kind() as usize;
            // A walk may meet a node between two owners.
            let Some(info) = INFO.get(class) else { continue };
            let count = span.count();
            let (purged, purged_tail) = span.purged_bytes();
            let pool = &mut stats.pools[class];
            pool.chunks += info.chunks as u64;
            pool.span_free += count as u64;
            pool.spans += 1;
            live += (info.chunks.saturating_sub(count) * info.size) as isize;
            let free = (count * info.size) as isize - purged as isize;
            if span.is_held() {
                stats.stranded = stats.stranded.saturating_add_signed(free);
            } else {
                span_free += free;
            }
            // What was purged may be another span's, that the node is of by now.
            stats.tails += info.tail().saturating_sub(purged_tail);
            stats.purged += purged + purged_tail;
            stats.spans += 1;
            runs += info.pages * PAGE;
        }
        stats.large_allocations = self.counts.larges.get();
        stats.allocated_bytes = self.counts.large_bytes.get();
        for cache in self.caches.iter() {
            // What its former owners have counted stays.
            stats.large_allocations += cache.larges.get();
            stats.allocated_bytes += cache.large_bytes.get();
            for (class, pool) in stats.pools[..CLASSES].iter_mut().enumerate() {
                let bin = cache.bin(class);
                pool.allocations += bin.served.get();
                pool.refills += bin.refills.get();
                pool.drains += bin.drains.get();
            }
            if cache.owner().is_none() {
                continue;
            }
            stats.threads += 1;
            for (class, pool) in stats.pools[..CLASSES].iter_mut().enumerate() {
                let cached = &mut pool.thread_cached;
                if let Some(magazine) = cache.loaded(class, &self.magazines) {
                    *cached += cache.loaded_count(class, magazine) as u64;
                }
                // A spare is full, or was when its thread put it there.
                cache.walk_spares(class, &self.magazines, |spare| *cached += spare.peek_count() as u64);
            }
        }
        for (class, info) in INFO.iter().enumerate() {
            let pool = &mut stats.pools[class];
            self.shards.walk(class, &self.magazines, |magazine| pool.pooled += magazine.peek_count() as u64);
            pool.chunk_size = info.size;
            pool.allocations += self.counts.shared[class].get();
            pool.live = pool.chunks.saturating_sub(pool.span_free + pool.thread_cached + pool.pooled);
            stats.thread_cached += pool.thread_cached as usize * info.size;
            stats.pooled += pool.pooled as usize * info.size;
            stats.allocations += pool.allocations;
            stats.deallocations += pool.deallocations();
            stats.allocated_bytes += pool.allocations * info.size as u64;
        }
        for (node, bytes) in self.larges() {
            stats.large_live += 1;
            live += bytes as isize;
            if node.head.kind() != HUGE {
                runs += bytes;
            }
        }
        stats.allocations += stats.large_allocations;
        stats.deallocations += stats.large_allocations.saturating_sub(stats.large_live);
        // Free, whole, and not purged.
        let shelved = self.shelf.bytes();
        stats.dirty += shelved + self.kept.shelf.bytes();
        runs += shelved;
        live -= (stats.thread_cached + stats.pooled) as isize;
        stats.live = live.max(0) as usize;
        stats.span_free = span_free.max(0) as usize;
        // Runs that are claimed but belong to no node are in somebody's hands: at rest, of threads that vanished.
        stats.stranded += used.min(self.spans.arenas.used_bytes()).saturating_sub(runs);
    }
}
