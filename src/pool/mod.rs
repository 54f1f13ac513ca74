//! Pools: one a size class, between the thread caches and the spans.
//!
//! A pool is two stacks: full magazines, and listed spans. *Refill* takes a full magazine by one exchange; when there
//! is none, it carves. *Drain* puts one there by one exchange; when the pool holds enough, it restores. A chunk passes
//! from a thread that frees to one that allocates without anybody looking at it.
//!
//! What the full magazines may hold is bounded in bytes, and, since a few chunks can pin many spans, by need: each tick
//! returns as many magazines as were not needed since the last (the low-water mark, as in Bonwick's vmem), and while
//! far more comes in than goes out, the bound is one magazine. A pool may be *deep*, by twice as many magazines as it served of
//! late: what is built and dropped all the time need not go through its spans' bits, and what is freed once serves other classes.
//!
//! How many magazines are in the stack is what the top one says: each is told, before it is put there, how high it will lie. So
//! one exchange both passes a magazine and counts it.
//!
//! Invariant: the top magazine of `full` says how many there are, and each says one more than the one below.

mod magazine;
#[cfg(all(test, not(millpond_loom)))]
mod tests;

pub(crate) use magazine::Magazine;

use crate::arena::Density;
use crate::config::{CARVE_SPANS, MAGAZINE_SLOTS, PAGE_SHIFT, SPARSE_SPANS};
use crate::os;
use crate::size_class::{Class, INFO};
use crate::slab::{Node, Slab};
use crate::span::{Pop, Restored, Span, Spans};
use crate::stack::Stack;
use crate::sync::{AtomicU32, Fault, Ordering, Point, planted, point};
use crate::tagged::{Index, NONE};
use crossbeam_utils::CachePadded;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Pool {
    full: CachePadded<Full>,
    listed: CachePadded<Listed>,
}

/// The listed spans, and how many were opened so far; no more than tell a class of which there are many.
#[derive(Debug)]
struct Listed {
    stack: Stack,
    opened: AtomicU32,
}

/// The full magazines, with what is counted at each visit: one cache line.
#[derive(Debug)]
struct Full {
    stack: Stack,
    /// The least depth since the last tick.
    low: AtomicU32,
    /// Magazines that came and that went since the last tick.
    drains: AtomicU32,
    refills: AtomicU32,
    /// Magazines that it served since the last tick, and half of what this was then.
    served: AtomicU32,
    /// Whether far more came than went.
    burst: AtomicU32,
    /// Magazines to return to their spans before the next tick.
    surplus: AtomicU32,
}

impl Pool {
    const_fn! {
        pub(crate) const fn new() -> Self {
            let full = Full {
                stack: Stack::new(),
                low: AtomicU32::new(0),
                drains: AtomicU32::new(0),
                refills: AtomicU32::new(0),
                served: AtomicU32::new(0),
                burst: AtomicU32::new(0),
                surplus: AtomicU32::new(0),
            };
            Self { full: CachePadded::new(full), listed: CachePadded::new(Listed { stack: Stack::new(), opened: AtomicU32::new(0) }) }
        }
    }

