//! Millpond is a lock-free memory allocator for programs with many threads, written in Rust alone.
//!
//! ```
//! use millpond::Millpond;
//!
//! #[global_allocator]
//! static GLOBAL: Millpond = Millpond;
//! # fn main() {}
//! ```
//!
//! From then on every allocation of the program goes through it.
//!
//! | to | there is |
//! |---|---|
//! | look after the allocator | [`trim`], [`flush_thread`], [`set_thp`], [`set_log`] |
//! | see where the bytes are | [`stats`], [`map`](map()), [`walk_chunks`], [`profile`] |
//! | ask about one address | [`usable_size`], [`owns`] |
//! | find bugs | [`Mode`], [`Millpond::with_mode`], [`record`], [`tag`], [`live_since`], [`leaks()`], [`check_memory`] |
//! | measure code | [`measure()`], [`assert_no_alloc`] |
//! | verify the allocator itself | [`check`] |
//! | have a further allocator, with a limit | [`Heap`] |
//!
//! These functions, and the environment's variables, are for the program's heap, which is [`Millpond`]'s. A [`Heap`] has methods of the
//! same names, and goes by what its builder was told; but [`set_log`], `MILLPOND_LOG` and [`tag`] are for all heaps, and a
//! [`profile`] has those that were [built so](HeapBuilder::profiled).
//!
//! The README has the environment variables, the C library and the figures.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `allocator-api2` | [`Heap`], `&Heap` and [`Millpond`] are an `Allocator` for collections |
//! | `serde` | [`Stats`] can be serialised |
//! | `reports` | `MILLPOND_LEAKS`, `MILLPOND_PROFILE` and `MILLPOND_SHOW=map` are heeded; the calls that report the same are there without it |
//! | `malloc` | libc's `malloc` and its kin are Millpond's too, in the whole process; with `reports` |
//! | `prefixed` | the functions of the headers in `include`; with `reports` |
//! | `local_dynamic_tls` | for a library that is loaded where static thread-local storage has run out |
//!
//! With `malloc` or `prefixed` there are five more sizes of chunks: see [`POOLS`].
//!
//! # How it works
//!
//! A request goes down the floors until one has memory; a freed chunk goes down until one keeps it.
//!
//! ```text
//!             alloc ↓                                        ↑ free
//! global      GlobalAlloc::alloc                             dealloc
//! ThreadCache pop     a compare, two loads, a store          push
//! Pool        refill  a full magazine: one exchange          drain
//! Span        carve   a magazine's worth of bits             restore
//! Arena       take    a run of pages                         give
//! os          reserve, commit                                purge, release
//! ```
//!
//! | word | meaning |
//! |---|---|
//! | chunk | one allocation of a pooled size |
//! | size class | one of the sizes to which requests are rounded up |
//! | magazine | a fixed array of addresses of free chunks of one class; each thread has one loaded for each class |
//! | pool | one a class, for all threads: passes whole magazines between them, those of each processor there first: a *shard* of the pools |
//! | span | a run of pages cut into chunks of one class, with a bitmap of the free ones outside of it |
//! | arena | a large reservation of address space, and the bitmaps that account for its pages of 64 KiB |
//! | page map | from an address to its span or larger allocation |
//! | heap | all of these together: a whole allocator |
//!
//! Whichever thread frees a chunk keeps it: chunks have no owner. No floor has a lock, so a thread that is descheduled,
//! killed or lost in a `fork` holds up nobody. Nothing is written into free chunks, but in the mode [`Mode::Hardened`] and
//! where [`Freed`] is set. Memory goes back to the system without a helper thread: slow paths carry the upkeep.
//!
//! Each module's documentation has its states, who owns what in each, its invariant, and the paper it comes from;
//! `cargo doc --document-private-items` shows them. Read down the floors: `global` (the fast path), `thread_cache`, `pool`,
//! `span`, `arena`, `os`; what holds them together is `heap`, what they stand on is `sync`, `tagged`, `stack`, `slab`, and what
//! the words' sizes are is `config`.
//!
//! # What the teaching allocators had
//!
//! Millpond descends from two small allocators in C that were made to learn from. All that their texts name is here. Each row
//! names the test that shows it, and `tests/seeds.rs` checks that this test exists:
//!
//! | theirs | here | shown by |
//! |---|---|---|
//! | eight pools from 32 B to 256 KiB | `PoolTable::Classic` | `tests/heap.rs`: `the_classic_pools_are_the_seeds` |
//! | pools from 8 B on | the default table | `tests/sizes.rs`: `small_sizes_are_rounded_little` |
//! | pool sizes that are changed for a workload | `PoolTable::Sizes` | `tests/heap.rs`: `a_table_of_ones_own_serves_what_it_can` |
//! | pooled sizes in O(1), both ways | bins of each thread | `tests/fastpath.rs`: `fast_path_keeps_its_budget` |
//! | a free list: the freed chunk is the next | magazines | `tests/realloc.rs`: `a_new_class_moves_and_the_old_chunk_is_free` |
//! | which pool a pointer belongs to | the page map | `tests/sizes.rs`: `live_memory_is_known_and_its_inside_is_no_chunk` |
//! | structures on cache lines of their own | bins, records, heads of stacks | `src/slab.rs`: `what_each_take_writes_shares_no_line_with_what_each_get_reads` |
//! | 16 bytes of alignment, and 64 | any power of two | `tests/shadow.rs`: `every_alignment` |
//! | large contiguous regions from `mmap` | arenas | `tests/preload.rs`: `in_little_address_space` |
//! | large allocations by `mmap`, and their free | runs of pages, mappings of their own | `tests/large.rs`: `huge_blocks_go_back_where_mappings_are_used_up` |
//! | no fragmentation, by pools and size classes | what is lost, inside chunks and outside, is told | `tests/statistics.rs`: `fragmentation_is_told_inside_chunks_and_outside` |
//! | overhead of the tables | outside of chunks, 0.3 % | `tests/statistics.rs`: `metadata_is_small` |
//! | a capacity | `HeapBuilder::capacity` | `tests/heap.rs`: `a_capacity_is_met_and_never_passed` |
//! | used and free memory accounted for | [`Stats`]: the parts are the whole | `tests/statistics.rs`: `the_law_holds_whatever_is_done` |
//! | fallback to malloc, in number and per cent | `HeapBuilder::fallback`, [`Stats::fallback_share`] | `tests/heap.rs`: `an_exhausted_heap_falls_back_and_counts_it` |
//! | totals of allocations, deallocations, bytes | [`Stats`] | `tests/statistics.rs`: `each_allocation_is_counted_once` |
//! | for each pool its size, allocations, utilisation; the hit rate | [`PoolStats`], [`Stats::hit_rate`] | `tests/examples.rs`: `classic_pools` |
//! | average times, in all and of each pool | [`Timing`], and in `include/fast_allocator.h` | `tests/c_api.rs`: `a_first_program_reports_what_it_did` |
//! | times of allocation and free | [`Timing`] | `tests/statistics.rs`: `calls_are_timed_where_that_is_asked_for` |
//! | `fast_allocator_init`, `fast_malloc`, `fast_free`, `fast_allocator_stats`, `fast_allocator_cleanup` | `include/fast_allocator.h` | `tests/c_api.rs`: `a_first_program_reports_what_it_did` |
//! | `allocator_create`, `_malloc`, `_free`, `_destroy`, `_get_id`, `_get_ptr`, `_print_stats`, `_set_bit`, `_get_bit` | `include/allocator.h` | `tests/c_api.rs`: `a_heap_for_c_keeps_its_word` |
//! | compiled by a C compiler | headers for C11, C23 and C++ | `tests/c_api.rs`: `headers_compile_alone` |
//! | an allocator that is destroyed | `Heap`'s drop | `tests/heap.rs`: `a_heap_that_is_dropped_leaves_nothing` |
//! | IDs, both ways | `Heap::id_of`, `Heap::ptr_of` | `tests/records.rs`: `ids_rise_and_are_found_until_the_end` |
//! | size, ID and time stamp of an allocation | [`Record`] | `tests/records.rs`: `threads_share_records` |
//! | a bitset: bits set, read and cleared | `Heap::set_bit`, `Heap::get_bit` | `tests/heap.rs`: `bits_are_set_by_many_threads_and_end_where_they_end` |
//! | verbose logging | `HeapBuilder::log`, `set_log`, `MILLPOND_LOG` | `tests/examples.rs`: `way_of_a_chunk` |
//! | double frees detected | [`Mode::Tracked`], [`Mode::Hardened`] | `tests/records.rs`: `tracked_names_a_double_free` |
//! | protection against common mistakes, bounds checked | [`Mode::Hardened`] | `tests/hardened.rs`: `what_is_deterministic_is_stopped_and_named` |
//! | leaks detected | `leaks`, `MILLPOND_LEAKS` | `tests/leaks.rs`: `what_a_thread_has_lost_is_found_after_it` |
//! | errors and edge cases handled | typed errors of the builder and the look-ups | `tests/heap.rs`: `what_was_wished_is_checked` |
//! | memory is used again | spans, pools, caches | `tests/statistics.rs`: `what_is_freed_in_one_class_serves_another` |
//! | a stress of a thousand allocations and frees | a hundred thousand and more, with many threads | `tests/churn.rs`: `ten_thousand_short_threads` |
//! | thread safety, an exercise there | no lock anywhere | `tests/heap.rs`: `many_threads_share_a_capacity` |
//! | educational comments | each file says what it is, and why | `tests/house.rs`: `sources_keep_the_rules` |
//!
//! Their `make`, `make test`, `make debug` and `make bench` are `cargo build`, `cargo test`, `.ci/sanitize` and
//! `cargo bench --bench throughput` here. Of the exercises that one of them sets, three are left out: strategies of fit have no
//! place among size classes, and garbage collection and compression are no work of an allocator.
//!
//! # Where it runs
//!
//! On Linux on x86-64. On other systems and processors, under Miri, and with `--cfg millpond_forward`, the crate compiles
//! and [`Millpond`] forwards to the system's allocator. Of the functions, only [`check`], [`check_memory`], [`flush_thread`],
//! [`owns`], [`set_thp`], [`stats`], [`trim`] and [`usable_size`] are there, and they do or know nothing; [`Heap`], [`profile`]
//! and all others are not. With `--cfg millpond_portable_tls` the thread-local word is kept by `pthread_getspecific`.
#![no_std]
// The models are a test; beside them, their package has no use for the crate.
#![cfg(any(test, not(millpond_loom)))]
// What is public may grow, but where it is allowed not to; and what is built up in steps is not to be dropped on the way.
#![deny(clippy::exhaustive_enums, clippy::exhaustive_structs, clippy::return_self_not_must_use)]
// Unit tests and models use the core as a value, each a part of it.
#![cfg_attr(any(test, millpond_loom), allow(dead_code, unused_imports))]
// Constants shrunk for the models can be zero, or as large as can be.
#![cfg_attr(millpond_loom, allow(clippy::absurd_extreme_comparisons))]

