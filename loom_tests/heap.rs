//! The whole heap: threads that join, allocate, free what others allocated, and leave, or vanish; and what others take
//! from them meanwhile. In the end each chunk and each magazine is in one place, and all can be given back.

use super::{each, spawn, touch};
use crate::arena::Fill;
use crate::config::{HUGE_MIN, PAGE};
use crate::heap::Heap;
use crate::os::fake;
use crate::pool::Portion;
use crate::size_class::{Class, INFO};
use crate::span::{HUGE, LARGE};
use crate::sync::{AtomicUsize, Ordering};
use crate::tagged::Index;
use crate::thread_cache::ThreadCache;
use core::ptr::{NonNull, with_exposed_provenance_mut};
use std::prelude::v1::*;
use std::rc::Rc;

pub(super) const CLASS: Class = 0;
/// The first cache that is made. With it, all threads of a model take and give large ones: they share a place on the shelf.
const THREAD: Index = 1;

extern "C" fn nothing() {}

fn join(heap: &Heap) -> &ThreadCache {
    heap.join(nothing).expect("the fake system gives memory")
}

/// Allocates as the global allocator does, and writes to the chunk.
fn alloc(heap: &Heap, cache: &ThreadCache) -> usize {
    let chunk = cache.bin(CLASS).pop().or_else(|| heap.alloc_slow(cache, CLASS));
    let chunk = chunk.expect("the fake system gives memory").as_ptr().addr();
    touch(chunk, CLASS);
    chunk
}

/// Writes to the chunk and frees it as the global allocator does.
fn free(heap: &Heap, cache: &ThreadCache, chunk: usize) {
    touch(chunk, CLASS);
    let chunk = NonNull::new(with_exposed_provenance_mut(chunk)).expect("no chunk is at zero");
    if !cache.bin(CLASS).push(chunk) {
        heap.free_after_miss(cache, CLASS, chunk);
    }
}

/// Allocates and touches so many bytes of pages.
fn large(heap: &Heap, bytes: usize) -> usize {
    let at = heap.alloc_large(THREAD, bytes, 1, Fill::Any).expect("the fake system gives memory").as_ptr().addr();
    fake::touch(at, bytes);
    at
}

/// Frees these, at the end of a model: the heap is sound, and has nothing.
fn free_all_large(heap: &Heap, cache: &ThreadCache, all: &[usize]) {
    all.iter().for_each(|at| heap.free_large(THREAD, *at));
    heap.leave(cache);
    check(heap, &[]);
}

/// Each chunk is in one place, `live` of them with the program; nothing is left once all is given back.
pub(super) fn check(heap: &Heap, live: &[usize]) {
    let stats = heap.check().expect("the heap is sound");
    assert_eq!(stats.live, live.len() * INFO[CLASS].size, "each chunk is in one place");
    let cache = join(heap);
    live.iter().for_each(|chunk| free(heap, cache, *chunk));
    heap.trim(Some(cache));
    heap.leave(cache);
    let stats = heap.check().expect("the empty heap is sound");
    assert_eq!(heap.guests(), 0, "nobody is a guest any more");
    assert_eq!((stats.live, stats.thread_cached, stats.pooled, stats.span_free), (0, 0, 0, 0), "all is given back");
    assert_eq!(stats.committed, stats.metadata, "no memory is left");
    assert_eq!(heap.magazines.free_nodes(), Some(heap.magazines.made() as usize), "each magazine is given back");
}

/// A heap whose two caches have been in use, and a place where one thread puts a chunk for another.
struct Shop {
    heap: Heap,
    caches: [u32; 2],
    counter: AtomicUsize,
}

impl Shop {
    fn new() -> Self {
        let heap = Heap::new();
        let caches = [join(&heap).index(), join(&heap).index()];
        for cache in caches.map(|cache| heap.caches.get(cache)) {
            let chunk = alloc(&heap, cache);
            free(&heap, cache, chunk);
        }
        Self { heap, caches, counter: AtomicUsize::new(0) }
    }

