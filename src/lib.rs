//! Millpond: a lock-free memory allocator.
#![no_std]
// Unit tests and models use the core as a value, each a part of it.
#![cfg_attr(any(test, millpond_loom), allow(dead_code, unused_imports))]

#[cfg(any(test, millpond_loom))]
extern crate std;

#[cfg_attr(any(not(target_os = "linux"), not(target_arch = "x86_64"), miri, millpond_forward), allow(unused_macros))]
#[macro_use]
mod macros;
mod report;

/// Declares the modules of the core, which is there only where it can run.
macro_rules! core_modules {
    ($($module:ident)*) => {
        $(
            #[cfg(all(target_os = "linux", target_arch = "x86_64", not(miri), not(millpond_forward)))]
            mod $module;
        )*
    };
}

core_modules! {
    sync os
    config size_class tagged stack slab
    arena page_map
    span
    pool
    thread_cache
    heap
}

// Under test the core runs over a fake system, as a value; the static heap is for programs.
#[cfg(all(target_os = "linux", target_arch = "x86_64", not(any(miri, millpond_forward, test, millpond_loom))))]
mod global;
#[cfg(all(target_os = "linux", target_arch = "x86_64", not(any(miri, millpond_forward, test, millpond_loom))))]
use global as allocator;

#[cfg(any(not(target_os = "linux"), not(target_arch = "x86_64"), miri, millpond_forward))]
mod forward;
#[cfg(any(not(target_os = "linux"), not(target_arch = "x86_64"), miri, millpond_forward))]
use forward as allocator;

#[cfg(any(not(any(test, millpond_loom)), miri, millpond_forward))]
pub use allocator::{Millpond, check, flush_thread, owns, set_thp, stats, trim, usable_size};
pub use report::{CheckError, Stats, Thp, Trimmed};

#[cfg(all(test, millpond_loom))]
#[path = "../loom_tests/mod.rs"]
mod loom_tests;

#[cfg(all(test, millpond_loom))]
fn main() {
    loom_tests::main();
}
