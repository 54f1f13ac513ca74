//! Restore: from a magazine into a span's bitmap.
//!
//! Bits first, then the count: a carver that takes from the count finds the bits set. After its addition a restorer
//! touches the span no more, unless that addition made it the one who lists or retires it.

use super::{HELD, LINKED, RETIRED, Span, State};
use crate::sync::{Fault, Ordering, planted};

/// What is left to do after chunks were added to a span, or after its holder let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restored {
    /// Nothing.
    Done,
    /// The caller, and nobody else, must push it on its pool's stack.
    List,
    /// All chunks are free, and the caller owns the span: it must give the run back, then close it.
    Retire,
}

impl Span {
    /// Sets the bits of chunks that the caller owns, all in the word `at` of the bitmap. `Err` has the bits that were
    /// set already: double frees.
    pub(crate) fn set_bits(&self, at: usize, mask: u64) -> Result<(), u64> {
        // ORDERING: Release pairs with the Acquire in `clear`: what was done to the chunk before is done.
        let publish = if planted(Fault::RestoreBit) { Ordering::Relaxed } else { Ordering::Release };
        let old = self.bits(self.info())[at].fetch_or(mask, publish);
        if old & mask == 0 { Ok(()) } else { Err(old & mask) }
    }

    /// Adds chunks whose bits the caller has set to the count.
    pub(crate) fn add(&self, chunks: usize, now: u32) -> Restored {
        let all = self.info().chunks;
        let mut state = self.state();
        loop {
            let free = state.count() + chunks;
            // It rests from when it was listed or last carved: a trickle of frees does not keep its memory.
            let added = state.with(free, state.stamp());
            let (next, outcome) = if state.is(HELD) {
                (added, Restored::Done)
            } else if free == all {
                (State(state.0 & LINKED | HELD | RETIRED), Restored::Retire)
            } else if state.is(LINKED) && !planted(Fault::RestoreListsAlways) {
                (added, Restored::Done)
            } else {
                (added.with(free, now).set(LINKED), Restored::List)
            };
            // ORDERING: Release pairs with the Acquire of the next holder: our bits are set. Acquire, because who
            // retires the span must come after all who restored to it.
            match self.state.compare_exchange_weak(state.0, next.0, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return outcome,
                Err(now) => state = State(now),
            }
        }
    }
}