    fn cache(&self, thread: usize) -> &ThreadCache {
        self.heap.caches.get(self.caches[thread])
    }
}

/// One thread allocates and hands over, the other frees what it finds and gives all it has back.
pub fn chunks_are_freed_by_another() {
    let shop = Rc::new(Shop::new());
    let other = spawn(&shop, |shop| {
        let (heap, cache) = (&shop.heap, shop.cache(1));
        let mine = [alloc(heap, cache), alloc(heap, cache)];
        shop.counter.store(alloc(heap, cache), Ordering::Release);
        mine.iter().for_each(|chunk| free(heap, cache, *chunk));
    });
    let (heap, cache) = (&shop.heap, shop.cache(0));
    let found = shop.counter.swap(0, Ordering::Acquire);
    if found != 0 {
        free(heap, cache, found);
    }
    heap.flush(cache);
    other.join();
    heap.leave(cache);
    heap.leave(shop.cache(1));
    let left = shop.counter.load(Ordering::Relaxed);
    check(heap, if left == 0 { &[] } else { core::slice::from_ref(&left) });
}

/// A thread leaves while another joins, and may get the very cache.
pub fn join_against_leave() {
    let heap = Rc::new(Heap::new());
    let cache = join(&heap).index();
    let chunk = alloc(&heap, heap.caches.get(cache));
    let other = spawn(&heap, |heap| {
        let cache = join(heap);
        alloc(heap, cache)
    });
    free(&heap, heap.caches.get(cache), chunk);
    heap.leave(heap.caches.get(cache));
    let live = other.join();
    // The other's thread is gone without a word.
    fake::end_threads();
    check(&heap, &[live]);
}

/// Two threads that join find the cache of one that has vanished; one of them adopts it.
pub fn two_adopt() {
    let heap = Rc::new(Heap::new());
    let cache = join(&heap);
    let live = alloc(&heap, cache);
    fake::end_threads();
    let other = spawn(&heap, |heap| join(heap).index());
    let caches = [join(&heap).index(), other.join()];
    let owned = |cache: &u32| heap.caches.get(*cache).owner().is_some();
    assert!(caches.iter().all(owned), "a living thread's cache is taken from it");
    caches.iter().for_each(|cache| heap.leave(heap.caches.get(*cache)));
    check(&heap, &[live]);
}

/// In the child of a fork, the forking thread settles while a thread born there joins and asks for ended ones.
pub fn settle_against_join() {
    let heap = Rc::new(Heap::new());
    let cache = join(&heap);
    let chunk = alloc(&heap, cache);
    // The child: the words are wiped, and the thread has another number.
    heap.wipe();
    fake::end_threads();
    let other = spawn(&heap, |heap| join(heap).index());
    heap.settle_fork(cache);
    assert!(cache.owner().is_some(), "the cache has two owners");
    free(&heap, cache, chunk);
    let born = other.join();
    assert!(cache.owner().is_some() && born != cache.index(), "the cache has two owners");
    heap.leave(cache);
    heap.leave(heap.caches.get(born));
    check(&heap, &[]);
}

/// A thread frees and allocates while another trims, and so takes its spares.
pub fn trim_against_owner() {
    let shop = Rc::new(Shop::new());
    let (heap, cache) = (&shop.heap, shop.cache(0));
    let chunks: Vec<usize> = (0..4).map(|_| alloc(heap, cache)).collect();
    chunks.iter().for_each(|chunk| free(heap, cache, *chunk));
    // What is loaded is used up: the next comes from a spare, if nobody has taken it.
    let mut live = Vec::from([alloc(heap, cache), alloc(heap, cache)]);
    let other = spawn(&shop, |shop| {
        shop.heap.trim(None);
    });
    live.push(alloc(heap, cache));
    other.join();
    free(heap, cache, live.remove(0));
    heap.leave(cache);
    heap.leave(shop.cache(1));
    check(heap, &live);
}

