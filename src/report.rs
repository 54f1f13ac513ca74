//! What the allocator tells: plain data, the same on every system.

use core::fmt;

/// Transparent huge pages: whether the kernel may, should or must not back memory by pages of 2 MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Thp {
    /// As the system is set (`/sys/kernel/mm/transparent_hugepage/enabled`).
    #[default]
    Default,
    /// Ask for them: fewer page faults and TLB misses, more resident memory.
    Always,
    /// Refuse them.
    Never,
}

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

/// What a trim gave back, and what it could not reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trimmed {
    /// Bytes by which committed memory fell.
    pub returned: usize,
    /// Bytes of free chunks that stay in the loaded magazines of other living threads: each gives them back itself, by
    /// `flush_thread` or at its end.
    pub loaded: usize,
}

/// An equation that does not hold: a defect of Millpond, or memory that the program has overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckError {
    /// Which equation.
    pub what: &'static str,
    /// Where: an address, an index or a class, as `what` says.
    pub at: usize,
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:#x})", self.what, self.at)
    }
}

impl core::error::Error for CheckError {}
