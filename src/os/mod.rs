//! The system: address space, memory, time, threads, the last word on stderr.
//!
//! One contract, two implementations: `linux`, and `fake` for unit tests and models, which can be told to fail.
//! Nothing above this module knows the system or the processor, but `slot`, the thread-local word. Lengths and addresses are bytes.
//!
//! | verb | before | after |
//! |---|---|---|
//! | [`reserve`] | `len` and `align` multiples of a page, `align` a power of two | readable, writable, zero; costs no memory until touched; `None` if the system refuses |
//! | [`reserve_for_use`] | as `reserve` | the same, but refused if it is plainly more than the system has; with `behind` bytes of addresses behind it that are nobody's yet, if there are any |
//! | [`reserve_again`] | a whole reservation that was released | as `reserve`, at the same addresses; `false`: somebody else has them |
//! | [`commit`] | inside one reservation | may be used; `false` if the system refuses, and nothing has changed |
//! | [`purge`] | inside one reservation, in use by nobody | reads as the returned [`Purged`] says; costs no memory if purged |
//! | [`protect`] | whole OS pages inside one reservation | any access faults, or none does, as said; `false` if the system refuses: no less access than before |
//! | [`has_access`] | the same | `true`: no access faults; may be `false` where the system does not tell |
//! | [`release`] | a whole reservation | the addresses are no longer ours, or never used again; no memory is held for them |
//! | [`give_up`] | a whole reservation | as `release`; `false` if the system refuses: it is as it was |
//! | [`resize`] | a whole reservation | it is longer (zero beyond the old length) or shorter, in place; `false`: nothing has changed |
//! | [`remap`] | two whole reservations | the second has the contents of the first, which is gone; `false`: the first is as it was, and the second must be forgotten |
//! | [`metadata`] | `len` > 0 | as `reserve`, aligned to an OS page, or to 128 bytes if it is 8 KiB or shorter, for the allocator's tables; never released but by the loser of a race |
//! | [`scratch`] | `len` > 0 | the same, in OS pages of its own, for what comes to an end: given back whole, and with what was in it |
//! | [`apart`] | `len` > 0 | as `scratch`, and no search takes it for memory of the program's, unless the system refuses that |
//!
//! No function here allocates, takes a lock or unwinds, but for what libc does at first use where `MADV_WIPEONFORK` is
//! refused.

#[cfg_attr(all(test, not(millpond_loom)), allow(dead_code))]
pub(crate) mod stock;

#[cfg(all(any(feature = "malloc", feature = "prefixed"), not(any(test, millpond_loom))))]
mod c;
#[cfg(all(feature = "malloc", millpond_shared))]
pub(crate) mod cxx;
#[cfg(millpond_loom)]
pub(crate) mod fake;
#[cfg(all(test, not(millpond_loom)))]
#[path = "fake_memory.rs"]
pub(crate) mod fake;
#[cfg(not(any(test, millpond_loom)))]
mod files;
#[cfg(not(any(test, millpond_loom)))]
mod fork;
#[cfg_attr(test, allow(dead_code))]
#[cfg(not(millpond_loom))]
mod frames;
#[cfg(not(any(test, millpond_loom)))]
mod linux;
#[cfg_attr(test, allow(dead_code))]
#[cfg(not(millpond_loom))]
mod maps;
#[cfg_attr(test, allow(dead_code))]
#[cfg(not(millpond_loom))]
mod modules;
#[cfg_attr(test, allow(dead_code))]
#[cfg(not(millpond_loom))]
mod nursery;
#[cfg(all(feature = "malloc", millpond_shared))]
mod objects;
#[cfg(not(any(test, millpond_loom)))]
mod proc;
#[cfg_attr(any(test, millpond_loom), allow(dead_code))]
mod refused;
#[cfg(not(any(test, millpond_loom)))]
mod reserve;
#[cfg(not(any(test, millpond_loom)))]
mod traced;
#[cfg(all(any(feature = "malloc", test), not(millpond_loom)))]
#[cfg_attr(test, allow(dead_code))]
mod vdso;

#[cfg(all(any(feature = "malloc", feature = "prefixed"), not(any(test, millpond_loom))))]
pub(crate) use c::*;
#[cfg(any(test, millpond_loom))]
pub(crate) use fake::*;
#[cfg(not(millpond_loom))]
#[cfg_attr(test, allow(unused_imports))]
pub(crate) use frames::{frame, frames_from, thread_block};
#[cfg(not(any(test, millpond_loom)))]
pub(crate) use maps::{Mapping, mappings};
#[cfg(not(millpond_loom))]
pub use modules::Location;
pub(crate) use refused::Refused;
#[cfg(not(any(test, millpond_loom)))]
pub(crate) use {files::*, fork::*, linux::*, proc::*, reserve::*, traced::*};

/// What a purged range reads as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purged {
    /// Zero, and no memory is held for it.
    Zero,
    /// Anything, and no memory is held for it (`MADV_FREE` is of this kind).
    #[allow(dead_code)]
    Clean,
    /// The system refused: as before.
    Failed,
}

impl core::fmt::Display for Purged {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Zero => "its memory has gone back, and it reads as zero",
            Self::Clean => "its memory may go back",
            Self::Failed => "the system refuses",
        })
    }
}
