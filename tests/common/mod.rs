//! What the test binaries share. Each of them runs with Millpond as its global allocator.
#![allow(dead_code, reason = "each test binary uses its own part")]

use millpond::Millpond;

pub mod block;
pub mod chain;
pub mod child;
pub mod eights;
pub mod fork;
pub mod kernel;
pub mod law;
pub mod random;
pub mod resource;
pub mod table;
pub mod thread;
pub mod words;

#[global_allocator]
pub static GLOBAL: Millpond = Millpond;

pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;
pub const GIB: usize = 1 << 30;

/// The largest pooled size.
pub const LARGEST_CLASS: usize = 256 * KIB;

/// An amount of work: the full one in release, less where nothing is optimised.
pub const fn scaled(release: usize, debug: usize) -> usize {
    if cfg!(debug_assertions) { debug } else { release }
}

/// `assert!` for where there may be no memory to panic with: it neither allocates nor unwinds.
#[allow(unused_macros, reason = "each test binary uses its own part")]
macro_rules! ensure {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            $crate::common::child::fail(format_args!($($text)*));
        }
    };
}
#[allow(unused_imports, reason = "each test binary uses its own part")]
pub(crate) use ensure;
