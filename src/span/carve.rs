//! Carve: from a span's bitmap into a magazine.
//!
//! A carver pops a span, and takes from the count and the right to clear bits by one exchange. It then clears as many
//! bits as it took; since every restore sets its bits before it adds to the count, they are there. When it lets go, the
//! span is full, listed again, or, if it was held in place and became wholly free meanwhile, retired.

use super::restore::Restored;
use super::{HELD, LINKED, LIVE, RETIRED, Span, State};
use crate::arena::ones;
use crate::os;
use crate::size_class::Class;
use crate::sync::{Fault, Ordering, planted};
use core::ops::Range;

/// What a pop from a pool's stack turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pop {
    /// The caller holds it and has so many of its chunks to clear.
    Held(usize),
    /// Another holds it and will list it again.
    Busy,
    /// A tombstone: the node is the caller's, to give back to the slab.
    Tombstone,
}

impl Span {
    /// Makes the node of a fresh run a span, held by the caller, with all but the first `taken` chunks free.
    pub(crate) fn open(&self, page: usize, class: Class, taken: usize, now: u32) {
        self.head.describe(page, class as u32);
        let info = self.info();
        for (at, word) in self.bits(info).iter().enumerate() {
            let low = taken.saturating_sub(at * 64).min(64);
            let high = (info.chunks - at * 64).min(64);
            // Relaxed: published by the span's listing, or by the page map.
            word.store(ones(high) & !ones(low), Ordering::Relaxed);
        }
        self.purged.set(0);
        let state = State(LIVE | HELD).with(info.chunks - taken, now);
        // Relaxed: a walker that meets the node in its slab only looks; whoever holds it does so after `unhold`, which
        // publishes all of this.
        self.state.store(state.0, Ordering::Relaxed);
    }

    /// Called by whoever popped the span: takes at most `want` chunks from its count.
    pub(crate) fn hold_popped(&self, want: usize, now: u32) -> Pop {
        let mut state = self.state();
        loop {
            let (next, pop) = if state.is(HELD) {
                (state.clear(LINKED), Pop::Busy)
            } else if state.is(RETIRED) {
                (State(0), Pop::Tombstone)
            } else {
                let taken = want.min(if planted(Fault::CarveBits) { self.set_bits_count() } else { state.count() });
                // Who takes nothing changes nothing: the span goes on resting.
                let left = if taken == 0 { state } else { state.with(state.count() - taken, now) };
                let unlinked = if planted(Fault::HoldLinked) { left } else { left.clear(LINKED) };
                (unlinked.set(HELD), Pop::Held(taken))
            };
            if planted(Fault::HoldStore) {
                // ORDERING: as below.
                self.state.store(next.0, Ordering::Release);
                return pop;
            }
            // ORDERING: Acquire pairs with the Release of every restore that added to the count: its bits are set.
            // AcqRel, so that a Busy holder sees that we have unlinked it before it links again.
            match self.state.compare_exchange_weak(state.0, next.0, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return pop,
                Err(now) => state = State(now),
            }
        }
    }

    /// Clears `count` bits, which the holder has taken from the count, lowest first, and calls `give` with each run of
    /// neighbours' indices; with `lines`, of whole lines as far as there are any. The bits are there, and seen: set bits are never
    /// fewer than the count.
    pub(crate) fn clear(&self, count: usize, lines: bool, mut give: impl FnMut(Range<usize>)) {
        let left = if lines { self.clear_some(count, whole, &mut give) } else { count };
        if self.clear_some(left, |word| word, give) > 0 {
            os::die(format_args!("span {:#x} has fewer chunks than it counts", self.head.start()));
        }
    }

    /// Clears up to `count` of the bits that `choose` leaves of each word. Returns how many are still to be cleared.
    fn clear_some(&self, mut count: usize, choose: impl Fn(u64) -> u64, mut give: impl FnMut(Range<usize>)) -> usize {
        for (at, word) in self.bits(self.info()).iter().enumerate() {
            if count == 0 {
                break;
            }
            let mut mask = lowest(choose(word.load(Ordering::Relaxed)), count);
            if mask == 0 {
                continue;
            }
            // ORDERING: Acquire pairs with the Release of the restore that set the bit, which may not have added
            // to the count yet: whatever its chunk's last owner did is done. Only the holder clears, so all of the
            // mask is still set.
            word.fetch_and(!mask, Ordering::Acquire);
            let first = mask.trailing_zeros() as usize;
            let run = (!(mask >> first)).trailing_zeros() as usize;
            if mask >> first == ones(run) {
                count -= run;
                give(at * 64 + first..at * 64 + first + run);
                continue;
            }
            // Holes, of which few are neighbours.
            count -= mask.count_ones() as usize;
            while mask != 0 {
                let chunk = at * 64 + mask.trailing_zeros() as usize;
                give(chunk..chunk + 1);
                mask &= mask - 1;
            }
        }
        count
    }

