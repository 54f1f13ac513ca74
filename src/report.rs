//! What the allocator reports: plain data, the same on every system.

mod shown;

use core::fmt;

/// Transparent huge pages: whether the kernel may, should or must not back memory by pages of 2 MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Thp {
    /// Ask for them where a heap grows beyond some 512 KiB (8 MiB with the feature `malloc` or `prefixed`): some 10 % more resident
    /// memory than without, and a fraction of the page faults. Refuse them until then, where memory has gone back, and for a while
    /// once one was slow to come, also where the system is set to give them to all. Zeroed blocks from 32 MiB on are left to the
    /// system.
    #[default]
    Default,
    /// Ask for them: fewer page faults and TLB misses, more resident memory.
    Always,
    /// Refuse them.
    Never,
    /// Neither: as the system is set (`/sys/kernel/mm/transparent_hugepage/enabled`).
    System,
}

/// How much a heap knows of its allocations, and which misuse it notices. Each mode notices what those before it do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// No records; notices what costs nothing to notice. See [`Millpond`](crate::Millpond) for what that is.
    #[default]
    Fast,
    /// Each allocation has a [`Record`] with an ID, and each free must find it: a double free, a wrong layout and an address at
    /// which no allocation begins end the process, with a line that says what is known. Some 60 ns a pair of calls, and some
    /// 75 bytes an allocation.
    Tracked,
    /// Also notices writes up to 32 bytes past the end of an allocation or before its beginning, when it is freed; writes to freed
    /// memory, some 1024 frees of its thread later; and any access past guarded allocations and to freed large ones, at once. At the latest
    /// the program's end by `exit` looks. Some 80 ns a pair of calls. The README has a table of what is seen and what is not.
    Hardened,
}

/// What is written over memory when it is freed, in the modes that keep records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Freed {
    /// Bytes 0xdf, of which no valid address or small number is made, so that a later use is found out. Memory that is kept
    /// back must still have them when it leaves, or the process ends.
    #[default]
    Junk,
    /// Zeros, so that nobody can read what was there. Checked as for `Junk`.
    Zero,
    /// Nothing: a later write is not noticed.
    Keep,
}

/// What is known of one allocation, in the modes that keep records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Its ID: 1 for the first allocation of its heap, never used again. Higher than those of all earlier allocations of the
    /// same thread, and of all before an earlier [`snapshot`](crate::snapshot).
    pub id: u64,
    /// Where it begins.
    pub address: usize,
    /// The number of bytes asked for.
    pub size: usize,
    /// The alignment asked for, in bytes.
    pub align: usize,
    /// The system's number of the thread that allocated it (`gettid`).
    pub thread: u32,
    /// Milliseconds from the heap's first allocation to this one.
    pub time_ms: u64,
    /// Its thread's [`tag`](crate::tag) when it was allocated; empty if there was none.
    pub tag: &'static str,
}

