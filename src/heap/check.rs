//! The check of the whole heap: every structure's equation, and the conservation law that ties them together.
//!
//! For each class: chunks of all spans = free in spans + in magazines + live; no chunk in a magazine is free in its
//! span. Of magazines: made = free in the slab + loaded + spare + full + empty + in hand. Of pages: used = spans' +
//! large ones' + stranded. And [`Stats`] must add up.

use super::Heap;
use crate::pool::Magazine;
use crate::report::{CheckError, Stats};
use crate::size_class::{CLASSES, Class, INFO, place};
use crate::span::Span;

fn ensure(holds: bool, what: &'static str, at: usize) -> Result<(), CheckError> {
    if holds { Ok(()) } else { Err(CheckError { what, at }) }
}

impl Heap {
    /// As [`verify`](Self::verify), for those with a large stack.
    pub(crate) fn check(&self) -> Result<Stats, CheckError> {
        let mut stats = Stats::default();
        self.verify(&mut stats).map(|()| stats)
    }

    /// Verifies all structures while no other thread is inside the allocator; fills statistics that are all zeros yet.
    pub(crate) fn verify(&self, stats: &mut Stats) -> Result<(), CheckError> {
        self.spans.arenas.check().map_err(|at| CheckError { what: "arena's bitmaps and counts agree", at })?;
        for span in self.spans.slabs().iter().flat_map(|slab| slab.iter()) {
            ensure(span.check(), "span's bitmap, count and state agree", span.head.start())?;
            if span.is_live() {
                let named = self.spans.page_map.get(span.head.start());
                let noted = self.spans.page_map.noted(span.head.start()) as usize;
                let itself = named.is_some_and(|head| core::ptr::eq(head, &span.head))
                    && noted == place(span.head.kind() as Class) + 1;
                ensure(itself, "the page map names the span", span.head.start())?;
            }
        }
        let mut seen = 0;
        let mut bad = None;
        for class in 0..CLASSES {
            let listed = self.pool(class, 0).check(|span| {
                bad = bad.or((!span.is_linked() && !span.is_held()).then(|| span.head.start()));
            });
            ensure(listed, "pool's stack of listed spans ends", class)?;
            let full = self.shards.check(class, &self.magazines, |magazine| {
                seen += 1;
                bad = bad.or(self.bad_chunk(class, magazine, magazine.count()));
            });
            ensure(full, "pool's stacks and heights agree", class)?;
        }
        for cache in self.caches.iter() {
            if cache.owner().is_none() {
                continue;
            }
            ensure(cache.check(&self.magazines), "thread cache's bins lie in their magazines", cache.index() as usize)?;
            seen += cache.empties();
            for class in 0..CLASSES {
                if let Some(magazine) = cache.loaded(class, &self.magazines) {
                    seen += 1;
                    bad = bad.or(self.bad_chunk(class, magazine, cache.loaded_count(class, magazine)));
                }
                cache.walk_spares(class, &self.magazines, |magazine| {
                    seen += 1;
                    bad = bad.or(self.bad_chunk(class, magazine, magazine.count()));
                });
            }
        }
        if let Some(at) = bad {
            return Err(CheckError { what: "a chunk in a magazine is one of its class, and not free in its span", at });
        }
        let free = self.magazines.free_nodes();
        let made = self.magazines.made() as usize;
        ensure(free.is_some_and(|free| free + seen <= made), "each magazine is in one place", made)?;
        let shelved = self.shelf.runs().count() + self.kept.shelf.runs().count();
        let larges = self.free_larges().filter(|(free, made)| free + self.larges().count() + shelved <= *made);
        ensure(larges.is_some(), "each large node is in use, on the shelf or free", 0)?;
        let misplaced = self.shelf.runs().find(|run| !self.is_shelved(*run));
        ensure(misplaced.is_none(), "a run on the shelf is freed and whole", misplaced.map_or(0, |run| run.pages))?;
        let misplaced = self.kept.shelf.runs().find(|run| !self.is_kept(*run));
        ensure(misplaced.is_none(), "a mapping that is kept is freed", misplaced.map_or(0, |run| run.pages))?;
        self.fill(stats);
        ensure(stats.accounted() == stats.committed, "what is accounted for is what is committed", stats.accounted())
    }

    /// The first of a magazine's chunks that cannot be there. Of one that another thread takes meanwhile it says anything, but it says it.
    pub(super) fn bad_chunk(&self, class: Class, magazine: &Magazine, count: usize) -> Option<usize> {
        if count > INFO[class].slots {
            return Some(count);
        }
        magazine.slots()[..count].iter().map(|slot| slot.get()).find(|chunk| {
            let head = self.spans.page_map.get(*chunk).filter(|head| head.kind() == class as u32);
            // SAFETY: a head whose kind is a class is that of a span.
            let span = head.map(|head| unsafe { head.node::<Span>() });
            let at = span.and_then(|span| Some((span, span.chunk_at(&INFO[class], *chunk)?)));
            at.is_none_or(|(span, at)| span.is_free(&INFO[class], at))
        })
    }
}
