//! Millpond is a memory allocator: lock-free, for many threads, in Rust alone.
//!
//! ```
//! use millpond::Millpond;
//!
//! #[global_allocator]
//! static GLOBAL: Millpond = Millpond;
//! # fn main() {}
//! ```
//!
//! From then on every allocation of the program goes through it. The functions here look after it: [`trim`] gives back
//! what is free, [`stats`] says where the bytes are, [`usable_size`] and [`owns`] answer about one address, [`check`]
//! verifies the whole heap.
//!
//! # How it works
//!
//! A request goes down the floors until one has memory; what is freed goes down until one keeps it.
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
//! Each thread has, for each size class, a *magazine* of free chunks; pools pass whole magazines between threads; a
//! *span* is a run of pages cut into chunks of one class, its free chunks a bitmap outside of it; *arenas* are large
//! reservations of address space. Whichever thread frees a chunk keeps it: chunks have no owner. No floor has a lock, so
//! a thread that is descheduled, killed or lost in a `fork` holds up nobody. Nothing is written into free chunks, but
//! in the mode [`Mode::Hardened`].
//!
//! Memory goes back without a helper thread: slow paths carry the upkeep. Each module's documentation has its states, who
//! owns what in each, and its invariant; `cargo doc --document-private-items` shows them.
//!
//! # What the teaching allocators had
//!
//! Millpond descends from two small allocators in C that were made to learn from. What they have is here:
//!
//! | theirs | here | shown by |
//! |---|---|---|
//! | eight pools from 32 B to 256 KiB | `PoolTable::Classic`, beside finer ones | `tests/heap.rs`: `the_classic_pools_are_the_seeds` |
//! | pooled sizes in O(1) | bins of each thread | `tests/fastpath.rs`: `fast_path_keeps_its_budget` |
//! | free lists: a freed chunk is the next | magazines | `examples/classic_pools.rs` |
//! | large allocations by `mmap` | runs of pages, mappings of their own | `tests/large.rs` |
//! | a capacity | `HeapBuilder::capacity` | `tests/heap.rs`: `a_capacity_is_met_and_never_passed` |
//! | fallback to malloc, in number and per cent | `HeapBuilder::fallback`, [`Stats::fallback_share`] | `tests/heap.rs`: `an_exhausted_heap_falls_back_and_counts_it` |
//! | totals, utilisation, hit rate, a report | [`Stats`], [`PoolStats`] | `tests/statistics.rs`: `each_allocation_is_counted_once` |
//! | average times | [`Timing`], and in `include/fast_allocator.h` | `tests/statistics.rs`: `calls_are_timed_where_that_is_asked_for` |
//! | IDs, both ways; time stamps | `Heap::id_of`, `Heap::ptr_of`, `Record` | `tests/records.rs`: `ids_rise_and_are_found_until_the_end` |
//! | a bitset | `Heap::set_bit`, `Heap::get_bit` | `tests/heap.rs`: `bits_are_set_by_many_threads_and_end_where_they_end` |
//! | double frees detected | [`Mode::Tracked`], [`Mode::Hardened`] | `tests/records.rs`: `tracked_names_a_double_free` and others |
//! | verbose logging | `set_log`, `MILLPOND_LOG` | `tests/examples.rs`: `way_of_a_chunk` |
//! | bad requests are refused | typed errors of the builder and the look-ups | `tests/heap.rs`: `what_was_wished_is_checked` |
//! | usable from C | `include/allocator.h`, `include/fast_allocator.h` | `tests/c_api.rs`: `a_heap_for_c_keeps_its_word` |
//!
//! # Where it runs
//!
//! On Linux on x86-64. On other systems and processors, under Miri, and with `--cfg millpond_forward`, the crate compiles
//! and forwards to the system's allocator: [`trim`] does nothing there, and [`stats`] is all zero. With
//! `--cfg millpond_portable_tls` the thread-local word is kept by `pthread_getspecific`.
#![no_std]
// The models are a test; beside them, their package has no use for the crate.
#![cfg(any(test, not(millpond_loom)))]
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

// What is large and of which few programs have need, such as modes, statistics and what follows a fork, lies in a section of
// the program's file by itself, `.millpond_cold`. The system reads code in by pieces of some 64 KiB, so that otherwise nearly
// all of it would be resident in every program.

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
    sync os log
    config size_class tagged stack slab bitset
    arena page_map
    span
    pool
    thread_cache
    modes
    sampler
    times
    heap
    environment
}

program_modules! { slot leaks pprof global records measure instance }

#[cfg(all(target_os = "linux", target_arch = "x86_64", not(any(miri, millpond_forward))))]
#[cfg(not(any(test, millpond_loom)))]
pub mod profile;

#[cfg(all(target_os = "linux", target_arch = "x86_64", not(any(miri, millpond_forward))))]
#[cfg(all(any(feature = "malloc", feature = "prefixed"), not(any(test, millpond_loom))))]
mod c_api;

#[cfg(all(target_os = "linux", target_arch = "x86_64", not(any(miri, millpond_forward))))]
#[cfg(any(feature = "malloc", feature = "prefixed", all(test, not(millpond_loom))))]
mod c_class;

/// In the C library nothing unwinds, and there is nobody but the allocator to say what went wrong.
#[cfg(millpond_library)]
#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    os::die(format_args!("{info}"))
}

#[cfg(any(not(all(target_os = "linux", target_arch = "x86_64")), miri, millpond_forward))]
#[path = "forward.rs"]
mod global;

#[cfg(any(not(any(test, millpond_loom)), miri, millpond_forward))]
pub use global::{Millpond, check, flush_thread, owns, set_thp, stats, trim, usable_size};
pub use report::{CheckError, Freed, Latency, Mode, POOLS, PoolStats, Pools, Record, Stats, Thp, Timing, Trimmed};
/// For the test that stops threads in the middle of slow paths.
#[doc(hidden)]
#[cfg(all(millpond_points, target_os = "linux", target_arch = "x86_64", not(any(miri, millpond_forward))))]
pub use sync::points::{Point, watch};
#[cfg(all(target_os = "linux", target_arch = "x86_64", not(any(miri, millpond_forward))))]
#[cfg(not(any(test, millpond_loom)))]
pub use {
    bitset::BitRangeError,
    global::set_log,
    global::{WithMode, mode},
    instance::{AllocError, BuildError, Fallback, Heap, HeapBuilder, PoolTable, SoftLimit},
    leaks::{LeakGroup, Leaks, LeaksUnknown},
    log::Log,
    measure::{Measured, assert_no_alloc, measure},
    os::Location,
    records::{
        GroupBy, LiveGroup, LiveSince, Snapshot, Tag, callers, id_of, leaks, leaks_since, live_since, ptr_of, record,
        snapshot, tag, walk,
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
