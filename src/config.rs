//! Every tuning constant, as shipped and shrunk for the models. No other file shrinks anything.
//!
//! Units are bytes unless a name says otherwise. The reasons for the values, and what was measured, are in `LEDGER.md`
//! at the top of the repository.

#[cfg(not(millpond_loom))]
mod values {
    use core::ops::Range;

    /// log2 of a page. 64 KiB, so that a page is a whole number of OS pages on every Linux (4, 16 and 64 KiB).
    pub(crate) const PAGE_SHIFT: u32 = 16;
    /// Bits of address that the page map covers: the user half of a four-level x86-64 address space.
    pub(crate) const ADDRESS_BITS: u32 = 47;
    /// log2 of the entries of a page-map leaf: one leaf is 4 GiB of addresses.
    pub(crate) const LEAF_BITS: u32 = 16;

    /// Distance between classes up to [`LINEAR_MAX`].
    pub(crate) const GRAIN: usize = 8;
    /// The largest linear class; above it there are four classes a doubling.
    pub(crate) const LINEAR_MAX: usize = 64;
    /// The largest class.
    pub(crate) const CLASS_MAX: usize = 256 << 10;
    /// Classes beside the regular ones, in order: for C alone, and only where it is linked in.
    pub(crate) const ODD: &[usize] = if C_ALONE {
        &[176, 288, 400, 4096 + 528, (8 << 10) + 272, (16 << 10) + 272, (32 << 10) + 272]
    } else if IN_C {
        &[400, 4096 + 528, (8 << 10) + 272, (16 << 10) + 272, (32 << 10) + 272]
    } else {
        &[]
    };
    /// Regular classes that are left out: in their places a thread cache has some of the odd ones. C asks for no multiple of 8 that is
    /// none of 16. And std allocates what carries a panic as 56 B aligned to 8, of which the unwinder takes for granted that they are
    /// aligned to 16, as malloc's would be: LLVM's (Rust's own for musl) writes there by instructions that fault elsewhere.
    pub(crate) const LEFT_OUT: &[usize] = if C_ALONE { &[24, 40, 56] } else { &[56] };
    /// Whether C programs are served: their allocations name no alignment, and their memory is compared with malloc's.
    const IN_C: bool = cfg!(any(test, feature = "malloc", feature = "prefixed"));
    /// Whether nobody else is: in the C library.
    const C_ALONE: bool = cfg!(millpond_library);
    /// The least number of chunks in a span of classes up to 32 KiB, and above.
    pub(crate) const SPAN_CHUNKS: (usize, usize) = (8, 4);

    /// A field of no size, behind which a new OS page begins.
    #[derive(Debug)]
    #[repr(C, align(4096))]
    pub(crate) struct PageStart;
    /// Bytes of the page map's end, of 256 KiB, that lie in the OS page in which the rest of a small program's part lies.
    pub(crate) const APART: usize = 2304;

    /// Words of a span node's bitmap: each class has the least of these that suffices. They are few, since each has a table of its
    /// own; with 20 and with 36 words a node is whole cache lines.
    pub(crate) const SPAN_WORDS: [usize; 4] = [20, 36, 64, 128];

    /// Bytes of one class's part of a thread cache.
    pub(crate) const BIN_BYTES: usize = 64;
    /// Slots of a magazine.
    pub(crate) const MAGAZINE_SLOTS: usize = 64;
    /// What the loaded magazine of one class may hold.
    pub(crate) const MAGAZINE_BYTES: usize = 16 << 10;
    /// Of the frees that find no room for a magazine of one chunk, one in so many puts another class's magazine out for it.
    pub(crate) const ADMIT: u64 = 16;
    /// Bytes of chunks that a thread's first carve of a class takes; each further one takes twice as many.
    pub(crate) const FIRST_CARVE: usize = 256;
    /// A line of the processor's caches, for classes below which a thread's first chunks are whole lines.
    pub(crate) const LINE: usize = 64;
    /// What a thread cache may hold over all classes.
    pub(crate) const CACHE_BYTES: usize = 512 << 10;
    /// Spare magazines of one class that a thread keeps, at most.
    pub(crate) const SPARES: u32 = 8;
    /// Empty magazines that a thread keeps.
    pub(crate) const EMPTIES: u32 = 8;
    /// What the full magazines of one pool may hold before more are restored to their spans.
    pub(crate) const POOL_BYTES: usize = 4 << 20;
    /// And what of a pool that serves as much; how many chunks at most, since each is 8 B of tables that do not go back.
    pub(crate) const DEEP_BYTES: usize = if IN_C { 8 << 20 } else { 16 << 20 };
    pub(crate) const DEEP_CHUNKS: usize = 256 << 10;
    /// For so many ticks after a pool had to refuse a magazine, those in disorder do not go there.
    pub(crate) const SPILL_TICKS: u32 = 32;
    /// Processors that have full magazines and listed spans of their own: a power of two.
    pub(crate) const SHARDS: usize = 16;
    /// Listed spans that one refill may visit.
    pub(crate) const CARVE_SPANS: u32 = 8;

