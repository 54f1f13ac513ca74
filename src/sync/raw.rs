//! Memory for a value whose type is not known here, and which may change itself behind a shared reference.
//!
//! Not modelled: what lies there is the program's.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

/// Room for so many words, aligned to 16 bytes. Nobody drops what is in it.
#[repr(C, align(16))]
pub(crate) struct Raw<const WORDS: usize>(UnsafeCell<MaybeUninit<[usize; WORDS]>>);

impl<const WORDS: usize> Raw<WORDS> {
    /// Of zeros: what was on the stack, which a search for leaks would take for addresses, does not come with it.
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(MaybeUninit::zeroed()))
    }

    /// Where it begins: for all of its bytes, to read and to write.
    pub(crate) fn at(&self) -> *mut () {
        self.0.get().cast()
    }
}
