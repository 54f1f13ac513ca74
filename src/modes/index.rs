//! An index: from a 64-bit key to the number of the record that has it, for many threads at once.
//!
//! A hash table in levels, each twice as large as the one before; a level is made of buckets of one cache line, and stays for
//! ever. An entry is one word: half of the key's hash, and the number. It goes into a free slot of its bucket in the topmost
//! level, or in the one below; if both buckets are full there, a level is added on top, or, where there is no memory for one, it
//! goes to one further down. A look-up goes through the levels from the top: most entries are in the first that it sees. So each
//! operation looks at a bounded number of slots, moves nothing, and waits for nobody.
//!
//! Whoever removes an entry does so by an exchange of its word: of two, one has removed it.
//!
//! Invariant: each entry is in one slot, from its insertion to its removal.

use crate::config::{INDEX_BUCKETS, INDEX_LEVELS, INDEX_SLOTS, ZERO_IS_NODE};
use crate::os;
use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, Fault, Ordering, planted};
use core::ops::Range;
use core::ptr::{null_mut, with_exposed_provenance_mut};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Index {
    levels: [AtomicPtr<AtomicU64>; INDEX_LEVELS],
    /// Levels that there are.
    made: AtomicU32,
}

/// Spreads a key's bits over a word (the multiplier is the golden ratio's, as in Knuth's multiplicative hashing).
fn hash(key: u64) -> u64 {
    let mixed = (key ^ key >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

fn entry(hash: u64, number: u32) -> u64 {
    hash & !(u32::MAX as u64) | number as u64
}

const fn buckets(level: usize) -> usize {
    INDEX_BUCKETS << level
}

impl Index {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self { levels: array_of![AtomicPtr::new(null_mut()); INDEX_LEVELS], made: AtomicU32::new(0) }
        }
    }

    /// The bucket of a hash in a level that is there.
    fn bucket(&self, level: usize, hash: u64) -> &[AtomicU64] {
        // ORDERING: Acquire pairs with the exchange in `grow`: the slots are made.
        let slots = self.levels[level].load(Ordering::Acquire);
        let at = hash as usize & (buckets(level) - 1);
        // SAFETY: a level that is counted has this many slots, and stays for ever.
        unsafe { core::slice::from_raw_parts(slots.add(at * INDEX_SLOTS), INDEX_SLOTS) }
    }

    fn made(&self) -> usize {
        // ORDERING: Acquire pairs with the Release in `grow`: the levels counted are there. Whoever was given a key by the
        // thread that inserted it sees the level that it went to.
        self.made.load(Ordering::Acquire) as usize
    }

    /// Inserts a key with its number, which is not zero. False: there is no memory for it.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn insert(&self, key: u64, number: u32) -> bool {
        let hash = hash(key);
        let entry = entry(hash, number);
        loop {
            let made = self.made();
            let topmost = made.saturating_sub(2);
            if self.put(topmost..made, hash, entry) {
                return true;
            }
            if !self.grow(made) {
                return self.put(0..topmost, hash, entry);
            }
        }
    }

    /// Puts an entry into a free slot of one of these levels, if there is one.
    #[inline]
    fn put(&self, levels: Range<usize>, hash: u64, entry: u64) -> bool {
        levels.rev().flat_map(|level| self.bucket(level, hash)).any(|slot| {
            // ORDERING: Release pairs with the Acquire in `find`: the record is made.
            let publish = if planted(Fault::IndexRelaxed) { Ordering::Relaxed } else { Ordering::Release };
            slot.load(Ordering::Relaxed) == 0 && slot.compare_exchange(0, entry, publish, Ordering::Relaxed).is_ok()
        })
    }

    /// The number under a key for which `is` says that its record has that key.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn find(&self, key: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let hash = hash(key);
        for level in (0..self.made()).rev() {
            for slot in self.bucket(level, hash) {
                // ORDERING: Acquire pairs with the Release in `insert`.
                let seen = slot.load(Ordering::Acquire);
                if seen != 0 && seen >> 32 == hash >> 32 && is(seen as u32) {
                    return Some(seen as u32);
                }
            }
        }
        None
    }

    /// Removes a key's entry with this number. True for one caller only.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn remove(&self, key: u64, number: u32) -> bool {
        let hash = hash(key);
        let entry = entry(hash, number);
        for level in (0..self.made()).rev() {
            for slot in self.bucket(level, hash) {
                if slot.load(Ordering::Relaxed) == entry {
                    if planted(Fault::IndexStore) {
                        slot.store(0, Ordering::Relaxed);
                        return true;
                    }
                    // ORDERING: Acquire pairs with the Release in `insert`, for whoever has not found the entry by its key.
                    if slot.compare_exchange(entry, 0, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                        return true;
                    }
                }
            }
        }
        false
    }

    /// Adds a level on top of `made`. Built privately, published by one exchange; the loser undoes.
    fn grow(&self, made: usize) -> bool {
        let Some(place) = self.levels.get(made) else { return false };
        if place.load(Ordering::Relaxed).is_null() {
            let slots = buckets(made) * INDEX_SLOTS;
            let bytes = slots * size_of::<AtomicU64>();
            let Some(at) = os::metadata(bytes) else { return false };
            let level = with_exposed_provenance_mut::<AtomicU64>(at);
            if !ZERO_IS_NODE {
                // SAFETY: inside the bytes that were mapped just now.
                (0..slots).for_each(|slot| unsafe { level.add(slot).write(AtomicU64::new(0)) });
            }
            // ORDERING: Release publishes the slots; pairs with the Acquire in `bucket`.
            if planted(Fault::IndexGrow) {
                place.store(level, Ordering::Release);
            } else if place.compare_exchange(null_mut(), level, Ordering::Release, Ordering::Relaxed).is_err() {
                os::release_metadata(at, bytes);
            }
        }
        // ORDERING: Release: the level is there for whoever sees it counted, be it another's, which was seen there.
        let _ = self.made.compare_exchange(made as u32, made as u32 + 1, Ordering::Release, Ordering::Relaxed);
        true
    }

    /// Bytes of all levels.
    pub(crate) fn bytes(&self) -> usize {
        (0..self.made()).map(|level| buckets(level) * INDEX_SLOTS * size_of::<AtomicU64>()).sum()
    }

    /// Gives all levels back, at the heap's end.
    ///
    /// # Safety
    /// The index is not used any more.
    pub(crate) unsafe fn dispose(&self) {
        for (level, place) in self.levels.iter().enumerate() {
            // Relaxed: whoever says that nobody uses it any more comes after all who did.
            let slots = place.load(Ordering::Relaxed);
            if !slots.is_null() {
                let bytes = buckets(level) * INDEX_SLOTS * size_of::<AtomicU64>();
                os::release_metadata(slots.expose_provenance(), bytes);
            }
        }
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_inserted_is_found_until_it_is_removed() {
        let index = Index::new();
        let keys: std::vec::Vec<u64> = (1..50_000u64).map(|at| at * 16 + 0x7f00_0000_0000).collect();
        let number = |key: u64| ((key - 0x7f00_0000_0000) / 16) as u32;
        keys.iter().for_each(|key| assert!(index.insert(*key, number(*key))));
        for key in &keys {
            assert_eq!(index.find(*key, |found| found == number(*key)), Some(number(*key)));
            assert_eq!(index.find(*key + 8, |found| found == number(*key)), None);
        }
        for key in keys.iter().step_by(2) {
            assert!(index.remove(*key, number(*key)) && !index.remove(*key, number(*key)));
        }
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(index.find(*key, |found| found == number(*key)).is_some(), at % 2 == 1);
        }
        // Space that entries have left is used again: a loop of one does not grow it.
        let bytes = index.bytes();
        for at in 0..1_000_000 {
            assert!(index.insert(at, 1) && index.remove(at, 1));
        }
        assert_eq!(index.bytes(), bytes);
        assert!(bytes < 50_000 * 8 * 8, "{bytes}");
        // SAFETY: used no more.
        unsafe { index.dispose() };
    }
}
