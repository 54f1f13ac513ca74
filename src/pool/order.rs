//! Order: what a thread frees in disorder goes through its spans, from where it is carved by rising addresses again.
//!
//! Magazines pass on the order in which chunks were freed. Where that is the order of allocation, or its reverse, whatever is
//! built next lies as what was there before. A tree is freed children first (so Rust drops it): then each generation would lie
//! in more disorder than the one before, and each walk wait for memory. (mimalloc's pages come in order again once they are wholly
//! free.) So once a pool *spills*, since it had to refuse a magazine of late, one whose addresses neither rise nor fall does not go
//! there any more, if it can be restored cheaply: most of its chunks lie in one span or beside it. What is scattered goes to the pool
//! as it is; and so does what fits into the processor's caches, where order gains less than this costs.
//!
//! | chunks of such a magazine | owner |
//! |---|---|
//! | in one span | the caller, until that span's bits and count have them |
//! | elsewhere | the caller, until [`restore`](Pool::restore) has dealt with them |
//!
//! Invariant: that of the magazine before, that of the spans after; nothing is done to any chunk before all have been looked at.

use super::{Magazine, Pool, set};
use crate::config::{MAGAZINE_SLOTS, SPAN_WORDS};
use crate::size_class::INFO;
use crate::span::Span;
use crate::sync::{Fault, Point, Slot, planted, point};

/// No bitmap has more words.
const WORDS: usize = 128;
const _: () = assert!(SPAN_WORDS[SPAN_WORDS.len() - 1] <= WORDS);
/// Of a magazine's slots, each so manieth is looked at for disorder, and for whether it lies near.
const STEP: usize = 4;
const NEAR_STEP: usize = 8;
/// How many of those that are looked at may lie far.
const FAR: usize = 2;

impl<'a> Pool<'a> {
    /// Whether a full magazine in hand is better restored, if its pool spills: it is in disorder, and mostly lies in one span and
    /// beside it.
    #[inline(never)]
    pub(crate) fn is_in_disorder(self, magazine: &Magazine) -> bool {
        is_shuffled(magazine) && self.middle(magazine).is_some()
    }

    /// The span of a full magazine's middle, if most of its chunks lie there or beside it, as far as some of them tell.
    #[inline]
    fn middle(self, magazine: &Magazine) -> Option<&'a Span> {
        if magazine.count() < MAGAZINE_SLOTS {
            return None;
        }
        let slots = magazine.slots();
        let span = self.spans.owner(slots[MAGAZINE_SLOTS / 2].get(), self.class);
        let bytes = INFO[self.class].chunks * INFO[self.class].size;
        let offset = |slot: &Slot| slot.get().wrapping_sub(span.head.start());
        let near = slots.iter().step_by(NEAR_STEP).filter(|slot| offset(slot).wrapping_add(bytes) < 3 * bytes);
        (near.count() + FAR >= MAGAZINE_SLOTS / NEAR_STEP).then_some(span)
    }

    /// Restores what a magazine holds if it is full and mostly lies in one span and beside it: nothing has to be sorted. False:
    /// nothing is done. O(slots).
    #[inline(never)]
    pub(super) fn restore_near(self, magazine: &Magazine, now: u32) -> bool {
        let Some(span) = self.middle(magazine) else { return false };
        let info = &INFO[self.class];
        let slots = magazine.slots();
        let (start, bytes) = (span.head.start(), info.chunks * info.size);
        let mut masks = [0u64; WORDS];
        let (mut rest, mut left) = ([0; MAGAZINE_SLOTS], 0);
        let (mut offsets, mut chunks) = (0usize, 0usize);
        // What goes into one word is gathered beside it: neighbours come together, and would wait for each other there.
        let (mut word, mut mask) = (0usize, 0u64);
        let (mut low, mut high) = (WORDS, 0);
        for slot in slots {
            let address = slot.get();
            let offset = address.wrapping_sub(start);
            if offset >= bytes {
                rest[left % MAGAZINE_SLOTS] = address;
                left += 1;
                continue;
            }
            let chunk = info.index(offset);
            offsets += offset;
            chunks += chunk;
            if chunk / 64 != word {
                masks[word % WORDS] |= mask;
                (word, mask) = (chunk / 64, 0);
                (low, high) = (low.min(word), high.max(word));
            }
            mask |= 1 << (chunk % 64);
        }
        masks[word % WORDS] |= mask;
        // Whoever begins in the first word never came to it.
        low = if masks[0] == 0 { low } else { 0 };
        let found = || masks[low..=high].iter().map(|mask| mask.count_ones() as usize).sum::<usize>();
        // No chunk begins after its offset: the sums are the same only if none begins before.
        if left == MAGAZINE_SLOTS || chunks * info.size != offsets || found() + left != MAGAZINE_SLOTS {
            // Some chunk is none, or is there twice: this tells which. If none lies in the span, it is the one in the middle.
            self.restore_far(magazine, now);
            return true;
        }
        magazine.set_count(0);
        let own = MAGAZINE_SLOTS - left;
        let early = planted(Fault::RestoreOrder).then(|| span.add(own, now));
        for (word, mask) in masks.iter().enumerate().take(high + 1).skip(low) {
            set(span, info.size, word, *mask);
        }
        point(Point::Restore);
        self.settle(span, early.unwrap_or_else(|| span.add(own, now)));
        if left > 0 {
            self.restore(&mut rest[..left], now);
        }
        true
    }
}

/// Whether a full magazine's addresses neither rise nor fall, but for a few, as far as some of them tell.
#[inline(always)]
fn is_shuffled(magazine: &Magazine) -> bool {
    let pairs = MAGAZINE_SLOTS / STEP;
    if magazine.count() < MAGAZINE_SLOTS {
        return false;
    }
    let slots = magazine.slots();
    let rises = (0..pairs).filter(|pair| slots[STEP * pair].get() < slots[STEP * pair + 1].get()).count();
    (2..pairs.saturating_sub(1)).contains(&rises)
}