    /// Address space of the first arena.
    pub(crate) const ARENA_MIN: usize = 64 << 20;
    /// Address space of the largest arena, but for heaps so large that this part of them is more.
    pub(crate) const ARENA_MAX: usize = 16 << 30;
    pub(crate) const ARENA_PART: usize = 64;
    /// Alignment of an arena's start: a transparent huge page.
    pub(crate) const ARENA_ALIGN: usize = 2 << 20;
    /// How much of a heap's first arena dense runs use before huge pages are asked for. See `arena::growth`.
    pub(crate) const GROWN: usize = if IN_C { 8 << 20 } else { 512 << 10 };
    /// The length of a run for which they are asked for at once. Never in C, where much of a large block may stay untouched, and
    /// peaks are compared with malloc's.
    pub(crate) const GROWN_RUN: usize = if IN_C && !cfg!(test) { isize::MAX as usize } else { ARENA_ALIGN };
    /// How much behind that stays in small pages, for sparse runs.
    pub(crate) const GAP: usize = 4 << 20;
    /// Microseconds from which the first touch of a huge page is slow: as many small pages take no longer. And how much further
    /// an arena is used, at first, until one is asked for again.
    pub(crate) const SLOW_US: u64 = 3000;
    pub(crate) const AGAIN: usize = 64 << 20;
    /// One huge page in so many is timed, and one after so many milliseconds without.
    pub(crate) const TIMED_PART: usize = 16;
    pub(crate) const TIMED_MS: usize = 1000;
    /// The first so many spans of a class are sparse runs.
    pub(crate) const SPARSE_SPANS: u32 = 1;
    /// Size of the chunks from which all are, and large runs too, which then lie apart from dense ones: in C, where buffers are seldom
    /// full, and peaks are compared with malloc's.
    pub(crate) const SPARSE_CHUNK: usize = if IN_C && !cfg!(test) { 8 << 10 } else { usize::MAX };
    /// In a hardened heap, pages to which access is given at a time: 1 MiB.
    pub(crate) const SEAL_STEP: usize = 16;
    /// How many arenas there can be.
    pub(crate) const ARENAS: usize = 512;
    /// After so many, the smallest that is made is twice as large: the last ones have 2 GiB at least.
    pub(crate) const ARENAS_A_SIZE: usize = 32;
    /// From this size an allocation has a mapping of its own.
    pub(crate) const HUGE_MIN: usize = 32 << 20;
    /// The part of a mapping's length that is left free behind it in a hardened heap.
    pub(crate) const GROWTH_PART: usize = 8;

    /// Pages of the longest run that is kept whole when it is freed, and how many such runs: 64 MiB in all, at most.
    pub(crate) const SHELF_PAGES: usize = 16;
    pub(crate) const SHELF_SLOTS: usize = 64;
    /// How many huge mappings are kept, and by which part of one the heap may grow elsewhere until it goes.
    pub(crate) const KEPT_HUGE: usize = 4;
    pub(crate) const KEPT_PART: usize = 8;

    /// Nodes in the first segment of a slab, few, so that the first segments of several share OS pages; each further one doubles.
    pub(crate) const SLAB_FIRST: u32 = 4;
    /// Empty magazines that a processor takes at once where none was returned: about an OS page.
    pub(crate) const MAGAZINES_AT_ONCE: u32 = 8;
    /// Segments of a slab, at most.
    pub(crate) const SLAB_SEGMENTS: usize = 28;
    /// Whether zeroed memory is a valid node. Not so for loom's atomics, which must be constructed.
    pub(crate) const ZERO_IS_NODE: bool = true;
    /// Threads that can have a cache at one time; further ones use the shared path.
    pub(crate) const THREADS: usize = 1 << 16;