#[cfg(any(test, millpond_loom))]
extern crate std;

#[macro_use]
#[allow(unused_macros)] // Where only the system's allocator is forwarded to.
mod macros;
mod report;

// Large code that few programs run (modes, statistics, what follows a fork) lies in a section of its own, `.millpond_cold`. The
// system reads code in pieces of some 64 KiB, so nearly all of it would otherwise be resident in every program.

/// Declares the modules of the core, which is there only where it can run.
macro_rules! core_modules {
    ($($module:ident)*) => {
        $(
            #[cfg(all(target_os = "linux", target_arch = "x86_64", not(any(miri, millpond_forward))))]
            mod $module;
        )*
    };
}

/// Declares what is for programs: under test the core runs over a fake system, as a value.
macro_rules! program_modules {
    ($($module:ident)*) => {
        $(
            #[cfg(all(target_os = "linux", target_arch = "x86_64", not(any(miri, millpond_forward))))]
            #[cfg(not(any(test, millpond_loom)))]
            mod $module;
        )*
    };
}

core_modules! {
    sync os closure log
    config size_class tagged stack slab bitset
    arena page_map
    span
    pool
    thread_cache
    modes
    sampler
    times
    tags
    heap
    heaps
    environment
}

program_modules! { slot leaks listed map pprof global records measure chunks instance }

