//! Millpond: a lock-free memory allocator.
#![no_std]

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