    /// Buckets in the first level of an index; each further level doubles.
    pub(crate) const INDEX_BUCKETS: usize = 128;
    pub(crate) const INDEX_LEVELS: usize = 24;
    /// Slots of a bucket: a cache line.
    pub(crate) const INDEX_SLOTS: usize = 8;
    /// IDs that a thread takes at once.
    pub(crate) const ID_BLOCK: usize = 64;
    /// log2 of the addresses for whose records there is one table: 2 MiB.
    pub(crate) const PLOT_SHIFT: u32 = 21;
    /// How many of the last frees of a thread a tracker remembers, and how many freed chunks a hardened one keeps back at most; and among
    /// how many queues of that length threads are dealt out.
    pub(crate) const RECENT: usize = 1024;
    pub(crate) const KEPT_QUEUES: usize = 8;
    /// The most frames of a sampled allocation that are kept, the innermost.
    pub(crate) const FRAMES: usize = 128;
    /// Counters, a power of two, that say whether any sampled address has a given hash.
    pub(crate) const FILTER: usize = 4096;
    /// Bytes behind an allocation, and before it, that a hardened heap checks.
    pub(crate) const CANARY: usize = 32;
    /// The largest allocation that is kept back with its memory.
    pub(crate) const KEPT_MAX: usize = 16 << 10;
    /// How many freed large or guarded allocations keep their addresses, without access.
    pub(crate) const KEPT_RUNS: usize = 64;
    /// How many first chunks of spans are kept back, which have no chunk before them.
    pub(crate) const KEPT_FIRSTS: usize = 256;
    /// A freed large or guarded allocation from this size on does not keep its memory.
    pub(crate) const KEPT_MEMORY: usize = 256 << 10;
    /// The largest allocation that is guarded, and how many are at one time: each takes two mappings, which the system limits.
    pub(crate) const GUARDED_MAX: usize = 16 << 10;
    pub(crate) const GUARDED: u32 = 4096;
    /// The most callers that a record keeps.
    pub(crate) const CALLERS: usize = 32;

    /// Slow paths between two looks at the clock.
    pub(crate) const PULSE: u32 = 8;
    /// The factor up to which that number grows while the clock has not moved.
    pub(crate) const VAIN: u32 = 8;
    /// Milliseconds between two ticks.
    pub(crate) const TICK_MS: u64 = 100;
    /// Ticks between two visits of a purge to a page: it is purged at the second visit after it was given back.
    pub(crate) const PURGE_TICKS: usize = 3;
    /// Words of an arena's bitmap that a purge takes for itself at once: 256 MiB of addresses.
    pub(crate) const PURGE_WORDS: usize = 64;
    /// Refusals in a row after which a purge of a part ends.
    pub(crate) const PURGE_FAILURES: u32 = 4;
    /// Bytes of free pages that may hold memory, whatever the size of the heap.
    pub(crate) const DIRTY_BYTES: usize = 128 << 20;
    /// In a larger heap they may be this part of committed memory: a half, so as much as is in use.
    pub(crate) const DIRTY_PART: usize = 2;
    /// For each `THIN_STEP` bytes that are taken as runs, but for what takes the place of large ones that were freed since the last
    /// tick, pools of other classes return some times as many, if all pools together hold more than so many bytes and more than
    /// this part of committed memory.
    pub(crate) const THIN_STEP: usize = 128 << 10;
    pub(crate) const THIN_TIMES: usize = 4;
    pub(crate) const POOLED_BYTES: usize = 2 << 20;
    pub(crate) const POOLED_PART: usize = 16;
    /// Committed bytes from which a heap returns what lies in pools before it grows; and up to which it gives back to the system
    /// what it does not use then. By what part of them it may grow until it does so again. For C alone: of what has
    /// gone back so nothing may be in huge pages again.
    pub(crate) const SLIM: Range<usize> = if IN_C { 4 << 20..32 << 20 } else { 0..0 };
    pub(crate) const SLIM_PART: usize = 8;
    /// How much is purged at once, at least, when there are more dirty pages than that.
    pub(crate) const RELIEF_BYTES: usize = 16 << 20;
    /// How often a thread's bins are armed again between two moves of its clock.
    pub(crate) const REARMS: u32 = 384;
    /// After so many ticks without work they are not armed.
    pub(crate) const QUIET_TICKS: u32 = 16;
    /// Memory *ebbs* while the bytes gone back to spans and arenas exceed those taken from there by this much and by this part of
    /// what is committed.
    pub(crate) const EBB_LEAST: usize = 1 << 20;
    pub(crate) const EBB_PART: usize = 32;
    /// Each tick forgets this part of the excess.
    pub(crate) const EBB_FORGOTTEN: usize = 8;
    /// While memory ebbs, a thread earns one more arming of a bin for each so many microseconds, and may save up so many: an armed
    /// pop costs some 50 ns more.
    pub(crate) const EARN_US: u64 = 2;
    pub(crate) const EARNED: u64 = 512;
    /// A freed run counts as memory that has gone back only from so many bytes of dirty free pages on.
    pub(crate) const EBB_BYTES: usize = 16 << 20;
    /// Chunks that a thread returns from pools to spans each time its clock has moved.
    pub(crate) const RETURN_CHUNKS: usize = 8192;
    /// Ticks before the next attempt once the system has refused to purge.
    pub(crate) const REFUSED_TICKS: u32 = 8;
    /// Ticks that must have passed since a span was listed or last carved before its free OS pages are purged.
    pub(crate) const REST_TICKS: u32 = 3;
    /// Ticks that a thread's spare magazines must rest before they are taken from it.
    pub(crate) const SPARE_TICKS: u32 = 2;
    /// Spans that a thread sweeps each time its clock has moved.
    pub(crate) const SWEEP_SPANS: u32 = 256;
    /// Thread caches that one tick looks at.
    pub(crate) const TICK_CACHES: u32 = 1024;

