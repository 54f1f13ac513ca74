//! Singles, each in a magazine of its own: what one thread frees is another's by one exchange with the pool.

use super::{spawn, touch};
use crate::config::CACHE_BYTES;
use crate::heap::Heap;
use crate::size_class::{Class, INFO};
use crate::tagged::Index;
use core::ptr::{NonNull, with_exposed_provenance_mut};
use std::prelude::v1::*;
use std::rc::Rc;

const CLASS: Class = 1;

extern "C" fn nothing() {}

/// A cache that has no room, so that what its thread frees goes to the pool.
fn join(heap: &Heap) -> Index {
    let cache = heap.join(nothing).expect("the fake system gives memory");
    // What is charged is counted anew by the first that finds no room, since the cache had an owner before.
    assert!(cache.charge(CACHE_BYTES) && cache.charge(1) && cache.charge(CACHE_BYTES - 1), "nothing is charged yet");
    // Only each second that finds no room asks for more.
    cache.bin(CLASS).drains.add(1);
    cache.index()
}

fn alloc(heap: &Heap, cache: Index) -> usize {
    let cache = heap.caches.get(cache);
    let chunk = cache.bin(CLASS).pop().or_else(|| heap.alloc_slow(cache, CLASS));
    let chunk = chunk.expect("the fake system gives memory").as_ptr().addr();
    touch(chunk, CLASS);
    chunk
}

fn free(heap: &Heap, cache: Index, chunk: usize) {
    touch(chunk, CLASS);
    let chunk = NonNull::new(with_exposed_provenance_mut(chunk)).expect("no chunk is at zero");
    let cache = heap.caches.get(cache);
    if !cache.bin(CLASS).push(chunk) {
        heap.free_after_miss(cache, CLASS, chunk);
    }
}

/// A thread that has two singles frees one while another allocates one: the same, or a third.
pub fn singles_pass_between_threads() {
    let heap = Rc::new(Heap::new());
    let caches = [join(&heap), join(&heap)];
    let [one, two] = [(); 2].map(|()| alloc(&heap, caches[1]));
    // So that it has a magazine to put it into.
    free(&heap, caches[1], one);
    let one = alloc(&heap, caches[1]);
    heap.caches.get(caches[1]).bin(CLASS).drains.add(1);
    let other = spawn(&heap, move |heap| free(heap, caches[1], one));
    let mine = alloc(&heap, caches[0]);
    other.join();
    assert_ne!(mine, two, "each chunk is in one place");
    let both = [mine, two];
    let stats = heap.check().expect("the heap is sound");
    assert_eq!(stats.live, 2 * INFO[CLASS].size, "each chunk is in one place");
    both.iter().zip(caches).for_each(|(chunk, cache)| free(&heap, cache, *chunk));
    for cache in caches.map(|cache| heap.caches.get(cache)) {
        heap.trim(Some(cache));
        heap.leave(cache);
    }
    let stats = heap.check().expect("the empty heap is sound");
    assert_eq!((stats.live, stats.committed), (0, stats.metadata), "all is given back");
    assert_eq!(heap.magazines.free_nodes(), Some(heap.magazines.made() as usize), "each magazine is given back");
}
