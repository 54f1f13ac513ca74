//! Where Millpond does not run: another system or processor, Miri, or `--cfg millpond_forward`.
//!
//! The allocator itself and the functions that programs call most, over the system's allocator, so that such programs compile
//! and run: nothing is cached, nothing is trimmed, nothing is known.

use crate::report::{CheckError, Stats, Thp, Trimmed};

use core::alloc::{GlobalAlloc, Layout};

extern crate std;

/// The allocator: here, the system's. See the crate's documentation.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "programs name the value")]
pub struct Millpond;

// SAFETY: forwards to the system's allocator.
unsafe impl GlobalAlloc for Millpond {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { std::alloc::System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { std::alloc::System.dealloc(ptr, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { std::alloc::System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { std::alloc::System.realloc(ptr, layout, new_size) }
    }
}

/// Does nothing here.
pub fn trim() -> Trimmed {
    Trimmed::default()
}

/// Does nothing here.
pub fn flush_thread() {}

/// Nothing is known here: `None`.
pub fn usable_size(_ptr: *const u8) -> Option<usize> {
    None
}

/// Nothing is known here: false.
pub fn owns(_ptr: *const u8) -> bool {
    false
}

/// Nothing is counted here: all zero.
pub fn stats() -> Stats {
    Stats::default()
}

/// There is nothing to verify here.
///
/// # Errors
/// Never.
pub fn check() -> Result<Stats, CheckError> {
    Ok(Stats::default())
}

/// Knows nothing here.
pub fn check_memory() -> usize {
    0
}

/// Does nothing here.
pub fn set_thp(_thp: Thp) {}
