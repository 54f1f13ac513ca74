//! Repair: what vanished threads had in their hands, found by reachability.
//!
//! In the child of a fork, the caches of vanished threads are adopted whole (`adopt`). What such a thread was just
//! moving from one place to another is in neither: a magazine, a span, a run of pages, a node. While the forking thread
//! is alone in its process, which it asks the system, it can tell what is reachable and put the rest back:
//!
//! * a cache whose adopter vanished is settled;
//! * a magazine in no stack, cache or free list: the chunks it lists that are not free already are restored;
//! * a span: its count is the number of its set bits, and it is listed, full or retired accordingly;
//! * a page that is claimed by no span and no large allocation is free;
//! * a node that describes nothing is free;
//! * counts are counted anew.
//!
//! Chunks that a vanished thread had in its registers between bitmap and magazine are lost: at most one magazine a
//! thread and fork. They count as live.

use super::Heap;
use crate::os;
use crate::size_class::{CLASSES, Class, INFO};
use crate::slab::{Node, Slab};
use crate::span::{LARGE, SLABS};
use crate::sync::Ordering;
use crate::tagged::Index;
use core::ptr;

/// A set of indices, in memory of its own that is given back.
struct Marks {
    at: usize,
    len: usize,
}

impl Marks {
    fn new(count: usize) -> Option<Self> {
        let len = count / 8 + 1;
        Some(Self { at: os::scratch(len)?, len })
    }

    fn byte(&self, index: usize) -> *mut u8 {
        assert!(index / 8 < self.len);
        ptr::with_exposed_provenance_mut::<u8>(self.at).wrapping_add(index / 8)
    }

    #[inline(never)]
    fn mark(&self, index: usize) {
        // SAFETY: inside the memory taken in `new`, which is zero at first and nobody else's.
        unsafe { *self.byte(index) |= 1 << (index % 8) };
    }

    #[inline(never)]
    fn has(&self, index: usize) -> bool {
        // SAFETY: as above.
        unsafe { *self.byte(index) >> (index % 8) & 1 == 1 }
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        os::release_metadata(self.at, self.len);
    }
}

/// The free nodes of a slab. Not inlined, as others here: it is in every program, for few, and was there many times.
#[inline(never)]
#[unsafe(link_section = ".millpond_cold")]
fn free_nodes<T: Node, const STACKS: usize>(slab: &Slab<T, STACKS>) -> Option<Marks> {
    let marks = Marks::new(slab.made() as usize + 1)?;
    slab.walk_free(|index| marks.mark(index as usize));
    Some(marks)
}

fn indices<T: Node, const STACKS: usize>(slab: &Slab<T, STACKS>) -> impl Iterator<Item = Index> + use<T, STACKS> {
    1..slab.made() + 1
}

impl Heap {
    /// Puts back what is in no place. Only while the calling thread is the only one of the process. Without memory for
    /// the marks, what is out of place stays so.
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn repair(&self) {
        self.clear_shelf(|_| true);
        let _ = self.repair_caches();
        let _ = self.repair_magazines();
        let _ = self.repair_spans();
        let _ = self.repair_larges();
        let _ = self.repair_pages();
    }

    /// Goes on with caches whose adopter has vanished, and frees those that were on their way from or to the slab.
    #[unsafe(link_section = ".millpond_cold")]
    fn repair_caches(&self) -> Option<()> {
        let free = free_nodes(&self.caches)?;
        for index in indices(&self.caches).filter(|index| !free.has(*index as usize)) {
            let cache = self.caches.get(index);
            cache.name(index);
            if cache.is_adopted() || cache.owner().is_none() {
                self.settle(cache);
            }
        }
        Some(())
    }

