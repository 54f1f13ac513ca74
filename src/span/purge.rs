//! Purge of free OS pages inside a span that is still in use.
//!
//! A span of 4 KiB chunks of which one lives would otherwise keep all of its memory. Any thread that walks the spans
//! may hold a listed one *in place*; while it does, nobody clears bits, so what is free stays free, and every unit that
//! lies wholly in free chunks (or in the tail behind the last chunk) can be purged and noted. A carve that takes a chunk
//! in a purged unit clears the note. (Mesh and Scudo return memory below the span too; neither needs locks less.)
//!
//! A unit is the OS page, or a 64th of the span if that is more.
//!
//! Invariant: a noted unit is wholly free, and its bytes are not in `committed`.

use super::{CALM, HELD, LINKED, LIVE, Restored, Span, State};
use crate::config::PAGE;
use crate::os::{self, Purged};
use crate::size_class::ClassInfo;
use crate::sync::{Fault, Ordering, Point, planted, point};
use core::ops::Range;

/// Bytes of a purge unit of such spans.
pub(crate) fn unit(info: &ClassInfo) -> usize {
    (info.pages * PAGE / 64).next_power_of_two().max(os::page_size())
}

/// The range of units that chunks overlap.
fn units_of(info: &ClassInfo, unit: usize, chunks: Range<usize>) -> core::ops::RangeInclusive<usize> {
    chunks.start * info.size / unit..=(chunks.end * info.size - 1) / unit
}

/// Proof that the caller holds a span in place, and the state it had before.
#[derive(Debug)]
pub(crate) struct InPlace(State);

impl Span {
    /// Holds the span in place if it is listed, not held, has changed since it was last held so, and has rested since
    /// the tick of its last change. The returned token lets go of it.
    pub(crate) fn hold_in_place(&self, rested: impl Fn(u32) -> bool) -> Option<InPlace> {
        self.hold_unless(CALM, rested)
    }

    /// The same if it is listed, not held, has none of these flags, and has rested.
    pub(super) fn hold_unless(&self, flags: u64, rested: impl Fn(u32) -> bool) -> Option<InPlace> {
        let state = self.state();
        if !state.is(LIVE | LINKED) || state.0 & (HELD | flags) != 0 || !rested(state.stamp()) {
            return None;
        }
        if planted(Fault::PurgeUnheld) {
            return Some(InPlace(state));
        }
        // ORDERING: Acquire pairs with the Release of whoever restored or let go: the bits are as the count says, and
        // the class and page are those of the run that the state speaks of. One try: it is only upkeep.
        self.state
            .compare_exchange(state.0, state.set(HELD).0, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
            .then_some(InPlace(state))
    }

    /// Lets go of a span held in place: calm, if the holder is `done` with it and nothing has changed meanwhile.
    pub(crate) fn unhold_in_place(&self, token: InPlace, done: bool) -> Restored {
        let state = token.0;
        if !done {
            return self.unhold();
        }
        // ORDERING: Release publishes the notes of what was purged to the next holder.
        let calm =
            self.state.compare_exchange(state.set(HELD).0, state.set(CALM).0, Ordering::Release, Ordering::Relaxed);
        if calm.is_ok() { Restored::Done } else { self.unhold() }
    }

    /// Purges what the holder can. Returns the bytes that hold no memory any more, and whether nothing was refused.
    pub(crate) fn purge_units(&self) -> (usize, bool) {
        let info = self.info();
        let unit = unit(info);
        let units = info.pages * PAGE / unit;
        let mut free = if units == 64 { u64::MAX } else { (1 << units) - 1 };
        for (at, word) in self.bits(info).iter().enumerate() {
            // ORDERING: Acquire pairs with the Release of the restore that set the bit, as in `clear`: it may not have
            // added to the count yet.
            let bits = if planted(Fault::PurgeBit) { Ordering::Relaxed } else { Ordering::Acquire };
            let in_use = !word.load(bits);
            let valid = info.chunks - at * 64;
            let mut in_use = if valid < 64 { in_use & ((1 << valid) - 1) } else { in_use };
            while in_use != 0 && free != 0 {
                let chunk = at * 64 + in_use.trailing_zeros() as usize;
                in_use &= in_use - 1;
                for touched in units_of(info, unit, chunk..chunk + 1) {
                    free &= !(1 << touched);
                }
            }
        }
        let noted = self.purged.get() as u64;
        let mut gone = 0u64;
        let mut due = free & !noted;
        while due != 0 {
            let first = due.trailing_zeros() as usize;
            let len = (due >> first).trailing_ones() as usize;
            let mask = if len == 64 { u64::MAX } else { ((1 << len) - 1) << first };
            due &= !mask;
            point(Point::Purge);
            if os::purge(self.head.start() + first * unit, len * unit) != Purged::Failed {
                gone |= mask;
            }
        }
        if gone != 0 {
            self.purged.set((noted | gone) as usize);
        }
        (gone.count_ones() as usize * unit, free & !noted == gone)
    }

    /// Notes that chunks are about to be used. Returns the bytes of units that will hold memory again. The holder's.
    #[inline]
    pub(crate) fn unpurge(&self, chunks: Range<usize>) -> usize {
        let noted = self.purged.get() as u64;
        if noted == 0 {
            return 0;
        }
        let info = self.info();
        let unit = unit(info);
        let mask = units_of(info, unit, chunks).fold(0u64, |mask, touched| mask | 1 << touched);
        if noted & mask == 0 {
            return 0;
        }
        self.purged.set((noted & !mask) as usize);
        (noted & mask).count_ones() as usize * unit
    }

    /// Forgets all notes, for a span that is being retired. Returns their bytes.
    pub(crate) fn unpurge_all(&self) -> usize {
        match self.purged.get() {
            0 => 0,
            noted => {
                self.purged.set(0);
                noted.count_ones() as usize * unit(self.info())
            }
        }
    }

    /// Bytes of purged units: those in chunks, and those in the tail. A moment's picture.
    pub(crate) fn purged_bytes(&self) -> (usize, usize) {
        let noted = self.purged.peek() as u64;
        if noted == 0 {
            return (0, 0);
        }
        let info = self.info();
        let unit = unit(info);
        let all = noted.count_ones() as usize * unit;
        let end = info.chunks * info.size;
        let tail = (0..64)
            .filter(|at| noted >> at & 1 == 1)
            .map(|at| ((at + 1) * unit).saturating_sub(end.max(at * unit)))
            .sum();
        (all - tail, tail)
    }
}