/// Where the bytes are, and what has been done: a snapshot, exact while no other thread is inside the allocator.
///
/// Then `live + quarantine + thread_cached + pooled + span_free + tails + dirty + stranded + metadata = committed`. `Display`
/// prints all of it as a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Bytes in the program's hands: chunks by their class, larger allocations by whole pages.
    pub live: usize,
    /// Bytes of freed allocations that are kept back: in [`Mode::Hardened`], or where a quarantine was wished for.
    /// Those above 256 KiB to which [`Mode::Hardened`] lets nobody have access any more, 64 at most, whatever was wished, keep their
    /// addresses and hold no memory, but count in full here and in `committed`.
    pub quarantine: usize,
    /// Bytes of free chunks in threads' magazines.
    pub thread_cached: usize,
    /// Bytes of free chunks in the pools' magazines.
    pub pooled: usize,
    /// Bytes of free chunks in spans, less what is purged.
    pub span_free: usize,
    /// Bytes behind the last chunk of each span, less what is purged.
    pub tails: usize,
    /// Bytes of free pages that have not been purged yet, and of freed mappings that are kept for the next allocation as long.
    pub dirty: usize,
    /// Bytes that threads which vanished in a `fork` had in hand: out of reach.
    pub stranded: usize,
    /// Bytes of the allocator's tables.
    pub metadata: usize,
    /// Bytes that may hold memory: an upper bound of what is resident. Counted by itself, where memory is committed and purged.
    pub committed: usize,
    /// Bytes of address space reserved.
    pub reserved: usize,
    /// Bytes of free OS pages inside spans in use that have been purged: not in `committed`.
    pub purged: usize,
    /// Threads that have a cache.
    pub threads: usize,
    /// Spans in use.
    pub spans: usize,
    /// Allocations since the beginning, of every size. A resize in place does not count.
    pub allocations: u64,
    /// Those of them that have been freed.
    pub deallocations: u64,
    /// Bytes of all allocations since the beginning, as served: chunks by their class, larger ones by the whole pages that they
    /// were given at first.
    pub allocated_bytes: u64,
    /// Allocations above the largest class, or aligned to more than a page: in `allocations` too.
    pub large_allocations: u64,
    /// Those of them that are live.
    pub large_live: u64,
    /// Requests that went to the fallback because the heap was exhausted: in no other count here.
    pub fallbacks: u64,
    /// How many bytes of `live` the program asked for; `None` where no records are kept.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub requested: Option<usize>,
    /// How long calls take; `None` unless they are timed (`MILLPOND_TIMING`, `HeapBuilder::timing`).
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub timing: Option<Timing>,
    /// The pools, by rising chunk size.
    pub pools: Pools,
}

/// How long allocations and frees take, from one call in 32, picked at random.
///
/// Timed is all work behind the entry: a chunk from the thread's magazine, the exchange of magazines, upkeep, pages from the
/// system. The clock's own time, measured at the start, is subtracted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Timing {
    /// Allocations, of every size.
    pub alloc: Latency,
    /// Frees.
    pub free: Latency,
}

/// How long calls of one kind take, in nanoseconds; all zero if none was timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Latency {
    /// Calls that were timed.
    pub timed: u64,
    /// Their mean, rounded down.
    pub mean_ns: u64,
    /// The median, to within a sixteenth.
    pub p50_ns: u64,
    /// The 99th percentile, to within a sixteenth.
    pub p99_ns: u64,
    /// The slowest of them; at most 69 s.
    pub max_ns: u64,
}

/// How many pools a heap has: 55, or 60 with the feature `malloc` or `prefixed`.
#[cfg(not(millpond_loom))]
pub const POOLS: usize = if cfg!(any(test, feature = "malloc", feature = "prefixed")) { 60 } else { 55 };
/// As many as the models have classes: their stacks are small.
#[cfg(millpond_loom)]
pub const POOLS: usize = 2;

/// The pools of a heap, by rising chunk size: a slice of [`PoolStats`].
///
/// ```
/// for pool in &millpond::stats().pools {
///     println!("{} of {} bytes are live", pool.live, pool.chunk_size);
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pools([PoolStats; POOLS]);

/// What one pool has done and holds: its part of [`Stats`], in chunks.
///
/// While no other thread is inside the allocator, `live + thread_cached + pooled + span_free = chunks`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PoolStats {
    /// The size of a chunk in bytes.
    pub chunk_size: usize,
    /// Chunks handed out since the beginning, also those that were kept back at once ([`Mode::Hardened`]).
    pub allocations: u64,
    /// Chunks in the program's hands, and those that are kept back.
    pub live: u64,
    /// Free chunks in threads' magazines.
    pub thread_cached: u64,
    /// Free chunks in the pool's magazines.
    pub pooled: u64,
    /// Free chunks in spans.
    pub span_free: u64,
    /// Chunks of all spans.
    pub chunks: u64,
    /// Spans in use.
    pub spans: u64,
    /// How often a thread's bin had no chunk left, and was given some.
    pub refills: u64,
    /// How often a thread's bin had no room left.
    pub drains: u64,
}

