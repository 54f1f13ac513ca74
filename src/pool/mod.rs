//! Pools: one a size class, between the thread caches and the spans.
//!
//! A pool is full magazines and listed spans, in lock-free stacks. *Refill* takes a full magazine by one exchange; when
//! there is none, it carves. *Drain* puts one there by one exchange; when the pool holds enough, it restores. A chunk passes
//! from a thread that frees to one that allocates without anybody looking at it.
//!
//! The full magazines of all pools lie in [`shards`], one for each of the first processors; a [`Pool`] is the rest.
//!
//! Invariant: a span is in the stack at most once, listed or as a tombstone.

mod full;
mod magazine;
mod order;
mod shards;
#[cfg(all(test, not(millpond_loom)))]
mod tests;

pub(crate) use magazine::{Magazine, Magazines};
pub(crate) use shards::Shards;

use crate::arena::Density;
use crate::config::{CARVE_SPANS, MAGAZINE_SLOTS, PAGE_SHIFT, SPARSE_SPANS};
use crate::os;
use crate::size_class::{Class, INFO};
use crate::slab::Slab;
use crate::span::{Pop, Restored, Span, Spans};
use crate::stack::Stack;
use crate::sync::{AtomicU32, Fault, Ordering, Point, planted, point};
use crossbeam_utils::CachePadded;

/// What a pool has but full magazines: the listed spans, and how many were opened so far; no more than tell a class of which there
/// are many.
#[derive(Debug)]
pub(crate) struct Pool {
    listed: CachePadded<Listed>,
}

#[derive(Debug)]
struct Listed {
    stack: Stack,
    opened: AtomicU32,
}

impl Pool {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self { listed: CachePadded::new(Listed { stack: Stack::new(), opened: AtomicU32::new(0) }) }
        }
    }

    /// Carves up to a portion of chunks and calls `give` with each run of them: the first one's address, and how many. Visits a bounded number of listed spans, and opens a
    /// new one if they have nothing. Returns how many; zero if the system gives no more memory.
    pub(crate) fn carve(
        &self,
        class: Class,
        spans: &Spans,
        Portion { chunks: want, lines }: Portion,
        now: u32,
        mut give: impl FnMut(usize, usize),
    ) -> usize {
        let nodes = spans.nodes(class);
        let size = INFO[class].size;
        let mut got = 0;
        // In quarters: one that there is nothing to be had from, a busy span or a tombstone, is soon passed.
        let mut visits = 4 * CARVE_SPANS;
        while got < want && visits > 0 {
            let Some(index) = self.listed.stack.pop(nodes) else { break };
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
                    self.settle(class, spans, span, span.unhold());
                    visits = visits.saturating_sub(4);
                }
                Pop::Busy => visits -= 1,
                Pop::Tombstone => {
                    nodes.give(index);
                    visits -= 1;
                }
            }
        }
        if got == 0 {
            let taken = want.min(INFO[class].chunks);
            let Some(span) = spans.open(class, taken, self.density(), now) else { return 0 };
            let start = span.head.start();
            self.settle(class, spans, span, span.unhold());
            give(start, taken);
            spans.arenas.try_huge(start >> PAGE_SHIFT, 1);
            got = taken;
        }
        got
    }

    /// How much the next span will be used, as far as those before it tell: it is opened since they have nothing left.
    fn density(&self) -> Density {
        let opened = self.listed.opened.load(Ordering::Relaxed);
        if opened >= SPARSE_SPANS {
            return Density::Dense;
        }
        // Not a read-modify-write, as in `count`.
        self.listed.opened.store(opened + 1, Ordering::Relaxed);
        Density::Sparse
    }

    /// Restores chunks that the caller owns to their spans. Ends the process if one is not a chunk in use.
    pub(crate) fn restore(&self, class: Class, spans: &Spans, chunks: &mut [usize], now: u32) {
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
                self.settle(class, spans, span, left);
                continue;
            }
            set(span, info.size, word, mask);
            point(Point::Restore);
            self.settle(class, spans, span, span.add(at - first, now));
        }
    }

    /// Restores all that a magazine holds, which the caller owns and then has empty.
    pub(crate) fn restore_all(&self, class: Class, spans: &Spans, magazine: &Magazine, now: u32) {
        if !self.restore_near(class, spans, magazine, now) {
            self.restore_far(class, spans, magazine, now);
        }
    }

    /// The same wherever the chunks lie.
    fn restore_far(&self, class: Class, spans: &Spans, magazine: &Magazine, now: u32) {
        let mut chunks = [0; MAGAZINE_SLOTS];
        let count = magazine.count();
        for (chunk, slot) in chunks.iter_mut().zip(&magazine.slots()[..count]) {
            *chunk = slot.get();
        }
        magazine.set_count(0);
        self.restore(class, spans, &mut chunks[..count], now);
    }

    /// Does what is left to do after a span was let go or added to.
    pub(crate) fn settle(&self, class: Class, spans: &Spans, span: &Span, left: Restored) {
        match left {
            Restored::Done => {}
            Restored::List => self.listed.stack.push(spans.nodes(class), span.head.index()),
            Restored::Retire => spans.retire(span, class),
        }
    }

    /// Takes tombstones off the top of the stack of listed spans, and lists again what else it meets; visits at most
    /// `limit` nodes.
    pub(crate) fn reap(&self, class: Class, spans: &Spans, limit: usize, now: u32) {
        let nodes = spans.nodes(class);
        for _ in 0..limit {
            let Some(index) = self.listed.stack.pop(nodes) else { return };
            let span = nodes.get(index);
            match span.hold_popped(0, now) {
                Pop::Tombstone => nodes.give(index),
                Pop::Busy => {}
                Pop::Held(_) => return self.settle(class, spans, span, span.unhold()),
            }
        }
    }

    /// Empties the stack of listed spans, while no other thread uses the pool.
    #[inline(never)]
    pub(crate) fn unlist_all(&self, nodes: &Slab<Span>) {
        while self.listed.stack.pop(nodes).is_some() {}
    }

    /// Calls `visit` for each node in the stack of listed spans, or tombstone, while no other thread uses the pool. False if the
    /// stack is not well-formed.
    pub(crate) fn check(&self, class: Class, spans: &Spans, mut visit: impl FnMut(&Span)) -> bool {
        let nodes = spans.nodes(class);
        self.listed.stack.walk(nodes, nodes.made() as usize, |index| visit(nodes.get(index)))
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
