//! Carve, restore, retire, and the purge of free OS pages in spans in use: who gets a chunk comes after whoever gave it
//! back, no chunk is lost, and a span that is wholly free gives its run back exactly once.

use super::{each, spawn, touch};
use crate::arena::Fill;
use crate::heap::Heap;
use crate::os::fake;
use crate::pool::Portion;
use crate::size_class::{Class, INFO};
use std::prelude::v1::*;
use std::rc::Rc;

/// Spans of this class are one page of four chunks, each of them an OS page.
const CLASS: Class = 0;

/// Carves up to `want` chunks and writes to each, as whoever allocates them may.
fn carve(heap: &Heap, want: usize) -> Vec<usize> {
    let mut chunks = Vec::new();
    heap.pool(CLASS, 0).carve(Portion::any(want), 0, each(CLASS, |chunk| chunks.push(chunk)));
    chunks.iter().for_each(|chunk| touch(*chunk, CLASS));
    chunks
}

/// Restores chunks, each written to right before.
fn restore(heap: &Heap, chunks: &[usize]) {
    restore_at(heap, 0, chunks);
}

/// The same on another processor.
fn restore_away(heap: &Heap, chunks: &[usize]) {
    restore_at(heap, heap.shards.home(1), chunks);
}

fn restore_at(heap: &Heap, home: u32, chunks: &[usize]) {
    chunks.iter().for_each(|chunk| touch(*chunk, CLASS));
    heap.pool(CLASS, home).restore(&mut chunks.to_vec(), 0);
}

/// Purges what is free in spans in use.
fn purge(heap: &Heap) {
    let nodes = heap.spans.nodes(CLASS);
    heap.purge_spans(nodes, 1, nodes.made(), |_| true);
}

/// A heap with so many chunks carved from one span, all of them with the caller.
fn heap_with(chunks: usize) -> (Rc<Heap>, Vec<usize>) {
    let heap = Rc::new(Heap::new());
    let carved = carve(&heap, chunks);
    assert_eq!(carved.len(), chunks);
    (heap, carved)
}

/// Every chunk is in one place, those in `held` with the caller; once they are restored, nothing is left.
fn check(heap: &Heap, mut held: Vec<usize>) {
    held.sort_unstable();
    assert!(held.windows(2).all(|pair| pair[0] < pair[1]), "a chunk was carved twice: {held:x?}");
    let stats = heap.check().expect("the heap is sound");
    assert_eq!(stats.live, held.len() * INFO[CLASS].size, "each chunk is in one place");
    assert_eq!(stats.stranded, 0, "nothing is stranded");

    held.iter().for_each(|chunk| restore(heap, &[*chunk]));
    reap(heap);
    let stats = heap.check().expect("the empty heap is sound");
    assert_eq!((stats.live, stats.spans, heap.spans.arenas.used_bytes()), (0, 0, 0), "all runs are given back");
    let nodes = heap.spans.nodes(CLASS);
    assert_eq!(nodes.free_nodes(), Some(nodes.made() as usize), "each node is given back once");
}

/// Chunks come back one by one to a full span, on another processor, while a thread carves.
pub fn restore_against_carve() {
    let (heap, chunks) = heap_with(4);
    // The second is the lower, which a carve takes first, counted or not.
    let back = [chunks[2], chunks[0]];
    let other = spawn(&heap, move |heap| back.iter().for_each(|chunk| restore_away(heap, &[*chunk])));
    let mut held = carve(&heap, 2);
    other.join();
    held.extend([chunks[1], chunks[3]]);
    check(&heap, held);
}

/// A full magazine comes back to a listed span while a thread carves.
pub fn restore_near_against_carve() {
    let (heap, chunks) = heap_with(4);
    restore(&heap, &chunks[3..]);
    let back = [chunks[2], chunks[0]];
    let other = spawn(&heap, move |heap| {
        let magazine = heap.magazines.take().expect("the fake system gives memory");
        magazine.slots().iter().zip(back).for_each(|(slot, chunk)| slot.set(chunk));
        magazine.set_count(back.len());
        back.iter().for_each(|chunk| touch(*chunk, CLASS));
        heap.pool(CLASS, 0).restore_all(magazine, 0);
        heap.magazines.give(magazine.index());
    });
    let mut held = carve(&heap, 2);
    other.join();
    held.push(chunks[1]);
    check(&heap, held);
}

/// Two threads return the last chunks of a span: one retires it.
pub fn restore_against_restore() {
    let (heap, chunks) = heap_with(4);
    let (one, two) = ([chunks[0], chunks[1]], [chunks[2], chunks[3]]);
    let other = spawn(&heap, move |heap| restore(heap, &one));
    two.iter().for_each(|chunk| restore(&heap, &[*chunk]));
    other.join();
    check(&heap, Vec::new());
}

/// Two threads return the last chunks of a span, and both purge: what one has retired, the other has done with.
pub fn restore_against_retire_and_purge() {
    let (heap, chunks) = heap_with(4);
    let (one, two) = ([chunks[0], chunks[1]], [chunks[2], chunks[3]]);
    let end = |heap: &Heap, chunks: &[usize]| {
        restore(heap, chunks);
        heap.spans.arenas.purge();
    };
    let other = spawn(&heap, move |heap| end(heap, &one));
    end(&heap, &two);
    other.join();
    check(&heap, Vec::new());
}

