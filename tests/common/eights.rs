//! Blocks of a heap that are aligned to 8, by their size alone.

use millpond::Heap;
use std::alloc::Layout;
use std::ptr::NonNull;

pub fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("valid")
}

pub fn take(heap: &Heap, size: usize) -> NonNull<u8> {
    heap.alloc(layout(size)).expect("memory")
}

pub fn give(heap: &Heap, block: NonNull<u8>, size: usize) {
    // SAFETY: a block of that size, or the misuse under test.
    unsafe { heap.free(block, layout(size)) };
}