    /// Whether the environment can ask for reports at the program's end.
    #[cfg_attr(test, allow(dead_code))]
    pub(crate) const REPORTS: bool = cfg!(any(test, feature = "reports"));
}

#[cfg(millpond_loom)]
mod values {
    use core::ops::Range;

    pub(crate) const PAGE_SHIFT: u32 = 6;
    const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
    pub(crate) const ADDRESS_BITS: u32 = 13;
    pub(crate) const LEAF_BITS: u32 = 4;

    pub(crate) const GRAIN: usize = 16;
    pub(crate) const LINEAR_MAX: usize = 32;
    pub(crate) const CLASS_MAX: usize = 32;
    pub(crate) const ODD: &[usize] = &[];
    pub(crate) const LEFT_OUT: &[usize] = &[];
    pub(crate) const SPAN_CHUNKS: (usize, usize) = (4, 4);
    pub(crate) const SPAN_WORDS: [usize; 1] = [1];
    #[derive(Debug)]
    pub(crate) struct PageStart;
    pub(crate) const APART: usize = 0;

    pub(crate) const BIN_BYTES: usize = 64;
    pub(crate) const MAGAZINE_SLOTS: usize = 2;
    /// So that the second class is of singles.
    pub(crate) const MAGAZINE_BYTES: usize = 32;
    pub(crate) const ADMIT: u64 = 2;
    pub(crate) const FIRST_CARVE: usize = 64;
    pub(crate) const LINE: usize = 0;
    pub(crate) const CACHE_BYTES: usize = 256;
    pub(crate) const SLIM: Range<usize> = 0..0;
    pub(crate) const SLIM_PART: usize = 8;
    pub(crate) const SPARES: u32 = 2;
    pub(crate) const EMPTIES: u32 = 2;
    pub(crate) const POOL_BYTES: usize = 64;
    pub(crate) const DEEP_BYTES: usize = 64;
    pub(crate) const DEEP_CHUNKS: usize = 64;
    pub(crate) const SPILL_TICKS: u32 = 1;
    pub(crate) const SHARDS: usize = 4;
    pub(crate) const CARVE_SPANS: u32 = 2;

    pub(crate) const ARENA_MIN: usize = 4 * PAGE_SIZE;
    pub(crate) const ARENA_MAX: usize = 4 * PAGE_SIZE;
    pub(crate) const ARENA_PART: usize = 64;
    pub(crate) const ARENA_ALIGN: usize = PAGE_SIZE;
    pub(crate) const GROWN: usize = usize::MAX;
    pub(crate) const GROWN_RUN: usize = usize::MAX;
    pub(crate) const GAP: usize = 0;
    pub(crate) const SLOW_US: u64 = u64::MAX;
    pub(crate) const AGAIN: usize = 0;
    pub(crate) const TIMED_PART: usize = 1;
    pub(crate) const TIMED_MS: usize = 0;
    pub(crate) const SPARSE_SPANS: u32 = 0;
    pub(crate) const SPARSE_CHUNK: usize = usize::MAX;
    pub(crate) const SEAL_STEP: usize = 1;
    pub(crate) const ARENAS: usize = 3;
    pub(crate) const ARENAS_A_SIZE: usize = 3;
    pub(crate) const HUGE_MIN: usize = 4 * PAGE_SIZE;
    pub(crate) const GROWTH_PART: usize = 8;

