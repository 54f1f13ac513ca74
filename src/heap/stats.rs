//! Statistics: where the bytes are.
//!
//! Nothing is counted for this on the way: what is live, cached, pooled and free follows from the structures, by a walk
//! over the nodes. Only `committed` is counted where it changes, at commit and purge, so that the sum can be wrong:
//!
//! `committed = live + thread_cached + pooled + span_free + tails + dirty + stranded + metadata`

use super::Heap;
use crate::config::PAGE;
use crate::report::Stats;
use crate::size_class::{CLASSES, INFO};
use crate::span::HUGE;
use crate::sync::Ordering;

impl Heap {
    /// See [`Stats`]. Linear in the number of spans and thread caches.
    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats {
            dirty: self.spans.arenas.dirty(),
            metadata: self.metadata(),
            committed: self.committed(),
            reserved: self.spans.arenas.reserved() + self.huge.load(Ordering::Relaxed) + self.metadata(),
            ..Stats::default()
        };
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
            live += (info.chunks.saturating_sub(count) * info.size) as isize;
            let free = (count * info.size) as isize - purged as isize;
            if span.is_held() {
                stats.stranded = stats.stranded.saturating_add_signed(free);
            } else {
                span_free += free;
            }
            stats.tails += info.tail() - purged_tail;
            stats.purged += purged + purged_tail;
            stats.spans += 1;
            runs += info.pages * PAGE;
        }
        let mut cached = [0usize; CLASSES];
        for cache in (1..=self.caches.made()).map(|index| self.caches.get(index)) {
            if cache.owner().is_none() {
                continue;
            }
            stats.threads += 1;
            for (class, cached) in cached.iter_mut().enumerate() {
                if let Some(magazine) = cache.loaded(class, &self.magazines) {
                    *cached += cache.loaded_count(class, magazine);
                }
                // A spare is full, or was when its thread put it there.
                cache.walk_spares(class, &self.magazines, |spare| *cached += spare.peek_count());
            }
        }
        for (class, info) in INFO.iter().enumerate() {
            let mut pooled = 0;
            self.pools[class].walk_full(&self.magazines, |magazine| pooled += magazine.peek_count());
            stats.thread_cached += cached[class] * info.size;
            stats.pooled += pooled * info.size;
        }
        for node in self.larges() {
            live += node.bytes() as isize;
            if node.head.kind() != HUGE {
                runs += node.bytes();
            }
        }
        // Free, whole, and not purged.
        let shelved = self.shelf.bytes();
        stats.dirty += shelved;
        runs += shelved;
        live -= (stats.thread_cached + stats.pooled) as isize;
        stats.live = live.max(0) as usize;
        stats.span_free = span_free.max(0) as usize;
        // Runs that are claimed but belong to no node are in somebody's hands: at rest, of threads that vanished.
        stats.stranded += used.min(self.spans.arenas.used_bytes()).saturating_sub(runs);
        stats
    }
}