/// The first two threads of a process are born at a time.
pub fn two_are_born() {
    let heap = Rc::new(Heap::new());
    let other = spawn(&heap, |heap| join(heap).index());
    let caches = [join(&heap).index(), other.join()];
    assert_ne!(caches[0], caches[1], "a cache has two owners");
    let heard = |cache: &u32| heap.heard(*cache).load(Ordering::Relaxed) == 1;
    assert!(caches.iter().all(heard), "a thread is not heard of");
    caches.iter().for_each(|cache| heap.leave(heap.caches.get(*cache)));
    check(&heap, &[]);
}

/// The chunks of a span are freed by two threads, down to the pages: the last retires it, while one of them goes up again
/// for another.
pub fn two_free_the_last_of_a_span() {
    let heap = Rc::new(Heap::new());
    let mut chunks = Vec::new();
    heap.pool(CLASS, 0).carve(Portion::any(2), 0, each(CLASS, |chunk| chunks.push(chunk)));
    let free = |heap: &Heap, chunk: usize| {
        touch(chunk, CLASS);
        let chunk = NonNull::new(with_exposed_provenance_mut(chunk)).expect("no chunk is at zero");
        heap.free_shared(CLASS, chunk);
    };
    let theirs = chunks[1];
    let other = spawn(&heap, move |heap| {
        free(heap, theirs);
        let chunk = heap.alloc_shared(CLASS).expect("the fake system gives memory").as_ptr().addr();
        touch(chunk, CLASS);
        chunk
    });
    free(&heap, chunks[0]);
    let live = other.join();
    check(&heap, &[live]);
}

/// A run goes from one large allocation to the next, of another thread.
pub fn large_is_freed_against_allocated() {
    let heap = Rc::new(Heap::new());
    let cache = join(&heap);
    let (first, second) = (large(&heap, 2 * PAGE), large(&heap, 2 * PAGE));
    let other = spawn(&heap, |heap| large(heap, 2 * PAGE));
    fake::touch(first, 2 * PAGE);
    heap.free_large(THREAD, first);
    let theirs = other.join();
    assert_ne!(theirs, second, "a run has two owners");
    assert_eq!(heap.check().expect("the heap is sound").live, 4 * PAGE, "each run is in one place");
    free_all_large(&heap, cache, &[second, theirs]);
}

/// A run on the shelf goes to an allocation of another thread, or to whoever clears the shelf.
pub fn shelf_is_cleared_against_taken() {
    let heap = Rc::new(Heap::new());
    let cache = join(&heap);
    let first = large(&heap, PAGE);
    cleared_against_taken(&heap, cache, first, PAGE);
}

/// The same of a mapping that is kept.
pub fn kept_is_cleared_against_taken() {
    let heap = Rc::new(Heap::new());
    let cache = join(&heap);
    let first = another_mapping(&heap);
    cleared_against_taken(&heap, cache, first, HUGE_MIN);
}

/// A mapping where one has come and gone, so that this one is kept when it is freed.
fn another_mapping(heap: &Heap) -> usize {
    let first = large(heap, HUGE_MIN);
    heap.free_large(THREAD, first);
    large(heap, HUGE_MIN)
}

fn cleared_against_taken(heap: &Rc<Heap>, cache: &ThreadCache, first: usize, bytes: usize) {
    let other = spawn(heap, move |heap| large(heap, bytes));
    fake::touch(first, bytes);
    heap.free_large(THREAD, first);
    heap.clear_shelf(|_| true);
    let theirs = other.join();
    assert_eq!(heap.check().expect("the heap is sound").live, bytes, "each allocation is in one place");
    free_all_large(heap, cache, &[theirs]);
}

