//! Ranges of bits in an array of atomic words: the arithmetic that the arena's bitmaps share.

use crate::sync::{AtomicU64, Ordering};

/// The words that a range of bits touches, each with the mask of the range's bits in it, in ascending order.
pub(crate) fn words_of(start: usize, len: usize) -> impl DoubleEndedIterator<Item = (usize, u64)> {
    let end = start + len;
    let after = if len == 0 { start / 64 } else { end.div_ceil(64) };
    (start / 64..after).map(move |word| {
        let low = start.saturating_sub(word * 64);
        let high = (end - word * 64).min(64);
        (word, ones(high) & !ones(low))
    })
}

/// The `count` lowest bits; `count` is at most 64.
pub(crate) const fn ones(count: usize) -> u64 {
    if count == 64 { u64::MAX } else { (1 << count) - 1 }
}

/// The first bit in `from..end` that is zero.
pub(crate) fn first_zero(words: &[AtomicU64], from: usize, end: usize) -> Option<usize> {
    words_of(from, end.saturating_sub(from)).find_map(|(word, mask)| {
        // Relaxed: a search only proposes; the claim decides.
        let zeros = !words[word].load(Ordering::Relaxed) & mask;
        (zeros != 0).then(|| word * 64 + zeros.trailing_zeros() as usize)
    })
}

/// The last bit in `from..end` that is one.
pub(crate) fn last_one(words: &[AtomicU64], from: usize, end: usize) -> Option<usize> {
    words_of(from, end.saturating_sub(from)).rev().find_map(|(word, mask)| {
        // Relaxed: as above.
        let set = words[word].load(Ordering::Relaxed) & mask;
        (set != 0).then(|| word * 64 + 63 - set.leading_zeros() as usize)
    })
}

/// The runs of ones in a word, from the lowest: first bit and length.
pub(crate) fn runs_of(mut mask: u64) -> impl Iterator<Item = (usize, usize)> {
    core::iter::from_fn(move || {
        (mask != 0).then(|| {
            let first = mask.trailing_zeros() as usize;
            let len = (mask >> first).trailing_ones() as usize;
            mask &= !(ones(len) << first);
            (first, len)
        })
    })
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn a_range_is_cut_into_words() {
        assert_eq!(words_of(3, 0).count(), 0);
        assert_eq!(words_of(62, 4).collect::<Vec<_>>(), [(0, 3 << 62), (1, 3)]);
        assert_eq!(words_of(64, 64).collect::<Vec<_>>(), [(1, u64::MAX)]);
        for start in 0..130 {
            for len in 0..130 {
                let count: u32 = words_of(start, len).map(|(_, mask)| mask.count_ones()).sum();
                assert_eq!(count as usize, len);
            }
        }
    }

    #[test]
    fn runs_are_found() {
        assert_eq!(runs_of(0b1011_0001).collect::<Vec<_>>(), [(0, 1), (4, 2), (7, 1)]);
        assert_eq!(runs_of(u64::MAX).collect::<Vec<_>>(), [(0, 64)]);
    }

    #[test]
    fn searches_agree_with_a_plain_scan() {
        let words = [AtomicU64::new(u64::MAX << 7), AtomicU64::new(u64::MAX), AtomicU64::new(!(1 << 5))];
        assert_eq!(first_zero(&words, 0, 192), Some(0));
        assert_eq!(first_zero(&words, 7, 192), Some(133));
        assert_eq!(first_zero(&words, 7, 133), None);
        assert_eq!(last_one(&words, 0, 7), None);
        assert_eq!(last_one(&words, 0, 134), Some(132));
    }
}
