//! Trim: give back all that is free, from any thread.

use super::{Guest, Heap};
use crate::os;
use crate::report::Trimmed;
use crate::size_class::{CLASSES, INFO};
use crate::thread_cache::ThreadCache;

impl Heap {
    /// Gives back the caller's whole cache, the spares of all other threads, the pools, the free OS pages of spans in
    /// use, and all free runs. Linear in what there is; other threads go on meanwhile.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn trim(&self, cache: Option<&ThreadCache>) -> Trimmed {
        let _guest = self.guest_without(cache);
        let before = self.committed();
        self.gather(cache);
        for slab in self.spans.slabs() {
            self.purge_spans(slab, 1, slab.made(), |_| true);
        }
        self.spans.arenas.purge();
        if os::address_limit().is_some() {
            // Where address space is limited, others need it too: for threads' stacks, say.
            self.spans.arenas.abandon_free();
        }
        Trimmed { returned: before.saturating_sub(self.committed()), loaded: self.loaded_bytes() }
    }

    /// Returns what is free to its spans, and wholly free spans to the arenas: of the caller's cache, the spares of all other
    /// threads, the pools, and the shelf.
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn gather(&self, cache: Option<&ThreadCache>) {
        let _guest = self.guest_without(cache);
        if let Some(cache) = cache {
            self.settle_fork(cache);
            self.flush(cache);
        }
        // In a heap beside the program's, most may never have been anybody's: to mark those would touch memory for them.
        for other in self.caches.iter().filter(|other| other.owner().is_some()) {
            other.put_mark_back();
            self.rob(other, |_| true);
        }
        for class in 0..CLASSES {
            self.return_magazines(class, self.shards.depth(class, &self.magazines));
            self.pool(class, 0).reap(self.spans.nodes(class).made() as usize, self.clock.now());
        }
        self.clear_shelf(|_| true);
    }

    /// A thread without a cache, which nobody would adopt, is a guest while it has things in hand.
    fn guest_without(&self, cache: Option<&ThreadCache>) -> Option<Guest<'_>> {
        cache.is_none().then(|| self.guest())
    }

    /// What is done once before a request fails: a trim, the address space of free arenas goes too, and it is made `again`. In a full
    /// heap with a limit only if anything has changed since that was in vain.
    #[cold]
    pub(super) fn reclaim<T>(&self, cache: Option<&ThreadCache>, again: impl FnOnce() -> Option<T>) -> Option<T> {
        let budget = self.spans.arenas.budget();
        if budget.is_vain() && cache.is_none_or(|cache| self.has_flushed(cache)) {
            return None;
        }
        let changes = budget.changes();
        self.trim(cache);
        self.spans.arenas.abandon_free();
        let done = again();
        if done.is_none() {
            budget.note_vain(changes);
        }
        done
    }

    /// Whether there is no chunk in the caller's own loaded magazines. What its spares have was counted.
    fn has_flushed(&self, cache: &ThreadCache) -> bool {
        (0..CLASSES).all(|class| {
            cache.loaded(class, &self.magazines).is_none_or(|magazine| cache.loaded_count(class, magazine) == 0)
        })
    }

    /// Bytes in the loaded magazines of all living threads: a moment's picture.
    fn loaded_bytes(&self) -> usize {
        let mut bytes = 0;
        for cache in self.caches.iter().filter(|cache| cache.owner().is_some()) {
            for (class, info) in INFO.iter().enumerate() {
                if let Some(magazine) = cache.loaded(class, &self.magazines) {
                    bytes += cache.loaded_count(class, magazine) * info.size;
                }
            }
        }
        bytes
    }
}