/// Two threads want a mapping where one is kept: the other's is mapped anew.
pub fn two_want_what_is_kept() {
    let heap = Rc::new(Heap::new());
    let cache = join(&heap);
    let first = another_mapping(&heap);
    heap.free_large(THREAD, first);
    let other = spawn(&heap, |heap| large(heap, HUGE_MIN));
    let mine = large(&heap, HUGE_MIN);
    let theirs = other.join();
    assert_ne!(theirs, mine, "a mapping has two owners");
    assert_eq!(heap.check().expect("the heap is sound").live, 2 * HUGE_MIN, "each mapping is in one place");
    free_all_large(&heap, cache, &[mine, theirs]);
}

/// Two threads put runs on the shelf, where there is room for one, and purge what did not stay there.
pub fn two_shelve() {
    let heap = Rc::new(Heap::new());
    let cache = join(&heap);
    let free = |heap: &Heap, at: usize| {
        fake::touch(at, PAGE);
        heap.free_large(THREAD, at);
        heap.spans.arenas.purge();
    };
    let (first, second) = (large(&heap, PAGE), large(&heap, PAGE));
    let other = spawn(&heap, move |heap| free(heap, first));
    free(&heap, second);
    other.join();
    assert_eq!(heap.check().expect("the heap is sound").live, 0, "each run is in one place");
    heap.clear_shelf(|_| true);
    heap.leave(cache);
    check(&heap, &[]);
}

/// A thread leaves, and another gets its cache, while a third trims, and so robs whoever has it.
pub fn trim_against_leave() {
    let shop = Rc::new(Shop::new());
    let (heap, cache) = (&shop.heap, shop.cache(0));
    let chunks: Vec<usize> = (0..4).map(|_| alloc(heap, cache)).collect();
    chunks.iter().for_each(|chunk| free(heap, cache, *chunk));
    let other = spawn(&shop, |shop| {
        shop.heap.trim(None);
    });
    heap.leave(cache);
    other.join();
    heap.leave(shop.cache(1));
    check(heap, &[]);
}

/// A thread that joins adopts the cache of one that has vanished, while another robs it.
pub fn rob_against_adopt() {
    let heap = Rc::new(Heap::new());
    let cache = join(&heap);
    let chunks: Vec<usize> = (0..4).map(|_| alloc(&heap, cache)).collect();
    chunks.iter().for_each(|chunk| free(&heap, cache, *chunk));
    fake::end_threads();
    let robbed = cache.index();
    let other = spawn(&heap, move |heap| heap.rob(heap.caches.get(robbed), |_| true));
    heap.leave(join(&heap));
    other.join();
    check(&heap, &[]);
}

/// Statistics are asked for while another thread loads its first magazine: what they meet is made.
pub fn stats_against_load() {
    let heap = Rc::new(Heap::new());
    let cache = join(&heap).index();
    let mut live = Vec::new();
    heap.pool(CLASS, 0).carve(Portion::any(1), 0, each(CLASS, |chunk| live.push(chunk)));
    let other = spawn(&heap, move |heap| alloc(heap, heap.caches.get(cache)));
    heap.stats();
    live.push(other.join());
    heap.leave(heap.caches.get(cache));
    check(&heap, &live);
}

/// Statistics are asked for while another thread puts the first magazine into a pool.
pub fn stats_against_drain() {
    let heap = Rc::new(Heap::new());
    let mut chunks = Vec::new();
    heap.pool(CLASS, 0).carve(Portion::any(1), 0, each(CLASS, |chunk| chunks.push(chunk)));
    let other = spawn(&heap, move |heap| {
        let magazine = heap.magazines.take().expect("the fake system gives memory");
        magazine.slots()[0].set(chunks[0]);
        magazine.set_count(1);
        assert!(heap.shards.drain(CLASS, 0, &heap.magazines, magazine), "the pool has room");
    });
    heap.stats();
    other.join();
    check(&heap, &[]);
}

