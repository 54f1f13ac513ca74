//! The calls of the probe whose size the compiler does not know. In a crate of their own, as nearly all code of a
//! program is: it comes to the global allocator through `__rust_alloc` and `__rust_dealloc`.

use std::mem::MaybeUninit;

/// An allocation by `Vec`.
#[inline(never)]
pub fn vector(size: usize) -> Vec<u8> {
    Vec::with_capacity(size)
}

/// An allocation by `Box`.
#[inline(never)]
pub fn boxed(size: usize) -> Box<[MaybeUninit<u8>]> {
    Box::new_uninit_slice(size)
}

/// Frees a vector's memory.
#[inline(never)]
pub fn free(vector: Vec<u8>) {
    drop(vector);
}

/// Frees a box's memory.
#[inline(never)]
pub fn unbox(boxed: Box<[MaybeUninit<u8>]>) {
    drop(boxed);
}

/// Has a vector, of which nothing is in use, hold so many bytes.
#[inline(never)]
pub fn resize(mut vector: Vec<u8>, size: usize) -> Vec<u8> {
    vector.reserve_exact(size);
    vector
}
