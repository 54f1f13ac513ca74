//! Statistics: where the bytes are.
//!
//! Nothing is counted for this on the way: what is live, cached, pooled and free follows from the structures, by a walk
//! over the nodes. Only `committed` is counted where it changes, at commit and purge, so that the sum can be wrong:
//!
//! `committed = live + thread_cached + pooled + span_free + tails + dirty + stranded + metadata`

use super::Heap;
use crate::config::PAGE;
use crate::size_class::{CLASSES, INFO};
use crate::span::HUGE;
use crate::sync::Ordering;
use core::fmt;

/// Where the bytes are: a moment's picture, exact while no other thread is inside the allocator.
///
/// The sum `live + thread_cached + pooled + span_free + tails + dirty + stranded + metadata` is then `committed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes in the program's hands: chunks by their class, larger allocations by whole pages.
    pub live: usize,
    /// Bytes of free chunks in threads' magazines.
    pub thread_cached: usize,
    /// Bytes of free chunks in the pools' magazines.
    pub pooled: usize,
    /// Bytes of free chunks in spans, without what is purged.
    pub span_free: usize,
    /// Bytes behind the last chunk of each span, without what is purged.
    pub tails: usize,
    /// Bytes of free pages that have not been purged yet.
    pub dirty: usize,
    /// Bytes that vanished threads had in hand: out of reach.
    pub stranded: usize,
    /// Bytes of the allocator's tables.
    pub metadata: usize,
    /// Bytes that may hold memory, counted where they are committed and purged: an upper bound of resident memory.
    pub committed: usize,
    /// Bytes of address space reserved.
    pub reserved: usize,
    /// Bytes of free OS pages purged inside spans that are in use: not in `committed`.
    pub purged: usize,
    /// Threads that have a cache.
    pub threads: usize,
    /// Spans in use.
    pub spans: usize,
}

impl Stats {
    /// The sum that must equal `committed`.
    pub fn accounted(&self) -> usize {
        self.live
            .wrapping_add(self.thread_cached)
            .wrapping_add(self.pooled)
            .wrapping_add(self.span_free)
            .wrapping_add(self.tails)
            .wrapping_add(self.dirty)
            .wrapping_add(self.stranded)
            .wrapping_add(self.metadata)
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("live", self.live),
            ("in thread caches", self.thread_cached),
            ("in pools", self.pooled),
            ("free in spans", self.span_free),
            ("span tails", self.tails),
            ("dirty runs", self.dirty),
            ("stranded", self.stranded),
            ("metadata", self.metadata),
        ];
        writeln!(f, "{:<18} {:>14} {:>7}", "where", "bytes", "share")?;
        for (name, bytes) in rows {
            let share = bytes as f64 * 100.0 / self.committed.max(1) as f64;
            writeln!(f, "{name:<18} {bytes:>14} {share:>6.1}%")?;
        }
        writeln!(f, "{:<18} {:>14}", "= committed", self.committed)?;
        writeln!(f, "{:<18} {:>14}", "purged in spans", self.purged)?;
        writeln!(f, "{:<18} {:>14}", "reserved", self.reserved)?;
        write!(f, "{} spans, {} threads", self.spans, self.threads)
    }
}

impl Heap {
    /// See [`Stats`]. Linear in the number of spans and thread caches.
    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats {
            dirty: self.spans.arenas.dirty(),
            metadata: self.metadata(),
            committed: self.committed(),
            reserved: self.spans.arenas.reserved() + self.huge.load(Ordering::Relaxed),
            ..Stats::default()
        };
        let mut out = [0usize; CLASSES];
        let mut runs = 0;
        for span in self.spans.live() {
            let class = span.head.kind() as usize;
            // A walk may meet a node between two owners.
            let Some(info) = INFO.get(class) else { continue };
            let count = span.count();
            let (purged, purged_tail) = span.purged_bytes();
            out[class] += info.chunks.saturating_sub(count);
            let free = (count * info.size).wrapping_sub(purged);
            if span.is_held() {
                stats.stranded = stats.stranded.wrapping_add(free);
            } else {
                stats.span_free = stats.span_free.wrapping_add(free);
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
                cache.walk_spares(class, &self.magazines, |spare| *cached += spare.count());
            }
        }
        for (class, info) in INFO.iter().enumerate() {
            let mut pooled = 0;
            self.pools[class].walk_full(&self.magazines, |magazine| pooled += magazine.count());
            stats.thread_cached += cached[class] * info.size;
            stats.pooled += pooled * info.size;
            stats.live = stats
                .live
                .wrapping_add(out[class].wrapping_sub(cached[class]).wrapping_sub(pooled).wrapping_mul(info.size));
        }
        for node in self.larges() {
            stats.live += node.bytes();
            if node.head.kind() != HUGE {
                runs += node.bytes();
            }
        }
        // Runs that are claimed but belong to no node were in the hands of threads that vanished.
        stats.stranded += self.spans.arenas.used_bytes().saturating_sub(runs);
        stats
    }
}