/// Statistics are asked for while another thread takes a pool's only magazine and puts it back on top of a new one: a walk
/// that found the old one there goes on to the new one.
pub fn stats_against_second_drain() {
    let heap = Rc::new(Heap::new());
    let mut chunks = Vec::new();
    heap.pool(CLASS, 0).carve(Portion::any(2), 0, each(CLASS, |chunk| chunks.push(chunk)));
    let fill = |heap: &Heap, chunk| {
        let magazine = heap.magazines.take().expect("the fake system gives memory");
        magazine.slots()[0].set(chunk);
        magazine.set_count(1);
        assert!(heap.shards.drain(CLASS, 0, &heap.magazines, magazine), "the pool has room");
    };
    fill(&heap, chunks[0]);
    // The last of the slab's first segment.
    let idle = heap.magazines.take().expect("the fake system gives memory").index();
    let other = spawn(&heap, move |heap| {
        let first = heap.shards.refill(CLASS, 0, &heap.magazines).expect("there is one");
        fill(heap, chunks[1]);
        assert!(heap.shards.drain(CLASS, 0, &heap.magazines, first), "the pool has room");
    });
    heap.stats();
    other.join();
    heap.magazines.give(idle);
    check(&heap, &[]);
}

/// The forking thread settles itself in the child while a thread is born there, which is not mistaken for one that has
/// vanished.
pub fn settle_against_birth() {
    let heap = Rc::new(Heap::new());
    let cache = join(&heap);
    heap.wipe();
    let other = spawn(&heap, |heap| join(heap).index());
    heap.leave(cache);
    let born = heap.caches.get(other.join());
    assert!(born.owner().is_some(), "a living thread's cache is taken from it");
    heap.leave(born);
    check(&heap, &[]);
}

/// Two threads map huge allocations, and one of them unmaps its own.
pub fn two_map_huge() {
    let heap = Rc::new(Heap::new());
    let cache = join(&heap);
    let other = spawn(&heap, move |heap| {
        let at = large(heap, HUGE_MIN);
        heap.free_large(THREAD, at);
    });
    let mine = large(&heap, HUGE_MIN);
    other.join();
    assert_eq!(heap.check().expect("the heap is sound").live, HUGE_MIN, "each mapping is in one place");
    free_all_large(&heap, cache, &[mine]);
}

/// A large allocation begins while another thread looks at an address in it that nobody has told: it finds no node, or one that
/// says what it is.
fn look_up_against(bytes: usize, kind: u32) {
    let heap = Rc::new(Heap::new());
    let cache = join(&heap);
    let other = spawn(&heap, move |heap| large(heap, bytes));
    // The first addresses that the fake system gives.
    let seen = heap.spans.page_map.get(PAGE).map(|head| (head.kind(), head.start()));
    assert!(seen.is_none_or(|seen| seen == (kind, PAGE)), "a node that is not made yet: {seen:?}");
    let at = other.join();
    assert_eq!(at, PAGE, "the first addresses");
    free_all_large(&heap, cache, &[at]);
}

/// A run.
pub fn look_up_against_large() {
    look_up_against(PAGE, LARGE);
}

/// A mapping of its own.
pub fn look_up_against_huge() {
    look_up_against(HUGE_MIN, HUGE);
}

/// A large allocation grows and shrinks in place while another begins.
pub fn resize_against_alloc() {
    let heap = Rc::new(Heap::new());
    let cache = join(&heap);
    let mine = large(&heap, PAGE);
    let other = spawn(&heap, move |heap| {
        let theirs = large(heap, PAGE);
        let bytes = heap.usable_size(mine).expect("it is live");
        assert!(theirs < mine || mine + bytes <= theirs, "a run goes on into another's");
        theirs
    });
    let mut pages = 1;
    for size in [3 * PAGE, 2 * PAGE] {
        if heap.resize_large(THREAD, mine, size, 1).is_some() {
            pages = size / PAGE;
            fake::touch(mine, size);
        }
    }
    let theirs = other.join();
    assert_eq!(heap.check().expect("the heap is sound").live, (pages + 1) * PAGE, "each run is in one place");
    free_all_large(&heap, cache, &[mine, theirs]);
}