    /// Takes a full magazine for a thread that needs it: O(1), one exchange.
    pub(crate) fn refill<'a>(&self, magazines: &'a Slab<Magazine>) -> Option<&'a Magazine> {
        self.count(&self.full.refills);
        let magazine = self.take(magazines)?;
        self.count(&self.full.served);
        Some(magazine)
    }

    /// Takes a full magazine: O(1), one exchange.
    pub(crate) fn take<'a>(&self, magazines: &'a Slab<Magazine>) -> Option<&'a Magazine> {
        let magazine = magazines.get(self.full.stack.pop(magazines)?);
        point(Point::Hand);
        let left = magazine.height().wrapping_sub(1);
        // Relaxed, as all counts here: they steer.
        if left < self.full.low.load(Ordering::Relaxed) {
            self.full.low.store(left, Ordering::Relaxed);
        }
        Some(magazine)
    }

    /// Puts a magazine that the caller owns among the full ones, if the pool does not hold enough: O(1).
    #[inline]
    pub(crate) fn drain(&self, class: Class, magazines: &Slab<Magazine>, magazine: &Magazine) -> bool {
        self.count(&self.full.drains);
        let bound = self.bound(class);
        let mut told = false;
        self.full.stack.push_if(magazine.link(), magazine.index(), |top| {
            let below = height(magazines, top);
            if !(planted(Fault::HeightOnce) && told) {
                magazine.set_height(below + 1);
            }
            told = true;
            below < bound
        })
    }

    fn count(&self, counter: &AtomicU32) {
        // Not a read-modify-write: a lost count now and then changes nothing.
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    fn bound(&self, class: Class) -> u32 {
        if self.full.burst.load(Ordering::Relaxed) != 0 {
            return 1;
        }
        let info = &INFO[class];
        info.pooled.saturating_add(2 * self.full.served.load(Ordering::Relaxed)).min(info.deep)
    }

    /// Whether more comes in than is needed: then thread caches keep no spares of this class.
    pub(crate) fn in_burst(&self) -> bool {
        self.full.burst.load(Ordering::Relaxed) != 0
    }

    /// Ends a period: sets the bound for the next, and of the magazines that were not needed in this one, half to return to
    /// their spans; or all, if they are few.
    pub(crate) fn tick(&self, magazines: &Slab<Magazine>) {
        let full = &*self.full;
        let (drains, refills) = (full.drains.load(Ordering::Relaxed), full.refills.load(Ordering::Relaxed));
        let depth = self.depth(magazines);
        let low = full.low.load(Ordering::Relaxed).min(depth);
        // Most pools rest: what does not change is not written, and the memory of those that were never used not touched.
        let set = |word: &AtomicU32, value| {
            if word.load(Ordering::Relaxed) != value {
                word.store(value, Ordering::Relaxed);
            }
        };
        set(&full.drains, 0);
        set(&full.refills, 0);
        set(&full.served, full.served.load(Ordering::Relaxed) / 2);
        set(&full.burst, (drains > 16 + 8 * refills) as u32);
        set(&full.low, depth);
        set(&full.surplus, if low > 16 { low.div_ceil(2) } else { low });
    }

    /// Whether one more magazine is to return to its spans; if so, the caller must see to it.
    pub(crate) fn has_surplus(&self) -> bool {
        let surplus = self.full.surplus.load(Ordering::Relaxed);
        if surplus > 0 {
            // Not a read-modify-write: two may return the same one, and so one more.
            self.full.surplus.store(surplus - 1, Ordering::Relaxed);
        }
        surplus > 0
    }

    /// Magazines among the full ones. While others use the pool, a moment's picture, if the top one stayed there so long.
    pub(crate) fn depth(&self, magazines: &Slab<Magazine>) -> u32 {
        height(magazines, self.full.stack.top())
    }

    /// Carves up to a portion of chunks and calls `give` with each address. Visits a bounded number of listed spans, and opens a
    /// new one if they have nothing. Returns how many; zero if the system gives no more memory.
    pub(crate) fn carve(
        &self,
        class: Class,
        spans: &Spans,
        Portion { chunks: want, lines }: Portion,
        now: u32,
        mut give: impl FnMut(usize),
    ) -> usize {
        let nodes = spans.nodes(class);
        let size = INFO[class].size;
        let mut got = 0;
        let mut visits = 4 * CARVE_SPANS;
        while got < want && visits > 0 {
            let Some(index) = self.listed.stack.pop(nodes) else { break };
            let span = nodes.get(index);
            match span.hold_popped(want - got, now) {
                Pop::Held(taken) => {
                    let start = span.head.start();
                    let mut again = 0;
                    point(Point::Carve);
                    span.clear(taken, lines, |chunk| {
                        again += span.unpurge(chunk);
                        give(start + chunk * size);
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
            (0..taken).for_each(|chunk| give(start + chunk * size));
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

    /// Calls `visit` for each full magazine, while no other thread uses the pool.
    #[inline(never)]
    pub(crate) fn walk_full(&self, magazines: &Slab<Magazine>, mut visit: impl FnMut(&Magazine)) {
        self.full.stack.walk(magazines, self.depth(magazines) as usize, |index| visit(magazines.get(index)));
    }

    /// Empties the stack of listed spans, while no other thread uses the pool.
    #[inline(never)]
    pub(crate) fn unlist_all(&self, nodes: &Slab<Span>) {
        while self.listed.stack.pop(nodes).is_some() {}
    }

    /// Calls `visit` for each full magazine and each node in the stack of listed spans, while no other thread uses the
    /// pool. `None` if a stack is not well-formed or a height is wrong.
    pub(crate) fn check(
        &self,
        class: Class,
        spans: &Spans,
        magazines: &Slab<Magazine>,
        mut visit: impl FnMut(Part<'_>),
    ) -> Option<()> {
        let nodes = spans.nodes(class);
        // Of the one that is next, and whether all were as they should be.
        let (mut expected, mut right) = (self.depth(magazines), true);
        let sound =
            self.full.stack.walk(magazines, magazines.made() as usize, |index| {
                let magazine = magazines.get(index);
                right &= expected > 0 && magazine.height() == expected;
                expected = expected.saturating_sub(1);
                visit(Part::Full(magazine));
            }) && self.listed.stack.walk(nodes, nodes.made() as usize, |index| visit(Part::Listed(nodes.get(index))));
        (sound && right && expected == 0).then_some(())
    }
}

/// What a magazine says that is, or was a moment ago, on top of a pool's stack.
fn height(magazines: &Slab<Magazine>, top: Index) -> u32 {
    if top == NONE { 0 } else { magazines.get(top).height() }
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

/// What a pool is made of.
#[derive(Debug)]
pub(crate) enum Part<'a> {
    /// A full magazine.
    Full(&'a Magazine),
    /// A listed span, or a tombstone.
    Listed(&'a Span),
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
