//! Visits of the free chunks of a span that is in use: whoever holds it in place, as a purge does, may look at what belongs to them
//! elsewhere, and change it, as if they were its own.
//!
//! Invariant: a chunk that is visited is nobody else's until the span is let go of.

use super::{Restored, Span};
use crate::sync::{Fault, Ordering, Point, planted, point};

impl Span {
    /// Calls `visit` with the address of each free chunk, if the span is listed and nobody holds it. What is left to do, if so.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn visit_free(&self, visit: impl FnMut(usize)) -> Option<Restored> {
        let token = self.hold_unless(0, |_| true)?;
        point(Point::Sweep);
        self.each_free(visit);
        Some(self.unhold_in_place(token, false))
    }

    fn each_free(&self, mut visit: impl FnMut(usize)) {
        let (info, start) = (self.info(), self.head.start());
        for (at, word) in self.bits(info).iter().enumerate() {
            // ORDERING: Acquire pairs with the Release of the restore that set the bit, as in `purge_units`.
            let bits = if planted(Fault::VisitBit) { Ordering::Relaxed } else { Ordering::Acquire };
            let mut free = word.load(bits);
            while free != 0 {
                visit(start + (at * 64 + free.trailing_zeros() as usize) * info.size);
                free &= free - 1;
            }
        }
    }
}
