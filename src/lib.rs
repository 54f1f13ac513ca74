//! Millpond: a lock-free memory allocator.
#![no_std]
// The models are this crate's test binary in the package of `loom_tests`; that package's library would be of no use.
#![cfg(any(test, not(millpond_loom)))]
// Each model uses a part of what there is.
#![cfg_attr(millpond_loom, allow(dead_code))]

#[cfg(any(test, millpond_loom))]
extern crate std;

#[macro_use]
mod macros;

mod arena;
mod config;
mod heap;
mod os;
mod page_map;
mod pool;
mod size_class;
mod slab;
mod span;
mod stack;
mod sync;
mod tagged;
mod thread_cache;

#[cfg(not(any(test, millpond_loom)))]
mod global;
#[cfg(not(any(test, millpond_loom)))]
pub use global::{Millpond, check, flush_thread, owns, set_thp, stats, trim, usable_size};
pub use heap::{CheckError, Stats, Trimmed};
pub use os::Thp;

#[cfg(millpond_loom)]
#[path = "../loom_tests/mod.rs"]
mod loom_tests;

/// Runs the models.
#[cfg(millpond_loom)]
fn main() {
    loom_tests::main();
}