/// A large allocation is freed while another thread makes one, and looks at an address in the first that nobody has told: what
/// is said to be there is around that address.
pub fn look_up_against_free() {
    let heap = Rc::new(Heap::new());
    let cache = join(&heap);
    let first = large(&heap, 2 * PAGE);
    let other = spawn(&heap, move |heap| {
        let theirs = large(heap, 2 * PAGE);
        let inside = first + PAGE;
        let seen = heap.spans.page_map.get(inside).map(|head| head.start());
        let is_around = |start| (start..start + 2 * PAGE).contains(&inside);
        assert!(seen.is_none_or(is_around), "{inside} is in what begins at {seen:?}");
        theirs
    });
    fake::touch(first, 2 * PAGE);
    heap.free_large(THREAD, first);
    let theirs = other.join();
    assert_eq!(heap.check().expect("the heap is sound").live, 2 * PAGE, "each run is in one place");
    free_all_large(&heap, cache, &[theirs]);
}

/// A huge allocation shrinks in place while another thread asks how long it is, and maps one.
pub fn shrink_huge_against_map() {
    let heap = Rc::new(Heap::new());
    let cache = join(&heap);
    let mine = large(&heap, 2 * HUGE_MIN);
    let other = spawn(&heap, move |heap| {
        let cut = fake::cut();
        let bytes = heap.usable_size(mine).expect("it is live");
        assert!(bytes + cut <= 2 * HUGE_MIN, "no more than is mapped");
        large(heap, HUGE_MIN)
    });
    let at = heap.resize_large(THREAD, mine, HUGE_MIN, 1).map(|at| at.as_ptr().addr());
    assert_eq!(at, Some(mine), "it shrinks in place");
    let theirs = other.join();
    assert_eq!(heap.check().expect("the heap is sound").live, 2 * HUGE_MIN, "each mapping is in one place");
    free_all_large(&heap, cache, &[mine, theirs]);
}

/// A heap, and a thread's cache of another one.
struct Beside {
    heap: Heap,
    own: ThreadCache,
}

impl Beside {
    /// With a cache that has a magazine loaded, a spare one and an empty one.
    fn new() -> (Rc<Self>, Index) {
        let beside = Rc::new(Self { heap: Heap::new(), own: ThreadCache::new() });
        beside.own.join(9);
        let heap = &beside.heap;
        let cache = join(heap);
        let chunks: Vec<usize> = (0..4).map(|_| alloc(heap, cache)).collect();
        chunks.iter().for_each(|chunk| free(heap, cache, *chunk));
        cache.put_empty(&heap.magazines, heap.magazines.take().expect("the fake system gives memory"));
        let index = cache.index();
        (beside, index)
    }

    /// Takes a cache that nobody has, if it is seen to be so.
    fn take_free(&self, index: Index) {
        let cache = self.heap.caches.get(index);
        if cache.owner().is_none() && cache.claim(&self.own) {
            let loaded = cache.loaded(CLASS, &self.heap.magazines).is_some();
            assert_eq!((loaded, cache.spare_count(CLASS), cache.empties()), (false, 0, 0), "what nobody has is empty");
            cache.leave();
        }
    }
}

/// A thread leaves, and whoever sees that nobody has its cache finds nothing in it.
pub fn leave_against_claim() {
    let (beside, index) = Beside::new();
    let heap = &beside.heap;
    let other = spawn(&beside, move |beside| beside.take_free(index));
    heap.leave(heap.caches.get(index));
    other.join();
    check(heap, &[]);
}

/// The cache of a thread that has vanished is adopted, and whoever sees that nobody has it any more finds nothing in it.
pub fn settle_against_claim() {
    let (beside, index) = Beside::new();
    let heap = &beside.heap;
    fake::end_threads();
    let other = spawn(&beside, move |beside| beside.take_free(index));
    heap.leave(join(heap));
    other.join();
    check(heap, &[]);
}
