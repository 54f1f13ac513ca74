//! A tagged index: what a stack's head holds.
//!
//! 32 bits name a node, 32 bits count the pops. An exchange that expects an old head fails even if the same node is on top
//! again, unless exactly a multiple of 2^32 pops happened in between. This is the remedy for the ABA problem in IBM's
//! System/370 manual, with index and count in one word, so that no 128-bit atomics are needed. The sixteen bits that a 48-bit
//! address would leave for the count wrap within milliseconds.

/// The index of a node. Zero names none.
pub(crate) type Index = u32;

/// No node.
pub(crate) const NONE: Index = 0;

/// An index and a tag in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tagged(u64);

impl Tagged {
    /// No node, tag zero.
    pub(crate) const EMPTY: Self = Self(0);

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    pub(crate) const fn index(self) -> Index {
        self.0 as u32
    }

    pub(crate) const fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Another index, the tag counted up.
    pub(crate) const fn change(self, index: Index) -> Self {
        Self((self.tag().wrapping_add(1) as u64) << 32 | index as u64)
    }

    /// Another index under the same tag.
    pub(crate) const fn keep_tag(self, index: Index) -> Self {
        Self((self.tag() as u64) << 32 | index as u64)
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_tag_counts_changes_and_wraps_without_touching_the_index() {
        let last = Tagged::from_bits(u64::MAX);
        assert_eq!(last.change(7), Tagged::from_bits(7));
        assert_eq!(Tagged::EMPTY.change(9).change(NONE).tag(), 2);
        assert_eq!(Tagged::EMPTY.keep_tag(5).index(), 5);
    }
}
