//! A walk over what is given out, for whoever wants to know what of it is still needed: while other threads go on, a
//! moment's picture.
//!
//! A chunk is given out if it is neither free in its span nor in a magazine. The walk tells the two apart: first what no
//! span has, then what magazines hold of it.
//!
//! Invariant, at rest: what is told, less what is cached, is what the statistics call live.

use super::Heap;
use crate::arena::Page;
use crate::config::PAGE;
use crate::pool::Magazine;
use crate::size_class::{CLASSES, Class, ClassInfo, INFO};
use crate::span::Span;
use core::ops::Range;

/// Chunks of a span, or one larger allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks<'a> {
    /// Where the first begins.
    pub(crate) start: usize,
    /// Bytes of each.
    pub(crate) size: usize,
    /// How many there are.
    pub(crate) count: usize,
    of: Option<(Class, &'a Span)>,
}

impl Blocks<'_> {
    /// What follows from the class; `None` for a larger allocation.
    pub(crate) fn class(&self) -> Option<Class> {
        self.of.map(|(class, _)| class)
    }

    /// Which of 64 blocks, from the one numbered `64 * word` on, no span has, one bit each.
    pub(crate) fn taken(&self, word: usize) -> u64 {
        let left = self.count.saturating_sub(64 * word);
        let all = if left < 64 { (1 << left) - 1 } else { u64::MAX };
        self.of.map_or(all, |(class, span)| all & !span.free_word(&INFO[class], word))
    }
}

/// What a stretch of addresses is used for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stretch<'a> {
    Span(Class, &'a Span),
    /// One allocation.
    Large,
    /// Pages that are claimed and no allocation's: on the shelf, or in somebody's hands.
    Kept,
    /// Free pages that may hold memory.
    Dirty,
    /// Free pages that hold none.
    Clean,
    /// One allocation in a mapping of its own.
    Huge,
}

impl Heap {
    /// Calls `visit` with each stretch of each arena, in order, and then with each huge allocation. What others change meanwhile may
    /// be told as it was or as it is; addresses of arenas are told once.
    pub(crate) fn walk_stretches(&self, visit: &mut dyn FnMut(Range<usize>, Stretch<'_>)) {
        for arena in self.spans.arenas.iter() {
            arena.stretches(&mut |range, page| match page {
                Page::Used => self.walk_used(range, visit),
                Page::Dirty => visit(range, Stretch::Dirty),
                Page::Clean => visit(range, Stretch::Clean),
            });
        }
        self.huges().for_each(|(node, bytes)| visit(node.head.start()..node.head.start() + bytes, Stretch::Huge));
    }

    /// How many arenas there are.
    pub(crate) fn arenas(&self) -> usize {
        self.spans.arenas.iter().count()
    }

    /// The same as [`walk_stretches`](Self::walk_stretches), of pages that are claimed.
    fn walk_used(&self, range: Range<usize>, visit: &mut dyn FnMut(Range<usize>, Stretch<'_>)) {
        // What was told lies before `told`; between it and `at` is what is kept.
        let (mut told, mut at) = (range.start, range.start);
        while at < range.end {
            let (bytes, stretch) = self.stretch_at(at);
            let end = range.end.min(at + bytes);
            if !matches!(stretch, Stretch::Kept) {
                if told < at {
                    visit(told..at, Stretch::Kept);
                }
                visit(at..end, stretch);
                told = end;
            }
            at = end;
        }
        if told < range.end {
            visit(told..range.end, Stretch::Kept);
        }
    }

    /// What lies at the beginning of a page that is claimed, and how many bytes of it from there.
    fn stretch_at(&self, at: usize) -> (usize, Stretch<'_>) {
        let kept = (PAGE, Stretch::Kept);
        let Some(head) = self.spans.page_map.get(at) else { return kept };
        let (start, class) = (head.start(), head.kind() as Class);
        let (bytes, stretch) = match INFO.get(class) {
            // SAFETY: a head whose kind is a class is that of a span.
            Some(info) => (info.pages * PAGE, Stretch::Span(class, unsafe { head.node() })),
            None => (self.large_bytes(head, start).unwrap_or(0), Stretch::Large),
        };
        // A node that is another run's by now may lie elsewhere.
        if (start..start + bytes).contains(&at) { (start + bytes - at, stretch) } else { kept }
    }

    /// Calls `visit` with the chunks of each span, and each larger allocation.
    pub(crate) fn walk_blocks(&self, visit: &mut dyn FnMut(Blocks<'_>)) {
        for span in self.spans.live() {
            let class = span.head.kind() as Class;
            // A walk may meet a node between two owners.
            let Some(ClassInfo { size, chunks, .. }) = INFO.get(class) else { continue };
            visit(Blocks { start: span.head.start(), size: *size, count: *chunks, of: Some((class, span)) });
        }
        for (node, bytes) in self.larges() {
            visit(Blocks { start: node.head.start(), size: bytes, count: 1, of: None });
        }
    }

    /// Calls `visit` with the address of each chunk in a magazine: of threads, as spares, in pools.
    pub(crate) fn walk_cached(&self, visit: &mut dyn FnMut(usize)) {
        self.walk_loaded(&mut |loaded, count| loaded.peek(count, &mut *visit));
        for class in 0..CLASSES {
            for cache in self.caches.iter().filter(|cache| cache.owner().is_some()) {
                cache.walk_spares(class, &self.magazines, |spare| spare.peek(spare.peek_count(), &mut *visit));
            }
            self.shards.walk(class, &self.magazines, |full| full.peek(full.peek_count(), &mut *visit));
        }
    }

    /// Calls `visit` with each magazine that is loaded, and how many chunks it has.
    pub(crate) fn walk_loaded(&self, visit: &mut dyn FnMut(&Magazine, usize)) {
        for cache in self.caches.iter().filter(|cache| cache.owner().is_some()) {
            for class in 0..CLASSES {
                if let Some(magazine) = cache.loaded(class, &self.magazines) {
                    visit(magazine, cache.loaded_count(class, magazine));
                }
            }
        }
    }

    /// Calls `visit` with the address of each chunk in a magazine that is not loaded, wherever that is: in a thread's hand, too.
    pub(crate) fn walk_unloaded(&self, is_loaded: &dyn Fn(usize) -> bool, visit: &mut dyn FnMut(usize)) {
        for magazine in self.magazines.iter().filter(|magazine| !is_loaded(magazine.index() as usize)) {
            magazine.peek(magazine.peek_count(), &mut *visit);
        }
    }

    /// Calls `visit` with the memory of arenas, huge allocations, mappings that are kept, and magazines: none of it is the
    /// program's own, but for what [`walk_blocks`](Self::walk_blocks) tells.
    pub(crate) fn walk_memory(&self, visit: &mut dyn FnMut(Range<usize>)) {
        self.spans.arenas.iter().for_each(|arena| visit(arena.start()..arena.start() + arena.bytes()));
        self.larges().for_each(|(node, bytes)| visit(node.head.start()..node.head.start() + bytes));
        self.kept_memory().for_each(&mut *visit);
        self.magazines.walk_memory(visit);
    }
}
