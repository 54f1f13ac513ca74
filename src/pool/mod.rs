//! Pools: one a size class, between the thread caches and the spans.
//!
//! A pool is full magazines and listed spans, in lock-free stacks. *Refill* takes a full magazine by one exchange; when
//! there is none, it carves. *Drain* puts one there by one exchange; when the pool holds enough, it restores. A chunk passes
//! from a thread that frees to one that allocates without anybody looking at it.
//!
//! Both lie in [`shards`], one for each of the first processors: what a thread frees is the next that it, or another there, is
//! served. A [`Pool`] is what a thread on one of them sees of one class.
//!
//! Invariant: a span is in one of the stacks at most, once, listed or as a tombstone.

mod full;
mod magazine;
mod order;
mod shards;
#[cfg(all(test, not(millpond_loom)))]
mod tests;

pub(crate) use magazine::{Magazine, Magazines};
pub(crate) use shards::Shards;

use crate::arena::Density;
use crate::config::{CARVE_SPANS, MAGAZINE_SLOTS, PAGE_SHIFT, SHARDS, SPARSE_CHUNK, SPARSE_SPANS};
use crate::os;
use crate::size_class::{Class, INFO};
use crate::span::{Pop, Restored, Span, Spans};
use crate::sync::{Fault, Ordering, Point, planted, point};
use crate::tagged::{Index, NONE};
use core::hint::black_box;

/// One class's pool, as it is seen from one shard, the *home*: what is listed is listed there, and looked for there first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool<'a> {
    pub(crate) class: Class,
    pub(crate) home: u32,
    pub(crate) shards: &'a Shards,
    pub(crate) spans: &'a Spans,
}

impl<'a> Pool<'a> {
    /// Carves up to a portion of chunks and calls `give` with each run of them: the first one's address, and how many. Visits a
    /// bounded number of listed spans, those of the home first, and opens a new one if they have nothing. Returns how many; zero if the
    /// system gives no more memory, and no listed span has a chunk.
    pub(crate) fn carve(
        self,
        Portion { chunks: want, lines }: Portion,
        now: u32,
        mut give: impl FnMut(usize, usize),
    ) -> usize {
        let Self { class, spans, .. } = self;
        loop {
            let (got, is_all) = self.carve_listed(want, lines, now, &mut give);
            if got > 0 {
                return got;
            }
            let taken = want.min(INFO[class].chunks);
            if let Some(span) = spans.open(class, taken, self.density(), now) {
                let start = span.head.start();
                self.settle(span, span.unhold());
                give(start, taken);
                spans.arenas.try_huge(start >> PAGE_SHIFT, 1);
                return taken;
            }
            // There is no memory for a span, so those that are listed below what was passed have to do.
            if is_all {
                return 0;
            }
        }
    }

    /// The same of a bounded number of listed spans. Also whether there were no more.
    #[inline(always)]
    fn carve_listed(self, want: usize, lines: bool, now: u32, give: &mut impl FnMut(usize, usize)) -> (usize, bool) {
        let Self { class, spans, .. } = self;
        let nodes = spans.nodes(class);
        let size = INFO[class].size;
        let mut got = 0;
        // In quarters: one that there is nothing to be had from, a busy span or a tombstone, is soon passed.
        let mut visits = 4 * CARVE_SPANS;
        while got < want && visits > 0 {
            let Some(index) = self.pop_listed() else { return (got, true) };
            let span = nodes.get(index);
            match span.hold_popped(want - got, now) {
                Pop::Held(taken) => {
                    let start = span.head.start();
                    let mut again = 0;
                    point(Point::Carve);
                    span.clear(taken, lines, |run| {
                        again += span.unpurge(run.clone());
                        give(start + run.start * size, run.len());
                    });
                    if again > 0 {
                        spans.arenas.committed().fetch_add(again, Ordering::Relaxed);
                    }
                    got += taken;
                    self.settle(span, span.unhold());
                    visits = visits.saturating_sub(4);
                }
                Pop::Busy => {
                    spans.arenas.budget().count_change();
                    visits -= 1;
                }
                Pop::Tombstone => {
                    nodes.give(index);
                    visits -= 1;
                }
            }
        }
        (got, false)
    }

    /// How much the next span will be used, as far as those before it tell: it is opened since they have nothing left.
    fn density(self) -> Density {
        let count = &self.shards.opened[self.class];
        let opened = count.load(Ordering::Relaxed);
        if opened >= SPARSE_SPANS && INFO[self.class].size < SPARSE_CHUNK {
            return Density::Dense;
        }
        if opened < SPARSE_SPANS {
            // Not a read-modify-write, as in `count`.
            count.store(opened + 1, Ordering::Relaxed);
        }
        Density::Sparse
    }

