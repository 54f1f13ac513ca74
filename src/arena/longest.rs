//! Where a search need not look: for each word of an arena's bitmaps, an upper bound of the free runs that begin in it.
//!
//! A *lane* is a byte, at most `CAP`. There is one for each word, and one for each eight words: the largest of theirs.
//! Eight lanes are one atomic word, and are compared with a length at a time; so a search passes over 64 words, 256 MiB,
//! in a few instructions. The summaries are those of Go's page allocator (Knyszek, 2019), but without its lock: they are
//! bounds, and the bitmap decides.
//!
//! | change | by whom |
//! |---|---|
//! | raised | whoever frees pages, after they are free: always by an exchange, even one that changes nothing |
//! | lowered | a search that has not found what a lane said: by an exchange, and then it looks again |
//!
//! So if the two meet, the later exchange sees what the other thread has done, and the bound is not lost.
//!
//! Invariant, at rest: `lane >= min(CAP, length of the longest free run that begins in the word)`.

use super::bits::ones;
use crate::sync::{AtomicU64, Fault, Ordering, planted};

/// Pages from which on a lane tells no difference. A lane's highest bit is free for the comparison.
pub(super) const CAP: usize = 127;

/// Lanes in an atomic word.
const EACH: usize = 8;
/// Bits of a lane.
const BITS: usize = 8;
/// A one in each lane.
const LOW: u64 = u64::MAX / 0xff;
/// The highest bit of each lane.
const HIGH: u64 = LOW << 7;

/// See the module's documentation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Longest<'a> {
    /// A lane for each word of the bitmaps.
    pub(super) lanes: &'a [AtomicU64],
    /// A lane for each word of `lanes`.
    pub(super) groups: &'a [AtomicU64],
}

/// The highest bit of each lane that is at least as large as `least`'s.
fn at_least(lanes: u64, least: u64) -> u64 {
    ((lanes | HIGH) - least) & HIGH
}

/// Those highest bits that belong to the lanes from `lane` on.
fn from_lane(bits: u64, lane: usize) -> u64 {
    bits & u64::MAX << (lane % EACH * BITS)
}

fn lane(lanes: u64, at: usize) -> usize {
    (lanes >> (at % EACH * BITS)) as usize & CAP
}

fn in_lane(at: usize, value: usize) -> u64 {
    (value as u64) << (at % EACH * BITS)
}

fn largest(lanes: u64) -> usize {
    (0..EACH).map(|at| lane(lanes, at)).max().unwrap_or(0)
}

/// Makes each lane at least what it is in `least`. Returns whether any was not.
fn raise(lanes: &AtomicU64, least: u64) -> bool {
    let mut old = lanes.load(Ordering::Relaxed);
    loop {
        let keep = (at_least(old, least) >> 7) * 0xff;
        let new = old & keep | least & !keep;
        // ORDERING: Release pairs with the Acquire in `lower`, also if nothing changes: what was freed before is seen by
        // whoever lowers after. So is what others had freed before, since exchanges go on with what they have released.
        match lanes.compare_exchange_weak(old, new, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return new != old,
            Err(now) => old = now,
        }
    }
}

/// Makes a lane at most what `exact` says, and then looks again: what the lane must be raised to, if anything.
fn lower(lanes: &AtomicU64, at: usize, exact: impl Fn() -> usize) -> Option<usize> {
    let most = exact();
    let mut old = lanes.load(Ordering::Relaxed);
    loop {
        if lane(old, at) <= most {
            return None;
        }
        let new = old & !in_lane(at, CAP) | in_lane(at, most);
        // ORDERING: Acquire pairs with the Release in `raise`: what was freed before is seen by the second look.
        match lanes.compare_exchange_weak(old, new, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => break,
            Err(now) => old = now,
        }
    }
    Some(exact()).filter(|again| *again > most && !planted(Fault::LowerBlindly))
}