    #[unsafe(link_section = ".millpond_cold")]
    fn repair_magazines(&self) -> Option<()> {
        let placed = free_nodes(&self.magazines)?;
        for cache in self.caches.iter() {
            // One that is still being settled, since there was no memory to go on with it, has what is in it.
            if cache.owner().is_none() && !cache.is_adopted() {
                continue;
            }
            cache.walk_empties(&self.magazines, |magazine| placed.mark(magazine.index() as usize));
            for class in 0..CLASSES {
                if let Some(magazine) = cache.loaded(class, &self.magazines) {
                    placed.mark(magazine.index() as usize);
                }
                cache.walk_spares(class, &self.magazines, |magazine| placed.mark(magazine.index() as usize));
            }
        }
        for class in 0..CLASSES {
            self.shards.walk(class, &self.magazines, |magazine| placed.mark(magazine.index() as usize));
        }
        for index in indices(&self.magazines).filter(|index| !placed.has(*index as usize)) {
            let magazine = self.magazines.get(index);
            for chunk in magazine.slots().iter().take(magazine.count()).map(|slot| slot.get()) {
                self.restore_stray(chunk);
            }
            magazine.set_count(0);
            self.magazines.give(index);
        }
        Some(())
    }

    /// Restores a chunk unless it is free already.
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn restore_stray(&self, chunk: usize) {
        let Some(class) = self.spans.page_map.get(chunk).map(|head| head.kind()).filter(|kind| *kind < LARGE) else {
            return;
        };
        let class = class as Class;
        let (span, info) = (self.spans.owner(chunk, class), &INFO[class]);
        if span.chunk_at(info, chunk).is_some_and(|at| !span.is_free(info, at)) {
            self.pool(class, 0).restore(&mut [chunk], self.clock.now());
        }
    }

    #[unsafe(link_section = ".millpond_cold")]
    fn repair_spans(&self) -> Option<()> {
        // All marks first: a span that is unlisted must be listed again.
        let free: [Option<Marks>; SLABS] = core::array::from_fn(|at| free_nodes(&self.spans.slabs()[at]));
        if free.iter().any(Option::is_none) {
            return None;
        }
        for class in 0..CLASSES {
            self.pool(class, 0).unlist_all();
        }
        for (slab, free) in self.spans.slabs().iter().zip(free.iter().flatten()) {
            for index in indices(slab).filter(|index| !free.has(*index as usize)) {
                let span = slab.get(index);
                if !span.is_live() {
                    // A tombstone, a span in the middle of its retirement, or a node that was not yet one.
                    span.reset();
                    slab.give(index);
                    continue;
                }
                let class = span.head.kind() as Class;
                self.spans.publish(span, class);
                self.pool(class, 0).settle(span, span.rebuild());
            }
        }
        Some(())
    }

    #[unsafe(link_section = ".millpond_cold")]
    fn repair_larges(&self) -> Option<()> {
        let free = free_nodes(&self.larges)?;
        for index in indices(&self.larges).filter(|index| !free.has(*index as usize)) {
            let node = self.larges.get(index);
            let named = self.spans.page_map.get(node.head.start());
            if node.bytes() > 0 && named.is_some_and(|head| ptr::eq(head, &node.head)) {
                continue;
            }
            // Taken and not yet published, or unpublished and not yet given back. A huge one's mapping may have moved away
            // already: it is left where it is.
            node.set_bytes(0);
            self.larges.give(index);
        }
        let huge = self.huges().map(|(_, bytes)| bytes).sum();
        self.huge.store(huge, Ordering::Relaxed);
        Some(())
    }

    /// Frees claimed pages that belong to nothing.
    #[unsafe(link_section = ".millpond_cold")]
    fn repair_pages(&self) -> Option<()> {
        let arenas = &self.spans.arenas;
        arenas.recount_reserved();
        let mut dirty = 0;
        for arena in arenas.iter() {
            let first = arena.start() >> crate::config::PAGE_SHIFT;
            let placed = Marks::new(arena.bytes() / crate::config::PAGE)?;
            let mark = |page: usize, pages: usize| {
                if arena.contains(page) {
                    (page - first..page - first + pages).for_each(|page| placed.mark(page));
                }
            };
            for span in self.spans.live() {
                mark(span.head.page(), span.info().pages);
            }
            for (node, bytes) in self.larges().filter(|(node, _)| node.head.kind() == LARGE) {
                mark(node.head.page(), bytes / crate::config::PAGE);
            }
            dirty += arena.rebuild(|page| placed.has(page), |page| self.spans.page_map.clear(first + page));
        }
        let purged: usize = self.spans.live().map(|span| span.purged_bytes()).map(|(chunks, tail)| chunks + tail).sum();
        arenas.committed().store(dirty - purged, Ordering::Relaxed);
        Some(())
    }
}