    /// Lets go of a span that the caller holds, and says what is left to do.
    pub(crate) fn unhold(&self) -> Restored {
        let mut state = self.state();
        if planted(Fault::UnholdStore) && state.count() == 0 {
            // ORDERING: as below.
            self.state.store(state.clear(HELD).0, Ordering::Release);
            return Restored::Done;
        }
        loop {
            let free = state.count();
            let (next, outcome) = if free == self.info().chunks {
                (State(state.0 & LINKED | HELD | RETIRED), Restored::Retire)
            } else if state.is(LINKED) || free == 0 {
                (state.clear(HELD), Restored::Done)
            } else {
                (state.clear(HELD).set(LINKED), Restored::List)
            };
            // ORDERING: Release publishes the bits that were cleared to the next holder; Acquire, because who retires
            // the span must come after all who restored to it.
            match self.state.compare_exchange_weak(state.0, next.0, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return outcome,
                Err(now) => state = State(now),
            }
        }
    }

    /// Ends the retirement of a span whose run is given back. True: it is in no stack, and its node is the caller's to
    /// give back to the slab. False: whoever pops it will.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.state();
        loop {
            let linked = state.is(LINKED) && !planted(Fault::CloseGives);
            let next = if linked { State(LINKED | RETIRED) } else { State(0) };
            // ORDERING: Release: whoever pops the tombstone comes after all we did with the node.
            match self.state.compare_exchange_weak(state.0, next.0, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return !linked,
                Err(now) => state = State(now),
            }
        }
    }
}

/// The lowest ones of a word, at most `count` of them.
fn lowest(word: u64, count: usize) -> u64 {
    if word == 0 {
        return 0;
    }
    // Neighbours, mostly: of the first run, more than as many, or just so many.
    let first = word.trailing_zeros() as usize;
    let run = (!(word >> first)).trailing_zeros() as usize;
    if count <= run {
        return ones(count) << first;
    }
    let present = word.count_ones() as usize;
    if present <= count {
        return word;
    }
    let mut rest = word;
    if count <= present / 2 {
        for _ in 0..count {
            rest &= rest - 1;
        }
        return word & !rest;
    }
    for _ in count..present {
        rest &= !(1 << (63 - rest.leading_zeros()));
    }
    rest
}

/// Of each byte that is all ones, the ones. Eight chunks of any class, from a multiple of eight on, are whole lines: sizes
/// are multiples of 8 B, and spans begin with a line.
fn whole(word: u64) -> u64 {
    let pairs = word & word >> 1;
    let fours = pairs & pairs >> 2;
    (fours & fours >> 4 & 0x0101_0101_0101_0101) * 0xff
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::{lowest, whole};

    #[test]
    fn whole_bytes_are_kept() {
        for word in [0, 1, u64::MAX, 0xff00_7fff_feff_00ff, 0x7f80_ff01_fe7f_80ff, 0xff << 4] {
            let bytes = word.to_le_bytes().map(|byte: u8| if byte == 0xff { byte } else { 0 });
            assert_eq!(whole(word), u64::from_le_bytes(bytes), "{word:#x}");
        }
    }

    #[test]
    fn the_lowest_ones_are_taken() {
        for word in [0, 1, u64::MAX, 0b1011_0100, 1 << 63, 0x8000_0000_0000_0001] {
            for count in 0..=64 {
                let mask = lowest(word, count);
                assert_eq!(mask & !word, 0);
                assert_eq!(mask.count_ones() as usize, count.min(word.count_ones() as usize));
                let left = word & !mask;
                assert!(mask == 0 || left == 0 || 63 - mask.leading_zeros() < left.trailing_zeros());
            }
        }
    }
}
