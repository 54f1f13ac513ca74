//! Stretches: an arena's pages in order, as its bitmaps have them, for whoever draws them. While other threads go on, a moment's
//! picture, of which each word is of another moment.
//!
//! Invariant: stretches follow each other without a gap from the arena's first page to its last, and no two that do are alike.

use super::region::Arena;
use crate::config::PAGE_SHIFT;
use crate::sync::{AtomicU64, Ordering};
use core::ops::Range;

/// What the bitmaps say of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// Claimed: a run's, or in somebody's hands.
    Used,
    /// Free, and may hold memory.
    Dirty,
    /// Free, and holds none.
    Clean,
}

impl Arena {
    /// Calls `visit` with the addresses of each stretch, in order.
    pub(crate) fn stretches(&self, visit: &mut dyn FnMut(Range<usize>, Page)) {
        let address = |page: usize| (self.first_page + page) << PAGE_SHIFT;
        let (mut first, mut last) = (0, None);
        for page in 0..self.pages {
            let is_set = |bits: &[AtomicU64]| has(bits, page);
            let now = match (is_set(self.used()), is_set(self.dirty())) {
                (true, _) => Page::Used,
                (false, true) => Page::Dirty,
                (false, false) => Page::Clean,
            };
            if let Some(before) = last.filter(|before| *before != now) {
                visit(address(first)..address(page), before);
                first = page;
            }
            last = Some(now);
        }
        if let Some(last) = last {
            visit(address(first)..address(self.pages), last);
        }
    }
}

/// Relaxed: a picture.
fn has(bits: &[AtomicU64], page: usize) -> bool {
    bits[page / 64].load(Ordering::Relaxed) >> (page % 64) & 1 == 1
}