    pub(crate) const SHELF_PAGES: usize = 1;
    pub(crate) const SHELF_SLOTS: usize = 2;
    pub(crate) const KEPT_HUGE: usize = 1;
    pub(crate) const KEPT_PART: usize = 1;

    pub(crate) const SLAB_FIRST: u32 = 2;
    pub(crate) const MAGAZINES_AT_ONCE: u32 = 1;
    pub(crate) const SLAB_SEGMENTS: usize = 3;
    pub(crate) const ZERO_IS_NODE: bool = false;
    pub(crate) const THREADS: usize = 4;

    pub(crate) const INDEX_BUCKETS: usize = 1;
    pub(crate) const INDEX_LEVELS: usize = 3;
    pub(crate) const INDEX_SLOTS: usize = 2;
    pub(crate) const ID_BLOCK: usize = 2;
    pub(crate) const PLOT_SHIFT: u32 = 7;
    pub(crate) const RECENT: usize = 2;
    pub(crate) const KEPT_QUEUES: usize = 2;
    pub(crate) const FRAMES: usize = 2;
    pub(crate) const FILTER: usize = 2;
    pub(crate) const CANARY: usize = 8;
    pub(crate) const KEPT_MAX: usize = 64;
    pub(crate) const KEPT_RUNS: usize = 2;
    pub(crate) const KEPT_FIRSTS: usize = 2;
    pub(crate) const KEPT_MEMORY: usize = 64;
    pub(crate) const GUARDED_MAX: usize = 16;
    pub(crate) const GUARDED: u32 = 2;
    pub(crate) const CALLERS: usize = 2;

    pub(crate) const PULSE: u32 = u32::MAX;
    pub(crate) const VAIN: u32 = 1;
    pub(crate) const TICK_MS: u64 = 1 << 40;
    pub(crate) const PURGE_TICKS: usize = 2;
    pub(crate) const PURGE_WORDS: usize = 1;
    pub(crate) const PURGE_FAILURES: u32 = 1;
    pub(crate) const DIRTY_BYTES: usize = 1 << 30;
    pub(crate) const DIRTY_PART: usize = 1;
    pub(crate) const THIN_STEP: usize = usize::MAX;
    pub(crate) const THIN_TIMES: usize = 1;
    pub(crate) const POOLED_BYTES: usize = 1 << 30;
    pub(crate) const POOLED_PART: usize = 1;
    pub(crate) const RELIEF_BYTES: usize = PAGE_SIZE;
    pub(crate) const REARMS: u32 = 0;
    pub(crate) const QUIET_TICKS: u32 = 1;
    pub(crate) const EBB_LEAST: usize = 1;
    pub(crate) const EBB_PART: usize = usize::MAX;
    pub(crate) const EBB_FORGOTTEN: usize = 1;
    pub(crate) const EARN_US: u64 = 1 << 40;
    pub(crate) const EARNED: u64 = 1;
    pub(crate) const EBB_BYTES: usize = 1 << 30;
    pub(crate) const RETURN_CHUNKS: usize = 8;
    pub(crate) const REFUSED_TICKS: u32 = 1;
    pub(crate) const REST_TICKS: u32 = 1;
    pub(crate) const SPARE_TICKS: u32 = 1;
    pub(crate) const SWEEP_SPANS: u32 = 4;
    pub(crate) const TICK_CACHES: u32 = 4;
}

pub(crate) use values::*;

/// A page: the arena's unit of account.
pub(crate) const PAGE: usize = 1 << PAGE_SHIFT;
/// log2 of the entries of the page map's root.
pub(crate) const ROOT_BITS: u32 = ADDRESS_BITS - PAGE_SHIFT - LEAF_BITS;

/// Whether sparse and dense runs lie apart as long as there are addresses for both.
pub(crate) const SPLITS: bool = SPARSE_CHUNK != usize::MAX;

const _: () = assert!(ARENA_MIN % PAGE == 0 && ARENA_MAX % PAGE == 0 && HUGE_MIN % PAGE == 0);
const _: () = assert!(CLASS_MAX <= CACHE_BYTES);
const _: () = assert!(ADDRESS_BITS <= crate::os::stock::ADDRESS_BITS);
