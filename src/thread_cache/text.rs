//! A string that stays, in two words: only the owner of what they lie in reads and writes it.
//!
//! Invariant: both words are of one string; zeros are the empty one.

use crate::sync::{AtomicPtr, AtomicUsize, Ordering};
use core::ptr::null_mut;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Text {
    at: AtomicPtr<u8>,
    len: AtomicUsize,
}

impl Text {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self { at: AtomicPtr::new(null_mut()), len: AtomicUsize::new(0) }
        }
    }

    /// The string. Relaxed, as all here: one thread's.
    pub(crate) fn get(&self) -> &'static str {
        let at = self.at.load(Ordering::Relaxed);
        if at.is_null() {
            return "";
        }
        // SAFETY: both words are of one string, which `set` was given and which stays.
        unsafe {
            let bytes = core::slice::from_raw_parts(at, self.len.load(Ordering::Relaxed));
            core::str::from_utf8_unchecked(bytes)
        }
    }

    pub(crate) fn set(&self, text: &'static str) {
        self.at.store(text.as_ptr().cast_mut(), Ordering::Relaxed);
        self.len.store(text.len(), Ordering::Relaxed);
    }
}
