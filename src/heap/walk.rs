//! A walk over what is given out, for whoever wants to know what of it is still needed: while other threads go on, a
//! moment's picture.
//!
//! A chunk is given out if it is neither free in its span nor in a magazine. The walk tells the two apart: first what no
//! span has, then what magazines hold of it.
//!
//! Invariant, at rest: what is told, less what is cached, is what the statistics call live.

use super::Heap;
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

impl Heap {
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

    /// Calls `visit` with the memory of arenas, huge allocations and magazines: none of it is the program's own, but for
    /// what [`walk_blocks`](Self::walk_blocks) tells.
    pub(crate) fn walk_memory(&self, visit: &mut dyn FnMut(Range<usize>)) {
        self.spans.arenas.iter().for_each(|arena| visit(arena.start()..arena.start() + arena.bytes()));
        self.larges().for_each(|(node, bytes)| visit(node.head.start()..node.head.start() + bytes));
        self.magazines.walk_memory(visit);
    }
}
