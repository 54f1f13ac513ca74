//! Bitsets: bits in words, each changed by one exchange.
//!
//! The same words-and-masks by which arenas account for pages and spans for chunks, for a program's own use.
//!
//! Invariant: bits behind the last are clear.

use crate::config::ZERO_IS_NODE;
use crate::os;
use crate::sync::{AtomicU64, Fault, Ordering, planted};
use core::fmt;
use core::ptr;

/// An index that a bitset does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BitRangeError {
    /// The index asked for.
    pub index: usize,
    /// How many bits there are.
    pub bits: usize,
}

impl fmt::Display for BitRangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no bit {} among {}", self.index, self.bits)
    }
}

impl core::error::Error for BitRangeError {}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Bitset {
    /// Dangling without bits.
    words: *const AtomicU64,
    bits: usize,
}

impl Bitset {
    /// `bits` clear bits, in memory from the system. `None` if it has none.
    pub(crate) fn new(bits: usize) -> Option<Self> {
        if bits == 0 {
            return Some(Self { words: ptr::NonNull::dangling().as_ptr(), bits });
        }
        let at = os::scratch(Self::bytes(bits)?)?;
        let words = ptr::with_exposed_provenance_mut::<AtomicU64>(at);
        if !ZERO_IS_NODE {
            // SAFETY: inside the bytes that were mapped just now.
            (0..bits.div_ceil(64)).for_each(|word| unsafe { words.add(word).write(AtomicU64::new(0)) });
        }
        Some(Self { words, bits })
    }

    fn bytes(bits: usize) -> Option<usize> {
        bits.div_ceil(64).checked_mul(size_of::<AtomicU64>()).filter(|bytes| *bytes <= isize::MAX as usize)
    }

    fn word(&self, index: usize) -> Result<(&AtomicU64, u64), BitRangeError> {
        if index >= self.bits {
            return Err(BitRangeError { index, bits: self.bits });
        }
        // SAFETY: `new` put so many words there, for as long as the set lives.
        Ok((unsafe { &*self.words.add(index / 64) }, 1 << (index % 64)))
    }

    /// Sets or clears a bit and says what it was.
    pub(crate) fn set(&self, index: usize, value: bool) -> Result<bool, BitRangeError> {
        let (word, mask) = self.word(index)?;
        // ORDERING: AcqRel pairs with itself and with the Acquire of `get`: a bit may guard what the program has.
        let publish = if planted(Fault::BitRelaxed) { Ordering::Relaxed } else { Ordering::AcqRel };
        if planted(Fault::BitStore) {
            let old = word.load(Ordering::Acquire);
            word.store(if value { old | mask } else { old & !mask }, Ordering::Relaxed);
            return Ok(old & mask != 0);
        }
        let old = match value {
            true => word.fetch_or(mask, publish),
            false => word.fetch_and(!mask, publish),
        };
        Ok(old & mask != 0)
    }

    /// A bit.
    pub(crate) fn get(&self, index: usize) -> Result<bool, BitRangeError> {
        let (word, mask) = self.word(index)?;
        // ORDERING: Acquire pairs with the AcqRel of `set`.
        Ok(word.load(Ordering::Acquire) & mask != 0)
    }

    /// Bytes of its words.
    pub(crate) fn len(&self) -> usize {
        Self::bytes(self.bits).unwrap_or(0)
    }

    /// Gives the memory back.
    ///
    /// # Safety
    /// The set is not used any more.
    pub(crate) unsafe fn dispose(&self) {
        if self.len() > 0 {
            os::release_metadata(self.words.expose_provenance(), self.len());
        }
    }
}