    /// Restores chunks that the caller owns to their spans, and leaves zeros in their place. Ends the process if one is not a chunk in use.
    pub(crate) fn restore(self, chunks: &mut [usize], now: u32) {
        let Self { class, spans, .. } = self;
        chunks.iter().for_each(|chunk| spans.page_map.prefetch(*chunk));
        chunks.sort_unstable();
        let info = &INFO[class];
        chunks.iter().for_each(|chunk| spans.prefetch(*chunk, class));
        let mut at = 0;
        while at < chunks.len() {
            let span = spans.owner(chunks[at], class);
            let start = span.head.start();
            let first = at;
            let (mut word, mut mask) = (usize::MAX, 0u64);
            while at < chunks.len() && chunks[at] - start < info.chunks * info.size {
                let chunk = info.index(chunks[at] - start);
                if chunk * info.size != chunks[at] - start {
                    os::die(format_args!("free of {:#x}, where no allocation begins", chunks[at]));
                }
                if chunk / 64 != word {
                    set(span, info.size, word, mask);
                    (word, mask) = (chunk / 64, 0);
                }
                if mask >> (chunk % 64) & 1 == 1 {
                    os::die(format_args!("double free of {:#x}", chunks[at]));
                }
                mask |= 1 << (chunk % 64);
                at += 1;
            }
            if at == first {
                os::die(format_args!("free of {:#x}, where no allocation begins", chunks[at]));
            }
            if planted(Fault::RestoreOrder) {
                let left = span.add(at - first, now);
                set(span, info.size, word, mask);
                self.settle(span, left);
                continue;
            }
            set(span, info.size, word, mask);
            point(Point::Restore);
            self.settle(span, span.add(at - first, now));
        }
        // They stand on this thread's stack, where a search for leaks would take them for the program's, once they serve again.
        chunks.fill(0);
        black_box(chunks);
    }

    /// Restores all that a magazine holds, which the caller owns and then has empty.
    pub(crate) fn restore_all(self, magazine: &Magazine, now: u32) {
        if !self.restore_near(magazine, now) {
            self.restore_far(magazine, now);
        }
    }

    /// The same wherever the chunks lie.
    fn restore_far(self, magazine: &Magazine, now: u32) {
        let mut chunks = [0; MAGAZINE_SLOTS];
        let count = magazine.count();
        for (chunk, slot) in chunks.iter_mut().zip(&magazine.slots()[..count]) {
            *chunk = slot.get();
        }
        magazine.set_count(0);
        self.restore(&mut chunks[..count], now);
    }

    /// Does what is left to do after a span was let go or added to.
    pub(crate) fn settle(self, span: &Span, left: Restored) {
        match left {
            Restored::Done => {}
            Restored::List => {
                self.shards.listed(self.class, self.home).push(self.spans.nodes(self.class), span.head.index());
            }
            Restored::Retire => self.spans.retire(span, self.class),
        }
    }

    /// Takes a node from the stack of listed spans at home, or from another.
    pub(crate) fn pop_listed(self) -> Option<Index> {
        let nodes = self.spans.nodes(self.class);
        let at = |shard| self.shards.listed(self.class, shard).pop(nodes);
        at(self.home).or_else(|| self.shards.others(self.home).find_map(at))
    }

    /// Takes tombstones off the tops of the stacks of listed spans, and lists again what else it meets; visits at most
    /// `limit` nodes of each.
    pub(crate) fn reap(self, limit: usize, now: u32) {
        for home in self.shards.each() {
            Self { home, ..self }.reap_one(limit, now);
        }
    }

    fn reap_one(self, limit: usize, now: u32) {
        let nodes = self.spans.nodes(self.class);
        for _ in 0..limit {
            let Some(index) = self.shards.listed(self.class, self.home).pop(nodes) else { return };
            let span = nodes.get(index);
            match span.hold_popped(0, now) {
                Pop::Tombstone => nodes.give(index),
                Pop::Busy => {}
                Pop::Held(_) => return self.settle(span, span.unhold()),
            }
        }
    }

    /// Empties the stacks of listed spans, while no other thread uses the pool.
    #[inline(never)]
    pub(crate) fn unlist_all(self) {
        while self.pop_listed().is_some() {}
    }

    /// Calls `visit` for each node in the stacks of listed spans, or tombstone, while no other thread uses the pool. False if a
    /// stack is not well-formed, or one that is not known holds any.
    pub(crate) fn check(self, mut visit: impl FnMut(&'a Span)) -> bool {
        let nodes = self.spans.nodes(self.class);
        (0..SHARDS as u32).all(|shard| {
            let listed = self.shards.listed(self.class, shard);
            let known = self.shards.is_known(shard);
            listed.walk(nodes, nodes.made() as usize, |index| visit(nodes.get(index)))
                && (known || listed.top() == NONE)
        })
    }
}

/// What a thread wants of a pool that must carve.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portion {
    pub(crate) chunks: usize,
    /// Whether in whole lines of the processor's caches, if there are any.
    pub(crate) lines: bool,
}

impl Portion {
    /// Of whatever chunks come first.
    pub(crate) fn any(chunks: usize) -> Self {
        Self { chunks, lines: false }
    }
}

/// Sets the bits of chunks in one word; ends the process if one of them is free already.
fn set(span: &Span, size: usize, word: usize, mask: u64) {
    if mask == 0 {
        return;
    }
    if let Err(twice) = span.set_bits(word, mask) {
        let chunk = word * 64 + twice.trailing_zeros() as usize;
        os::die(format_args!("double free of {:#x}", span.head.start() + chunk * size));
    }
}
