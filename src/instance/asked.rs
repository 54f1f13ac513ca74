//! What may be asked of a heap as a whole, or of one address in it, and what looks after it: its statistics, its limit, its bits.

use super::Heap;
use crate::bitset::BitRangeError;
use crate::heap::Tracked;
use crate::report::{CheckError, Mode, Stats, Trimmed};
use crate::times;

impl Heap {
    /// Gives all that is free back to the system, from any thread: as [`trim`](crate::trim) for the global heap, and also what lies
    /// in the caches of threads that have ended. Linear in the memory that there is.
    ///
    /// # Panics
    /// If a closure of the builder's does: see [`HeapBuilder::on_misuse`](crate::HeapBuilder::on_misuse).
    pub fn trim(&self) -> Trimmed {
        self.flush_all_ended();
        Tracked { cache: self.cache(), ..self.tracked() }.trim()
    }

    /// Gives the calling thread's cached chunks back to their spans. O(chunks cached).
    pub fn flush_thread(&self) {
        if let Some(cache) = self.cache() {
            self.inner().core.flush(cache);
        }
    }

    /// Where the heap's bytes are, and what its pools have done. Linear in the number of spans and threads, and of records where
    /// they are kept.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.fill(&mut stats);
        stats
    }

    /// Fills statistics that are all zeros yet.
    pub(crate) fn fill(&self, stats: &mut Stats) {
        self.inner().core.fill(stats);
        self.add_records(stats);
    }

    /// Adds what the core does not know.
    fn add_records(&self, stats: &mut Stats) {
        let inner = self.inner();
        // Without the thread's cache, which might be made for it: to ask changes nothing.
        let tracked =
            Tracked { heap: &inner.core, tracker: &inner.tracker, mode: inner.mode, cache: None, tag: "", frame: 0 };
        stats.fallbacks = inner.fallbacks.get();
        stats.timing = inner.timed.then(|| times::read(&inner.times));
        stats.add_tables(inner.times.bytes() + inner.bits.len());
        tracked.add_to(stats);
    }

    /// Verifies every structure of the heap, and that its statistics add up. Exact only while no other thread uses the heap: else
    /// an error may be a false alarm, and so in the child of a fork for good, if threads that vanished were in the heap at that
    /// moment. Linear in what the heap has.
    ///
    /// # Errors
    /// Names the first equation that does not hold: a defect, or memory that the program has overwritten.
    pub fn check(&self) -> Result<Stats, CheckError> {
        let mut stats = self.inner().core.check()?;
        self.add_records(&mut stats);
        Ok(stats)
    }

    /// The bytes that may be used at `ptr`: `None` if no allocation of this heap begins there. In the mode [`Mode::Hardened`] those
    /// that were asked for; in the others, of a freed chunk that has not yet returned to its span, as if it were live. O(1), any thread.
    pub fn usable_size(&self, ptr: *const u8) -> Option<usize> {
        let inner = self.inner();
        match inner.mode {
            Mode::Hardened => inner.tracker.usable_size(inner.core.place(ptr.addr())),
            _ => inner.core.usable_size(ptr.addr()),
        }
    }

    /// Whether `ptr` points into memory of this heap, in use or not: as [`owns`](crate::owns).
    pub fn owns(&self, ptr: *const u8) -> bool {
        self.inner().core.owns(ptr.addr())
    }

    /// How much the heap knows of its allocations: see [`HeapBuilder::mode`](crate::HeapBuilder::mode). O(1).
    pub fn mode(&self) -> Mode {
        self.inner().mode
    }

    /// The bytes of pages from which on a closure is told, rounded down to whole pages of 64 KiB: see
    /// [`HeapBuilder::soft_limit`](crate::HeapBuilder::soft_limit). `None`: none is. O(1).
    pub fn soft_limit(&self) -> Option<usize> {
        self.inner().core.spans.arenas.budget().soft_bytes()
    }

    /// The most bytes of pages that the heap may use, rounded down to whole pages of 64 KiB: see
    /// [`HeapBuilder::capacity`](crate::HeapBuilder::capacity). `None`: no limit. O(1).
    pub fn capacity(&self) -> Option<usize> {
        Some(self.inner().capacity).filter(|capacity| *capacity > 0)
    }

    /// Sets or clears a bit of the heap's bitset and returns what it was. O(1), any thread; atomic, with acquire and release ordering.
    ///
    /// # Errors
    /// [`BitRangeError`] if there is no such bit: a heap has as many as [`HeapBuilder::bits`](crate::HeapBuilder::bits) said.
    pub fn set_bit(&self, index: usize, value: bool) -> Result<bool, BitRangeError> {
        self.inner().bits.set(index, value)
    }

    /// A bit of the heap's bitset. O(1), any thread; atomic, with acquire ordering.
    ///
    /// # Errors
    /// As [`set_bit`](Self::set_bit).
    pub fn get_bit(&self, index: usize) -> Result<bool, BitRangeError> {
        self.inner().bits.get(index)
    }
}
