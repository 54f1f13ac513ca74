//! An allocation that knows what its bytes must be.

use super::GLOBAL;
use super::random::Random;
use core::alloc::{GlobalAlloc, Layout};

/// Bytes of the pattern's tile. No multiple of a page, so that no two pages of a block look the same.
const TILE: usize = 4104;

/// Allocates through the global allocator itself: the compiler may not remove this call.
pub fn take(size: usize, align: usize) -> *mut u8 {
    let layout = Layout::from_size_align(size, align).expect("a valid layout");
    assert!(size > 0);
    // SAFETY: the size is not zero.
    unsafe { GLOBAL.alloc(layout) }
}

/// Frees what `take` gave.
///
/// # Safety
/// `ptr` is a live allocation of this size and alignment.
pub unsafe fn give(ptr: *mut u8, size: usize, align: usize) {
    let layout = Layout::from_size_align(size, align).expect("a valid layout");
    // SAFETY: as the caller promises.
    unsafe { GLOBAL.dealloc(ptr, layout) }
}

/// A live allocation filled with a pattern that follows from its seed. Not freed on drop.
#[derive(Debug)]
pub struct Block {
    pub ptr: *mut u8,
    pub size: usize,
    pub align: usize,
    pub seed: u64,
}

// SAFETY: a block owns its memory; nothing in it belongs to a thread.
unsafe impl Send for Block {}

impl Block {
    /// A filled block, or `None` when the allocator says `null`.
    pub fn new(size: usize, align: usize, seed: u64) -> Option<Self> {
        Self::over(take(size, align), size, align, seed)
    }

    /// The same by `alloc_zeroed`, whose zeros are verified first.
    pub fn zeroed(size: usize, align: usize, seed: u64) -> Option<Self> {
        let layout = Layout::from_size_align(size, align).expect("a valid layout");
        assert!(size > 0);
        // SAFETY: the size is not zero.
        let ptr = unsafe { GLOBAL.alloc_zeroed(layout) };
        if !ptr.is_null() {
            // SAFETY: a live allocation of `size` bytes, initialised by `alloc_zeroed`.
            let bytes = unsafe { core::slice::from_raw_parts(ptr, size) };
            assert!(all_zero(bytes), "alloc_zeroed({size}, align {align}) at {ptr:p} is not zero");
        }
        Self::over(ptr, size, align, seed)
    }

    fn over(ptr: *mut u8, size: usize, align: usize, seed: u64) -> Option<Self> {
        if ptr.is_null() {
            return None;
        }
        assert_eq!(ptr as usize % align, 0, "{ptr:p} of size {size} is not aligned to {align}");
        let block = Self { ptr, size, align, seed };
        block.fill();
        Some(block)
    }

    pub fn address(&self) -> usize {
        self.ptr as usize
    }

    fn fill(&self) {
        let tile = tile(self.seed, self.size);
        let mut at = 0;
        while at < self.size {
            let part = TILE.min(self.size - at);
            // SAFETY: `at + part` is within the block, `part` within the tile.
            unsafe { core::ptr::copy_nonoverlapping(tile.as_ptr(), self.ptr.add(at), part) };
            at += part;
        }
    }

    /// Whether the first `len` bytes are still what was written.
    pub fn intact_to(&self, len: usize) -> bool {
        let tile = tile(self.seed, len);
        // SAFETY: a live allocation that `fill` has initialised, `len` no more than its size.
        let bytes = unsafe { core::slice::from_raw_parts(self.ptr, len.min(self.size)) };
        bytes.chunks(TILE).all(|part| part == &tile[..part.len()])
    }

    pub fn intact(&self) -> bool {
        self.intact_to(self.size)
    }

    /// `realloc`: what both sizes share is verified, then all of it is filled anew. The old block when it fails.
    pub fn resize(self, size: usize) -> Result<Self, Self> {
        let layout = Layout::from_size_align(self.size, self.align).expect("a valid layout");
        assert!(size > 0);
        // SAFETY: a live allocation of this layout; the new size is not zero.
        let ptr = unsafe { GLOBAL.realloc(self.ptr, layout, size) };
        if ptr.is_null() {
            return Err(self);
        }
        let kept = size.min(self.size);
        let moved = Self { ptr, size: kept, ..self };
        assert!(
            moved.intact(),
            "realloc {} -> {size} (align {}) lost contents: {:p} -> {ptr:p}",
            self.size,
            self.align,
            self.ptr
        );
        Ok(Self::over(ptr, size, self.align, self.seed).expect("not null"))
    }

    /// Frees it, verified.
    pub fn free(self) {
        assert!(self.intact(), "block {:p} of size {} (align {}) was overwritten", self.ptr, self.size, self.align);
        // SAFETY: live, and consumed here.
        unsafe { give(self.ptr, self.size, self.align) }
    }
}

/// The first `len` bytes of a seed's pattern, as far as a tile goes.
fn tile(seed: u64, len: usize) -> [u8; TILE] {
    let mut random = Random::new(seed);
    let mut tile = [0; TILE];
    for word in tile[..len.min(TILE).next_multiple_of(8)].chunks_exact_mut(8) {
        word.copy_from_slice(&random.word().to_ne_bytes());
    }
    tile
}

/// Compared by `memcmp`, which is fast in a debug build too.
pub fn all_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(4096).all(|part| part == &ZEROS[..part.len()])
}