impl PoolStats {
    /// Chunks that were handed out and have come back: not those that are freed and kept back still.
    pub fn deallocations(&self) -> u64 {
        self.allocations.saturating_sub(self.live)
    }

    /// The share of the pool's chunks that is in the program's hands or kept back, from 0 to 1; 0 for a pool without spans.
    pub fn utilisation(&self) -> f64 {
        share(self.live, self.chunks)
    }

    /// The share of allocations that a thread's bin served by itself, from 0 to 1; 0 for a pool that has served none.
    pub fn hit_rate(&self) -> f64 {
        share(self.allocations.saturating_sub(self.refills), self.allocations)
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl Default for Pools {
    fn default() -> Self {
        Self([PoolStats::default(); POOLS])
    }
}

impl core::ops::Deref for Pools {
    type Target = [PoolStats];

    fn deref(&self) -> &[PoolStats] {
        &self.0
    }
}

impl core::ops::DerefMut for Pools {
    fn deref_mut(&mut self) -> &mut [PoolStats] {
        &mut self.0
    }
}

impl<'a> IntoIterator for &'a Pools {
    type Item = &'a PoolStats;
    type IntoIter = core::slice::Iter<'a, PoolStats>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// A sequence of those that have served an allocation or have a span.
#[cfg(feature = "serde")]
impl serde::Serialize for Pools {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.used())
    }
}

/// Those that have served an allocation or have a span.
impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.used()).finish()
    }
}

impl Pools {
    /// The pools that have served an allocation or have a span.
    pub fn used(&self) -> impl Iterator<Item = &PoolStats> {
        self.0.iter().filter(|pool| pool.allocations > 0 || pool.spans > 0)
    }
}

impl Stats {
    /// The sum of the parts, in bytes: equals `committed` while no other thread is inside the allocator.
    pub fn accounted(&self) -> usize {
        self.live
            .wrapping_add(self.quarantine)
            .wrapping_add(self.thread_cached)
            .wrapping_add(self.pooled)
            .wrapping_add(self.span_free)
            .wrapping_add(self.tails)
            .wrapping_add(self.dirty)
            .wrapping_add(self.stranded)
            .wrapping_add(self.metadata)
    }

    /// Fragmentation outside chunks: the share of committed memory that is not in the program's hands, from 0 to 1.
    pub fn fragmentation_outside(&self) -> f64 {
        share(self.committed.saturating_sub(self.live) as u64, self.committed as u64)
    }

    /// Fragmentation inside chunks: the share of what is in the program's hands that it did not ask for, from 0 to 1; `None`
    /// where no records are kept.
    pub fn fragmentation_inside(&self) -> Option<f64> {
        self.requested.map(|requested| share(self.live.saturating_sub(requested) as u64, self.live as u64))
    }

    /// The share of requests that went to the fallback, from 0 to 1.
    pub fn fallback_share(&self) -> f64 {
        share(self.fallbacks, self.allocations.saturating_add(self.fallbacks))
    }

    /// The share of allocations up to the largest class that threads' bins served by themselves, from 0 to 1.
    pub fn hit_rate(&self) -> f64 {
        let (hits, served) = self.hits();
        share(hits, served)
    }

    /// Chunks that bins served by themselves, and all.
    fn hits(&self) -> (u64, u64) {
        let sum = |of: fn(&PoolStats) -> u64| self.pools.iter().map(of).fold(0, u64::saturating_add);
        let (served, missed) = (sum(|pool| pool.allocations), sum(|pool| pool.refills));
        (served.saturating_sub(missed), served)
    }
}

/// What a [`trim`](crate::trim) gave back, and what it could not reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trimmed {
    /// Bytes by which committed memory fell.
    pub returned: usize,
    /// Bytes of free chunks that stay in the loaded magazines of other living threads. Only these can give them back: by
    /// [`flush_thread`](crate::flush_thread), or at their end.
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