impl Longest<'_> {
    /// How many atomic words there must be for the lanes and for the groups of an arena.
    pub(super) const fn sizes(words: usize) -> (usize, usize) {
        let lanes = words.div_ceil(EACH);
        (lanes, lanes.div_ceil(EACH))
    }

    /// Bounds that hold whatever is free, while no other thread uses the arena.
    pub(super) fn reset(&self, words: usize) {
        for (lanes, count) in [(self.lanes, words), (self.groups, self.lanes.len())] {
            for (at, lanes) in lanes.iter().enumerate() {
                let there = (count - at * EACH).min(EACH);
                lanes.store((LOW * CAP as u64) & ones(there * BITS), Ordering::Relaxed);
            }
        }
    }

    /// The first word from `from` on in which a run of so many pages, at least one, may begin.
    pub(super) fn next(&self, from: usize, pages: usize) -> Option<usize> {
        let least = LOW * pages.min(CAP) as u64;
        let (mut group, mut first) = (from / EACH, from % EACH);
        loop {
            // Relaxed: bounds; the claim decides.
            let groups = at_least(self.groups.get(group / EACH)?.load(Ordering::Relaxed), least);
            let groups = from_lane(groups, group);
            let found = group / EACH * EACH + groups.trailing_zeros() as usize / BITS;
            if found != group {
                (group, first) = (found, 0);
            }
            if groups == 0 {
                continue;
            }
            let lanes = at_least(self.lanes[group].load(Ordering::Relaxed), least);
            if from_lane(lanes, first) != 0 {
                return Some(group * EACH + from_lane(lanes, first).trailing_zeros() as usize / BITS);
            }
            if lanes == 0 {
                let exact = || largest(self.lanes[group].load(Ordering::Relaxed));
                if let Some(again) = lower(&self.groups[group / EACH], group, exact) {
                    raise(&self.groups[group / EACH], in_lane(group, again));
                }
            }
            (group, first) = (group + 1, 0);
        }
    }

    /// Lowers a word's lane to what `exact` says.
    pub(super) fn lower(&self, word: usize, exact: impl Fn() -> usize) {
        if let Some(again) = lower(&self.lanes[word / EACH], word, exact) {
            self.raise_group(word / EACH, in_lane(word, again), again);
        }
    }

    /// Raises the lanes of the words, up to `last`, in which the free run from page `first` up to `end` begins or goes on.
    pub(super) fn raise(&self, first: usize, end: usize, last: usize) {
        if planted(Fault::RaiseNot) {
            return;
        }
        let mut word = first / 64;
        let mut from = first;
        loop {
            let group = word / EACH;
            let most = (end - from).min(CAP);
            let mut least = in_lane(word, most);
            while word < last && word % EACH < EACH - 1 {
                word += 1;
                least |= in_lane(word, (end - word * 64).min(CAP));
            }
            self.raise_group(group, least, most);
            if word == last {
                return;
            }
            word += 1;
            from = word * 64;
        }
    }

    fn raise_group(&self, group: usize, least: u64, most: usize) {
        // In this order: whoever lowers the group's lane finds the words' raised. If they were, so is or will be the
        // group's, by whoever raised them.
        if raise(&self.lanes[group], least) {
            raise(&self.groups[group / EACH], in_lane(group, most));
        }
    }

    /// Whether a word's lane is as high as can be: then this counts as raising it.
    pub(super) fn says_enough(&self, word: usize) -> bool {
        let lanes = &self.lanes[word / EACH];
        let old = lanes.load(Ordering::Relaxed);
        // ORDERING: Release as in `raise`; what others have freed before is not looked at.
        let raise = || lanes.compare_exchange_weak(old, old, Ordering::Release, Ordering::Relaxed);
        lane(old, word) == CAP && raise().is_ok()
    }

    /// Whether the bounds hold for a word in which the longest run is as long as that.
    pub(super) fn holds(&self, word: usize, exact: usize) -> bool {
        let lanes = self.lanes[word / EACH].load(Ordering::Relaxed);
        let group = lane(self.groups[word / EACH / EACH].load(Ordering::Relaxed), word / EACH);
        exact <= lane(lanes, word) && lane(lanes, word) <= group
    }
}
