//! Ranges of bits in an array of atomic words: the arithmetic that the arena's bitmaps share.

use crate::sync::{AtomicU64, Ordering};

/// The words that a range of bits touches, each with the mask of the range's bits in it, in ascending order.
pub(crate) fn words_of(start: usize, len: usize) -> impl DoubleEndedIterator<Item = (usize, u64)> {
    let end = start + len;
    let (first, after) = (start / 64, if len == 0 { start / 64 } else { end.div_ceil(64) });
    let (low, high) = (u64::MAX << (start % 64), u64::MAX >> (end.wrapping_neg() % 64));
    (first..after).map(move |word| {
        let mask = if word == first { low } else { u64::MAX };
        (word, if word + 1 == after { mask & high } else { mask })
    })
}

/// The `count` lowest bits; `count` is at most 64.
pub(crate) const fn ones(count: usize) -> u64 {
    if count == 64 { u64::MAX } else { (1 << count) - 1 }
}

/// The last bit in `from..end` that is one.
pub(crate) fn last_one(words: &[AtomicU64], from: usize, end: usize) -> Option<usize> {
    words_of(from, end.saturating_sub(from)).rev().find_map(|(word, mask)| {
        // Relaxed: a search only proposes; the claim decides.
        let set = words[word].load(Ordering::Relaxed) & mask;
        (set != 0).then(|| word * 64 + 63 - set.leading_zeros() as usize)
    })
}

/// Where `len` ones begin in a word; `len` is 1 to 64.
pub(crate) fn begins(ones: u64, len: usize) -> u64 {
    let (mut begins, mut long) = (ones, 1);
    while long < len {
        let more = long.min(len - long);
        begins &= begins >> more;
        long += more;
    }
    begins
}

/// The length of the longest run of ones in a word.
pub(crate) fn longest_of(mut ones: u64) -> usize {
    let mut len = 0;
    while ones != 0 {
        ones &= ones << 1;
        len += 1;
    }
    len
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
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..1000 {
            let word = random.u64(..) | random.u64(..) | random.u64(..);
            assert_eq!(longest_of(word), runs_of(word).map(|(_, len)| len).max().unwrap_or(0));
            let len = random.usize(1..=64);
            let expected = (0..=64 - len).filter(|at| word >> at & ones(len) == ones(len));
            assert_eq!(begins(word, len), expected.fold(0, |all, at| all | 1 << at));
        }
        assert_eq!((begins(u64::MAX, 64), longest_of(u64::MAX), longest_of(0)), (1, 64, 0));
    }

    #[test]
    fn searches_agree_with_a_plain_scan() {
        let words = [AtomicU64::new(u64::MAX << 7), AtomicU64::new(u64::MAX), AtomicU64::new(!(1 << 5))];
        assert_eq!(last_one(&words, 0, 7), None);
        assert_eq!(last_one(&words, 0, 134), Some(132));
    }
}
