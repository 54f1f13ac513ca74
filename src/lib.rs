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
//! a thread that is descheduled, killed or lost in a `fork` holds up nobody. Nothing is written into free chunks.
//!
//! Memory goes back without a helper thread: slow paths carry the upkeep. Each module's documentation has its states, who
//! owns what in each, and its invariant; `cargo doc --document-private-items` shows them.
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
    sync os
    config size_class tagged stack slab bitset
    arena page_map
    span
    pool
    thread_cache
    modes
    heap
    environment
}

program_modules! { slot global records measure instance }

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
pub use report::{CheckError, Mode, POOLS, PoolStats, Pools, Record, Stats, Thp, Trimmed};
#[cfg(all(target_os = "linux", target_arch = "x86_64", not(any(miri, millpond_forward))))]
#[cfg(not(any(test, millpond_loom)))]
pub use {
    bitset::BitRangeError,
    global::{WithMode, mode},
    instance::{AllocError, BuildError, Fallback, Heap, HeapBuilder, PoolTable, SoftLimit},
    measure::{Measured, assert_no_alloc, measure},
    records::{LiveGroup, LiveSince, Snapshot, Tag, id_of, live_since, ptr_of, record, snapshot, tag, walk},
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