/// Free OS pages of spans are purged while another thread opens one: of a class that a node that is not made yet does
/// not seem to have.
pub fn purge_against_open() {
    const CLASS: Class = 1;
    let heap = Rc::new(Heap::new());
    let other = spawn(&heap, |heap| {
        let mut chunks = Vec::new();
        heap.pool(CLASS, 0).carve(Portion::any(1), 0, each(CLASS, |chunk| chunks.push(chunk)));
        chunks.iter().for_each(|chunk| touch(*chunk, CLASS));
        chunks
    });
    heap.spans.slabs().iter().for_each(|slab| {
        heap.purge_spans(slab, 1, slab.made(), |_| true);
    });
    let mut chunks = other.join();
    chunks.iter().for_each(|chunk| touch(*chunk, CLASS));
    heap.pool(CLASS, 0).restore(&mut chunks, 0);
    heap.pool(CLASS, 0).reap(8, 0);
    assert_eq!(heap.check().expect("the empty heap is sound").spans, 0, "all runs are given back");
}

/// Pops listed spans until one is met that is not a tombstone.
fn reap(heap: &Heap) {
    heap.pool(CLASS, 0).reap(8, 0);
}

/// A listed span becomes wholly free while another thread pops it: retired by one of them, tombstone or not.
pub fn retire_against_pop() {
    let (heap, chunks) = heap_with(2);
    let other = spawn(&heap, move |heap| restore(heap, &chunks));
    reap(&heap);
    other.join();
    check(&heap, Vec::new());
}

/// The same, with a carver, who may find the run in his hands again as another span.
pub fn retire_against_carve() {
    let (heap, chunks) = heap_with(2);
    let other = spawn(&heap, move |heap| restore_away(heap, &chunks));
    let held = carve(&heap, 1);
    other.join();
    check(&heap, held);
}

/// Something is done to the free chunks of a listed span while another thread carves.
fn against_carve(hold: fn(&Heap)) {
    let (heap, mut held) = heap_with(4);
    restore(&heap, &[held.remove(1), held.remove(1)]);
    let other = spawn(&heap, hold);
    held.extend(carve(&heap, 1));
    other.join();
    check(&heap, held);
}

/// The same while another thread returns the rest.
fn against_restore(hold: fn(&Heap)) {
    let (heap, chunks) = heap_with(3);
    let other = spawn(&heap, hold);
    restore(&heap, &chunks[..1]);
    restore(&heap, &chunks[1..]);
    other.join();
    check(&heap, Vec::new());
}

/// The free chunks of a listed span are purged while another thread carves: what is purged is nobody's.
pub fn purge_against_carve() {
    against_carve(purge);
}

/// The free chunks of a listed span are purged while another thread returns the rest.
pub fn purge_against_restore() {
    against_restore(purge);
}

/// Visits all free chunks of spans in use, and writes to them as to one's own.
fn visit(heap: &Heap) {
    for span in heap.spans.nodes(CLASS).iter() {
        if let Some(outcome) = span.visit_free(|chunk| touch(chunk, CLASS)) {
            heap.pool(CLASS, 0).settle(span, outcome);
        }
    }
}

/// The free chunks of a listed span are visited while another thread carves: what is visited is nobody's.
pub fn visit_against_carve() {
    against_carve(visit);
}

/// The free chunks of a listed span are visited while another thread returns the rest.
pub fn visit_against_restore() {
    against_restore(visit);
}

/// A span held in place is popped by one thread and becomes wholly free by another.
pub fn purge_against_pop_and_retire() {
    let (heap, chunks) = heap_with(2);
    let purging = spawn(&heap, purge);
    let returning = spawn(&heap, move |heap| restore(heap, &chunks));
    reap(&heap);
    purging.join();
    returning.join();
    check(&heap, Vec::new());
}

/// A span of which a part was purged is retired, and the system refuses to purge the rest, while another thread takes a run
/// and gives it back: what is committed is right.
pub fn retire_unpurged_against_take() {
    let (heap, chunks) = heap_with(3);
    purge(&heap);
    fake::refuse_purges();
    let other = spawn(&heap, |heap| heap.spans.arenas.take_run(1, 1, Fill::Any).expect("the fake system gives memory"));
    restore(&heap, &chunks);
    let run = other.join();
    heap.spans.arenas.give_run(run.page, run.pages);
    check(&heap, Vec::new());
}

/// A span that is listed becomes wholly free while another thread pops it, and opens one in its node: with pages of another word
/// of the arena's bitmaps, so that the node alone is handed over.
pub fn retire_against_reuse() {
    let heap = Rc::new(Heap::new());
    let arenas = &heap.spans.arenas;
    let run = arenas.take_run(66, 1, Fill::Any).expect("the fake system gives memory");
    // Not where a word begins: beside it nobody looks, and makes a fence.
    arenas.give_run(run.page + 65, 1);
    let chunks = carve(&heap, 2);
    arenas.give_run(run.page, 1);
    let other = spawn(&heap, |heap| carve(heap, 1));
    restore(&heap, &chunks);
    let held = other.join();
    arenas.give_run(run.page + 1, 64);
    check(&heap, held);
}

/// Two threads carve from what is listed: each span has one holder at a time, and is listed again.
pub fn carve_against_carve() {
    let (heap, mut held) = heap_with(4);
    restore(&heap, &[held.remove(1), held.remove(1)]);
    let other = spawn(&heap, |heap| carve(heap, 1));
    held.extend(carve(&heap, 1));
    held.extend(other.join());
    check(&heap, held);
}
