//! Heaps as values: caches that go with a thread's cache of another heap, claimed by the next to have its index, and emptied
//! by others once its thread has ended.

use super::{spawn, touch};
use crate::heap::Heap;
use crate::size_class::{Class, INFO};
use crate::slab::Slab;
use crate::sync::Slot;
use crate::thread_cache::ThreadCache;
use core::ptr::{NonNull, with_exposed_provenance_mut};
use std::prelude::v1::*;
use std::rc::Rc;

const CLASS: Class = 0;

struct World {
    /// The caches of the other heap.
    global: Slab<ThreadCache>,
    heap: Heap,
}

impl World {
    /// A thread begins.
    fn join(&self, thread: u32) -> &ThreadCache {
        let own = self.global.take().expect("the fake system gives memory");
        own.join(thread);
        own
    }

    /// A thread ends.
    fn leave(&self, own: &ThreadCache) {
        own.leave();
        self.global.give(own.index());
    }

    fn alloc(&self, own: &ThreadCache) -> usize {
        let chunk = match self.heap.cache_of(own, &self.global) {
            Some(cache) => cache.bin(CLASS).pop().or_else(|| self.heap.alloc_slow(cache, CLASS)),
            None => self.heap.alloc_shared(CLASS),
        };
        let chunk = chunk.expect("the fake system gives memory").as_ptr().addr();
        touch(chunk, CLASS);
        chunk
    }

    fn free(&self, own: &ThreadCache, chunk: usize) {
        touch(chunk, CLASS);
        let chunk = NonNull::new(with_exposed_provenance_mut(chunk)).expect("no chunk is at zero");
        match self.heap.cache_of(own, &self.global) {
            Some(cache) if cache.bin(CLASS).push(chunk) => {}
            Some(cache) => self.heap.free_after_miss(cache, CLASS, chunk),
            None => self.heap.free_shared(CLASS, chunk),
        }
    }

    /// A thread begins, and uses the heap, so that it has chunks cached there. Returns its index.
    fn begin(&self) -> u32 {
        let own = self.join(7);
        let chunk = self.alloc(own);
        self.free(own, chunk);
        own.index()
    }

    fn check(&self, live: usize) {
        let stats = self.heap.check().expect("the heap is sound");
        assert_eq!(stats.live, live * INFO[CLASS].size, "each chunk is in one place");
    }
}

/// A thread ends, and another is given its index and allocates, while a third looks for what has been left.
pub fn flush_against_end_and_claim() {
    let world = Rc::new(World { global: Slab::new(), heap: Heap::new() });
    let index = world.begin();
    let other = spawn(&world, move |world| {
        world.leave(world.global.get(index));
        let own = world.join(8);
        world.alloc(own)
    });
    world.heap.flush_all_ended(&world.global);
    let chunk = other.join();
    world.check(1);
    let own = world.join(9);
    world.free(own, chunk);
    world.leave(own);
    world.leave(world.global.get(index));
    assert!(world.heap.flush_all_ended(&world.global), "what threads have left is found");
    assert_eq!(world.heap.check().expect("the heap is sound").thread_cached, 0, "nothing is left in caches");
}

/// Two look for what a thread has left that has ended.
pub fn two_flush() {
    let world = Rc::new(World { global: Slab::new(), heap: Heap::new() });
    let index = world.begin();
    let other = spawn(&world, move |world| {
        let own = world.global.get(index);
        // The last that it did: whoever empties its cache has seen it.
        let chunk = world.alloc(own);
        world.free(own, chunk);
        world.leave(own);
        world.heap.flush_all_ended(&world.global)
    });
    let mine = world.heap.flush_all_ended(&world.global);
    let theirs = other.join();
    assert!(!(mine && theirs), "both have emptied the same cache");
    world.check(0);
    world.heap.flush_all_ended(&world.global);
    assert_eq!(world.heap.stats().thread_cached, 0, "nothing is left in caches");
}

/// Two threads have their caches made, side by side.
pub fn two_claim() {
    let world = Rc::new(World { global: Slab::new(), heap: Heap::new() });
    let claim = |world: &World, index: u32| {
        let own = world.global.get(index);
        world.heap.cache_of(own, &world.global).is_some_and(|cache| cache.has_word_of(own))
    };
    let index = [world.join(7).index(), world.join(8).index()];
    let other = spawn(&world, move |world| claim(world, index[1]));
    assert!(claim(&world, index[0]) && other.join(), "each has its own");
}

/// A thread's cache of one heap, that of another, and what lies in it.
struct Pair {
    own: ThreadCache,
    cache: ThreadCache,
    bins: Slot,
}

/// A thread ends, and another claims what goes with its index, while a third empties what has been left.
pub fn claim_against_adopt() {
    let pair = Rc::new(Pair { own: ThreadCache::new(), cache: ThreadCache::new(), bins: Slot::new(0) });
    pair.own.join(7);
    assert!(pair.cache.claim(&pair.own), "it is free");
    let other = spawn(&pair, |pair| {
        pair.bins.set(7);
        pair.own.leave();
        pair.own.join(8);
        if pair.cache.claim(&pair.own) {
            pair.bins.set(8);
        }
    });
    if let Some(owner) = pair.cache.owner() {
        if !pair.own.is_owned(owner) && pair.cache.adopt(owner) {
            pair.bins.set(9);
            pair.cache.leave();
        }
    }
    other.join();
    assert!(pair.cache.has_word_of(&pair.own) || pair.cache.owner().is_none(), "it has its owner or none");
}