#[cfg(all(target_os = "linux", target_arch = "x86_64", not(any(miri, millpond_forward))))]
#[cfg(not(any(test, millpond_loom)))]
pub mod profile;

#[cfg(all(target_os = "linux", target_arch = "x86_64", not(any(miri, millpond_forward))))]
#[cfg(all(any(feature = "malloc", feature = "prefixed"), not(any(test, millpond_loom))))]
mod c_api;

#[cfg(all(target_os = "linux", target_arch = "x86_64", not(any(miri, millpond_forward))))]
#[cfg(any(feature = "malloc", feature = "prefixed", all(test, not(millpond_loom))))]
mod c_class;

/// In the C library nothing unwinds, and the allocator itself says what went wrong.
#[cfg(millpond_library)]
#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    os::die(format_args!("{info}"))
}

#[cfg(any(not(all(target_os = "linux", target_arch = "x86_64")), miri, millpond_forward))]
#[path = "forward.rs"]
mod global;

#[cfg(feature = "allocator-api2")]
#[cfg(any(not(any(test, millpond_loom)), miri, millpond_forward))]
mod collections;

#[cfg(any(not(any(test, millpond_loom)), miri, millpond_forward))]
pub use global::{Millpond, check, check_memory, flush_thread, owns, set_thp, stats, trim, usable_size};
pub use report::{CheckError, Freed, Latency, Mode, POOLS, PoolStats, Pools, Record, Stats, Thp, Timing, Trimmed};
/// For the test that stops threads in the middle of slow paths.
#[doc(hidden)]
#[cfg(all(millpond_points, target_os = "linux", target_arch = "x86_64", not(any(miri, millpond_forward))))]
pub use sync::points::{Point, watch};
#[cfg(all(target_os = "linux", target_arch = "x86_64", not(any(miri, millpond_forward))))]
#[cfg(not(any(test, millpond_loom)))]
pub use {
    bitset::BitRangeError,
    chunks::{Chunk, walk_chunks},
    global::{WithMode, map, mode, set_log},
    instance::{AllocError, BuildError, Fallback, Heap, HeapBuilder, PoolTable},
    leaks::{LeakGroup, Leaks, LeaksUnknown},
    log::Log,
    map::{HeapMap, Region, Use},
    measure::{Measured, assert_no_alloc, measure},
    os::Location,
    records::{
        GroupBy, LiveGroup, LiveSince, Snapshot, SnapshotError, Tag, callers, id_of, leaks, leaks_since, live_since,
        ptr_of, record, snapshot, tag, walk,
    },
};

/// The README's examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(all(test, millpond_loom))]
#[path = "../loom_tests/mod.rs"]
mod loom_tests;

#[cfg(all(test, millpond_loom))]
fn main() {
    loom_tests::main();
}
