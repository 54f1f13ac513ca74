//! An array straight from the kernel, so that a test's own books stay out of the memory that it measures.

use core::ops::{Deref, DerefMut};

/// `len` zeroed items of a plain type, in private anonymous memory.
pub struct Table<T: Copy> {
    items: *mut T,
    len: usize,
}

// SAFETY: owns its memory.
unsafe impl<T: Copy + Send> Send for Table<T> {}
// SAFETY: shared access is through a shared slice only.
unsafe impl<T: Copy + Sync> Sync for Table<T> {}

impl Table<u64> {
    pub fn new(len: usize) -> Self {
        // SAFETY: a fresh anonymous mapping, checked; zero bytes are valid words.
        let items = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                len * 8,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert_ne!(items, libc::MAP_FAILED, "no memory for a table of {len}");
        // SAFETY: the mapping made above. Huge pages would make the table's own memory hard to tell.
        unsafe { libc::madvise(items, len * 8, libc::MADV_NOHUGEPAGE) };
        Self { items: items.cast(), len }
    }

    pub fn copy(words: &[u64]) -> Self {
        let mut table = Self::new(words.len());
        table.copy_from_slice(words);
        table
    }
}

impl<T: Copy> Table<T> {
    /// Bytes that are resident once the first `used` items are written.
    pub fn bytes(used: usize) -> usize {
        used * size_of::<T>()
    }
}

impl<T: Copy> Deref for Table<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialised items.
        unsafe { core::slice::from_raw_parts(self.items, self.len) }
    }
}

impl<T: Copy> DerefMut for Table<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: `len` initialised items, borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.items, self.len) }
    }
}

impl<T: Copy> Drop for Table<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made.
        unsafe { libc::munmap(self.items.cast(), self.len * size_of::<T>()) };
    }
}
