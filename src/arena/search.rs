//! The search for free runs, and what is said of runs that have become free.
//!
//! First fit: the lowest place that is long enough, so that the runs in use keep together at the bottom, and purges,
//! which begin at the top, stay out of the way. `longest` names the words worth a look; in a word all places are found
//! at once by shifts. A look in vain lowers the word's bound, so that no search looks there again before pages are freed: each
//! look in vain is paid for by a claim or a return.
//!
//! A free run may lie in many words, and those who free its parts know nothing of each other. Each, after its part is
//! free, makes a fence, looks at the words beside it, and raises the bounds of all words in which the run begins. Whoever
//! misses a part has made its fence before the one who freed it: so the last of them in the fences' order has seen all parts.

use super::bits::{begins, last_one, longest_of, ones};
use super::longest::CAP;
use super::region::{Arena, Books};
use crate::sync::{Fault, Ordering, fence, planted};
use core::ops::Range;

impl Arena {
    /// Claims the lowest run of so many pages, at least one, whose first number is a multiple of `align`, and of which none is in
    /// `gap`, which is passed over.
    pub(super) fn search(&self, pages: usize, align: usize, gap: &Range<usize>, books: &Books) -> Option<usize> {
        let mut from = 0;
        while let Some(word) = self.longest().next(from, pages) {
            if gap.start <= word * 64 && word * 64 + 64 <= gap.end {
                from = gap.end / 64;
                continue;
            }
            match self.fit(word, pages, align, gap) {
                Ok(start) if self.claim(start, pages, books).is_ok() => return Some(start),
                // Somebody else was first: there may be another place in this word.
                Ok(_) => from = word,
                Err(next) => {
                    self.longest().lower(word, || self.longest_in(word));
                    from = next;
                }
            }
        }
        None
    }

    /// The lowest place for such a run that begins in a word; otherwise the next word in which one can begin.
    fn fit(&self, word: usize, pages: usize, align: usize, gap: &Range<usize>) -> Result<usize, usize> {
        let free = self.free_in(word) & !pages_in(word, gap);
        if pages <= 64 {
            let places = begins(free, pages) & self.aligned(word, align);
            if places != 0 {
                return Ok(word * 64 + places.trailing_zeros() as usize);
            }
        }
        // A run that goes on in the next word.
        let end = word * 64 + 64;
        let first = end - free.leading_ones() as usize;
        let start = (self.first_page + first).next_multiple_of(align) - self.first_page;
        if start >= end || start + pages > self.pages {
            return Err(word + 1);
        }
        match last_one(self.used(), start, start + pages) {
            None if start < gap.end && gap.start < start + pages => Err((gap.end / 64).max(word + 1)),
            None => Ok(start),
            Some(used) => Err((used / 64).max(word + 1)),
        }
    }

    /// The pages of a word whose numbers are multiples of `align`.
    fn aligned(&self, word: usize, align: usize) -> u64 {
        if align == 1 {
            return u64::MAX;
        }
        let page = self.first_page + word * 64;
        let each = if align < 64 { u64::MAX / ones(align) } else { 1 };
        each.checked_shl((page.next_multiple_of(align) - page).min(64) as u32).unwrap_or(0)
    }

    /// A moment's picture of a word's claims.
    fn load(&self, word: usize) -> u64 {
        self.used()[word].load(Ordering::Relaxed)
    }

    /// The same for those who have freed pages in other words.
    fn look(&self, word: usize) -> u64 {
        if !planted(Fault::LookRelaxed) {
            // ORDERING: SeqCst pairs with itself. Of two who free pages in two words and then look at the other's, the one
            // whose fence comes later sees what the other has freed; nothing weaker forbids that both look too early.
            fence(Ordering::SeqCst);
        }
        self.load(word)
    }

    /// A moment's picture of a word's free pages.
    fn free_in(&self, word: usize) -> u64 {
        !self.load(word) & ones((self.pages - word * 64).min(64))
    }

    /// The length of the longest free run that begins in a word, as far as a lane tells.
    pub(super) fn longest_in(&self, word: usize) -> usize {
        let free = self.free_in(word);
        let within = longest_of(free);
        let last = free.leading_ones() as usize;
        let end = word * 64 + 64;
        let across = if last > 0 { self.free_from(end, end + CAP, |word| self.load(word)) - end + last } else { 0 };
        within.max(across).min(CAP)
    }

    /// The end of the free pages that begin at the beginning of a word, `at`; beyond `enough`, any such page will do.
    fn free_from(&self, mut at: usize, enough: usize, look: impl Fn(usize) -> u64) -> usize {
        while at < self.pages.min(enough) {
            let used = look(at / 64);
            at += used.trailing_zeros() as usize;
            if used != 0 {
                break;
            }
        }
        at.min(self.pages)
    }

    /// The first of the free pages that end where a word begins, `at`; below `enough`, any such page will do.
    fn free_below(&self, mut at: usize, enough: usize) -> usize {
        while at > enough {
            let used = self.look(at / 64 - 1);
            at -= used.leading_zeros() as usize;
            if used != 0 {
                break;
            }
        }
        at
    }

    /// Says how long the free run is to which these pages, at least one, belong, which the caller has freed: none of them
    /// has to be free any more.
    pub(super) fn freed(&self, start: usize, pages: usize) {
        let (low, high) = (start / 64, (start + pages - 1) / 64);
        let below = !self.load(low) << 1 << (63 - start % 64);
        let mut first = start - below.leading_ones() as usize;
        if first % 64 == 0 {
            first = self.free_below(first, first.saturating_sub(CAP));
        }
        if first / 64 == high && self.longest().says_enough(high) {
            return;
        }
        let last = start + pages - 1;
        let mut behind = last + (!self.load(high) >> (last % 64) | 1).trailing_ones() as usize;
        if behind % 64 == 0 {
            behind = self.free_from(behind, first.max(high * 64) + CAP, |word| self.look(word));
        }
        self.longest().raise(first, behind.min(self.pages), high);
    }
}

/// Those pages of a word that are in a range.
fn pages_in(word: usize, range: &Range<usize>) -> u64 {
    let first = word * 64;
    let below = |page: usize| ones(page.saturating_sub(first).min(64));
    below(range.end) & !below(range.start)
}
