//! Refill and drain: magazines pass between threads whole, and between processors, with what is in them.

use super::{each, spawn, touch};
use crate::heap::Heap;
use crate::pool::{Magazine, Portion};
use crate::size_class::{Class, INFO};
use std::prelude::v1::*;
use std::rc::Rc;

const CLASS: Class = 0;

/// Takes a full magazine and writes to its chunks, as whoever allocates them may.
fn refill(heap: &Heap, home: u32) -> Option<&Magazine> {
    let magazine = heap.shards.refill(CLASS, home, &heap.magazines)?;
    let count = magazine.count();
    magazine.set_count(0);
    magazine.slots()[..count].iter().for_each(|slot| touch(slot.get(), CLASS));
    magazine.set_count(count);
    Some(magazine)
}

/// Puts a magazine back, its chunks written to right before and in another order.
fn drain(heap: &Heap, home: u32, magazine: &Magazine) {
    let slots = &magazine.slots()[..magazine.count()];
    let chunks: Vec<usize> = slots.iter().map(|slot| slot.get()).collect();
    chunks.iter().for_each(|chunk| touch(*chunk, CLASS));
    slots.iter().zip(chunks.iter().rev()).for_each(|(slot, chunk)| slot.set(*chunk));
    assert!(heap.shards.drain(CLASS, home, &heap.magazines, magazine), "the pool has room");
}

/// A heap whose pool holds two full magazines.
fn heap_with_two() -> Rc<Heap> {
    let heap = Rc::new(Heap::new());
    for _ in 0..2 {
        let magazine = heap.magazines.take().expect("the fake system gives memory");
        let mut slots = magazine.slots().iter();
        let count = heap.pool(CLASS, 0).carve(
            Portion::any(INFO[CLASS].slots),
            0,
            each(CLASS, |chunk| {
                slots.next().expect("no more than asked for").set(chunk);
            }),
        );
        magazine.set_count(count);
        drain(&heap, 0, magazine);
    }
    heap
}

/// All magazines are in the pool, but so many that the threads hold.
fn check(heap: &Heap, held: usize) {
    let stats = heap.check().expect("the heap is sound");
    assert_eq!(heap.shards.depth(CLASS, &heap.magazines) as usize, 2 - held, "each magazine is in one place");
    let bytes = INFO[CLASS].magazine_bytes();
    assert_eq!((stats.pooled, stats.live), ((2 - held) * bytes, held * bytes), "each chunk is in one place");
}

/// One thread refills while another refills twice and drains the first again.
pub fn refill_against_refill_and_drain() {
    let heap = heap_with_two();
    let other = spawn(&heap, |heap| refill(heap, 0).is_some() as usize);
    let first = refill(&heap, 0);
    let second = refill(&heap, 0);
    if let Some(first) = first {
        drain(&heap, 0, first);
    }
    check(&heap, other.join() + second.is_some() as usize);
}

/// Two threads drain, into a pool that has nothing: each magazine is told how high it lies.
pub fn two_drain() {
    let heap = heap_with_two();
    let both = [refill(&heap, 0), refill(&heap, 0)].map(|magazine| magazine.expect("there are two").index());
    let other = spawn(&heap, move |heap| drain(heap, 0, heap.magazines.get(both[1])));
    drain(&heap, 0, heap.magazines.get(both[0]));
    other.join();
    check(&heap, 0);
}

/// Two threads refill and drain: what one does to the chunks is done when the other has them.
pub fn chunks_pass_between_threads() {
    let heap = heap_with_two();
    let pass = |heap: &Heap| {
        if let Some(magazine) = refill(heap, 0) {
            drain(heap, 0, magazine);
        }
    };
    let other = spawn(&heap, pass);
    pass(&heap);
    other.join();
    check(&heap, 0);
}

/// Threads on two processors that nobody has been on before take each a magazine and put it into shards of their own: nothing is
/// where nobody looks.
pub fn magazines_pass_between_shards() {
    let heap = heap_with_two();
    let pass = |heap: &Heap, processor| {
        let home = heap.shards.home(processor);
        if let Some(magazine) = refill(heap, home) {
            drain(heap, home, magazine);
        }
    };
    let other = spawn(&heap, move |heap| pass(heap, 3));
    pass(&heap, 1);
    other.join();
    check(&heap, 0);
    let both = [refill(&heap, 0), refill(&heap, 0)];
    assert!(both.iter().all(Option::is_some), "each shard serves all");
}
