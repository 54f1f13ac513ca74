//! Equal allocations linked through their own first word, for when there is no memory left to list them in.

use super::block::{give, take};

/// A list of live allocations of one size (at least 16 bytes), each stamped with its own address.
pub struct Chain {
    head: *mut u64,
    size: usize,
    pub len: usize,
}

// SAFETY: a chain owns its memory; nothing in it belongs to a thread.
unsafe impl Send for Chain {}

const STAMP: u64 = 0x5ca1_ab1e_0ddb_a115;

impl Chain {
    pub fn new(size: usize) -> Self {
        assert!(size >= 16);
        Self { head: core::ptr::null_mut(), size, len: 0 }
    }

    pub fn bytes(&self) -> usize {
        self.len * self.size
    }

    /// Adds one; `false` when the allocator says `null`.
    pub fn push(&mut self) -> bool {
        let ptr = take(self.size, 8).cast::<u64>();
        if ptr.is_null() {
            return false;
        }
        // SAFETY: at least two words of a fresh allocation, aligned to 8.
        unsafe {
            ptr.write(self.head as u64);
            ptr.add(1).write(ptr as u64 ^ STAMP);
        }
        self.head = ptr;
        self.len += 1;
        true
    }

    /// Adds until `null` or until there are `most`.
    pub fn push_up_to(&mut self, most: usize) -> &mut Self {
        while self.len < most && self.push() {}
        self
    }

    /// Fills the rest of what was pushed last with ones.
    pub fn dirty_last(&mut self) {
        // SAFETY: the last one is live; its first two words stay.
        unsafe {
            self.head.add(2).cast::<u8>().write_bytes(0xff, self.size - 16);
        }
    }

    fn pop(&mut self) -> Option<*mut u64> {
        let ptr = self.head;
        if ptr.is_null() {
            return None;
        }
        // SAFETY: a live element, which `push` wrote.
        unsafe {
            assert_eq!(ptr.add(1).read(), ptr as u64 ^ STAMP, "{ptr:p} of size {} was overwritten", self.size);
            self.head = ptr.read() as *mut u64;
        }
        self.len -= 1;
        Some(ptr)
    }

    /// Frees every other one, and says how many that were.
    pub fn free_every_second(&mut self) -> usize {
        let mut kept: *mut u64 = core::ptr::null_mut();
        let (mut kept_len, mut freed) = (0, 0);
        while let Some(ptr) = self.pop() {
            if (kept_len + freed) % 2 == 0 {
                // SAFETY: live, and unlinked here.
                unsafe { give(ptr.cast(), self.size, 8) };
                freed += 1;
            } else {
                // SAFETY: live; the first word is the link.
                unsafe { ptr.write(kept as u64) };
                kept = ptr;
                kept_len += 1;
            }
        }
        self.head = kept;
        self.len = kept_len;
        freed
    }

    pub fn free_all(&mut self) {
        while let Some(ptr) = self.pop() {
            // SAFETY: live, and unlinked here.
            unsafe { give(ptr.cast(), self.size, 8) };
        }
        assert_eq!(self.len, 0);
    }
}
