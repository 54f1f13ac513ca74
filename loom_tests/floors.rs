//! Whole calls of three threads through every floor at once: a free, an allocation and a purge that meet in one span. In the
//! end each chunk is in one place, and all can be given back.

use super::heap::{CLASS, check};
use super::{each, spawn, touch};
use crate::heap::Heap;
use crate::pool::Portion;
use core::ptr::{NonNull, with_exposed_provenance_mut};
use std::prelude::v1::*;
use std::rc::Rc;

/// Allocates without a cache, and writes to the chunk.
fn alloc(heap: &Heap) -> usize {
    let chunk = heap.alloc_shared(CLASS).expect("the fake system gives memory").as_ptr().addr();
    touch(chunk, CLASS);
    chunk
}

/// Writes to the chunk and frees it without a cache.
fn free(heap: &Heap, chunk: usize) {
    touch(chunk, CLASS);
    heap.free_shared(CLASS, NonNull::new(with_exposed_provenance_mut(chunk)).expect("no chunk is at zero"));
}

/// One thread frees the last chunk but one of a span, to its bits; another allocates, and may get just that; a third purges
/// what is free, in spans and in arenas.
pub fn one_frees_one_allocates_one_purges() {
    let heap = Rc::new(Heap::new());
    let mut chunks = Vec::new();
    heap.pool(CLASS, 0).carve(Portion::any(2), 0, each(CLASS, |chunk| chunks.push(chunk)));
    let theirs = chunks[1];
    let freeing = spawn(&heap, move |heap| free(heap, theirs));
    let purging = spawn(&heap, |heap| {
        let nodes = heap.spans.nodes(CLASS);
        heap.purge_spans(nodes, 1, nodes.made(), |_| true);
        heap.spans.arenas.purge();
    });
    let chunk = alloc(&heap);
    freeing.join();
    purging.join();
    check(&heap, &[chunks[0], chunk]);
}
