//! Heaps as values: caches that go with a thread's cache of another heap, claimed by the next to have its index, and emptied
//! by others once its thread has ended.

use super::{spawn, touch};
use crate::heap::Heap;
use crate::size_class::{Class, INFO};
use crate::slab::Slab;
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
            Some(cache) => self.heap.free_slow(cache, CLASS, chunk),
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
        world.leave(world.global.get(index));
        world.heap.flush_all_ended(&world.global)
    });
    let mine = world.heap.flush_all_ended(&world.global);
    let theirs = other.join();
    assert!(!(mine && theirs), "both have emptied the same cache");
    world.check(0);
    world.heap.flush_all_ended(&world.global);
    assert_eq!(world.heap.stats().thread_cached, 0, "nothing is left in caches");
}
