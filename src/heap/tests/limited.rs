//! A heap with a limit: what is refused could not be had by gathering all that is free, though that is not done for each request.

use super::world::{Block, Client, World, class_of};
use crate::config::PAGE;
use crate::os::fake;
use crate::size_class::INFO;
use crate::sync::stepped::interrupted;
use core::ptr::{NonNull, with_exposed_provenance_mut};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::vec::Vec;

/// Pages.
const LIMIT: usize = 48;

fn size(random: &mut Rng) -> usize {
    match random.u32(..10) {
        0..4 => 1 + random.usize(..1024),
        4..6 => 1 + random.usize(..32 << 10),
        6..8 => (32 << 10) + random.usize(..256 << 10),
        _ => (256 << 10) + 1 + random.usize(..1 << 20),
    }
}

/// Allocates. Where that is refused, so must it be once all that is free was given back; returns whether it was, and whether without
/// a search.
fn alloc(world: &World, client: &mut Client<'_>, size: usize) -> (bool, bool) {
    let is_vain = world.heap.spans.arenas.budget().is_vain();
    if client.alloc(size, 1, false) {
        return (false, false);
    }
    world.heap.trim(client.cache);
    assert!(!client.alloc(size, 1, false), "{size} bytes were there to be had");
    (true, is_vain)
}

#[test]
fn what_is_refused_is_not_there() {
    for seed in 0..4 {
        let world = World::new();
        world.heap.spans.arenas.budget().set(LIMIT, 0);
        let mut random = Rng::with_seed(seed);
        let mut clients: Vec<Client<'_>> = (0..3).map(|_| world.join()).collect();
        let (mut refused, mut at_once) = (0, 0);
        for at in 0..6000 {
            fake::set_processor(random.u32(..4));
            let which = random.usize(..3);
            let client = &mut clients[which];
            // Fills up, is full for a while, and is emptied to a half.
            match random.u32(..100) {
                0..10 => client.free(random.usize(..)),
                10 => {
                    let half = client.blocks.len() / 2;
                    (0..half).for_each(|_| client.free(random.usize(..)));
                }
                11 => {
                    let blocks = core::mem::take(&mut client.blocks);
                    clients[(which + 1) % 3].blocks.extend(blocks);
                }
                12 if random.u32(..4) == 0 => {
                    client.leave();
                    client.dead = random.bool();
                    if !client.dead {
                        client.join();
                    }
                }
                12..14 if !client.blocks.is_empty() => {
                    client.realloc(random.usize(..), size(&mut random).max(1));
                }
                _ => {
                    let (was, found_vain) = alloc(&world, client, size(&mut random));
                    refused += u32::from(was);
                    at_once += u32::from(found_vain);
                }
            }
            world.system.advance_ms(random.u64(..3));
            if at % 500 == 0 {
                world.check(&clients.iter().collect::<Vec<_>>());
            }
        }
        assert!(refused > 500 && at_once > 100, "{refused} refused, {at_once} of them at once");
        world.finish(clients);
    }
}

/// A full heap is searched once, not for each request.
#[test]
fn a_full_heap_is_searched_once() {
    let world = World::new();
    let budget = world.heap.spans.arenas.budget();
    budget.set(LIMIT, 0);
    let mut client = world.join();
    while client.alloc(100, 1, false) {}
    assert!(budget.used_bytes() == LIMIT * PAGE && !client.alloc(100, 1, false) && budget.is_vain());
    let mut other = world.join();
    assert!(!other.alloc(5000, 1, false) && !other.alloc(300 << 10, 1, false) && budget.is_vain());
    // What it frees lies in its own cache, which a request of another size finds.
    (0..client.blocks.len()).for_each(|_| client.free(0));
    assert!(client.alloc(300 << 10, 1, false), "all was free");
    world.finish([client, other].into());
}

/// Whatever of it lies in spares or in the pool by then, and whenever it came there.
#[test]
fn what_one_has_freed_another_finds() {
    let mut random = Rng::with_seed(5);
    let mut found = [0; 2];
    for _ in 0..60 {
        let world = World::new();
        world.heap.spans.arenas.budget().set(LIMIT, 0);
        let (mut one, mut other) = (world.join(), world.join());
        let small = 500 + random.usize(..500);
        while one.alloc(small, 1, false) {}
        let wanted = [small, 300 << 10][random.usize(..2)];
        for _ in 0..6 {
            // Freed in order, spans would be free as soon as their last chunk is; at random, hardly any is.
            let count = random.usize(..one.blocks.len() / 4);
            (0..count).for_each(|_| one.free(random.usize(..)));
            let (was, _) = alloc(&world, &mut other, wanted);
            found[usize::from(was)] += 1;
            if !was && random.bool() {
                other.free(0);
            }
        }
        world.finish([one, other].into());
    }
    assert!(found.iter().all(|count| *count > 20), "{found:?}");
}

/// What lies in a thread's loaded magazine is out of reach, until that goes to the pool with the thread's end.
#[test]
fn what_a_thread_leaves_is_found() {
    let world = World::new();
    let budget = world.heap.spans.arenas.budget();
    budget.set(LIMIT, 0);
    let (mut one, mut other) = (world.join(), world.join());
    let info = &INFO[class_of(2048)];
    while one.alloc(info.size, 1, false) {}
    assert!(!other.alloc(100, 1, false));
    // One span's chunks: those that fit a magazine lie in one at last, the others in their span.
    let span = one.blocks[0].at / PAGE;
    let of_span: Vec<usize> = (0..one.blocks.len()).rev().filter(|at| one.blocks[*at].at / PAGE == span).collect();
    assert_eq!((info.pages, of_span.len()), (1, info.chunks), "a full span");
    let (last, rest) = of_span.split_at(info.slots);
    let last: Vec<Block> = last.iter().map(|at| one.forget(*at)).collect();
    for block in rest.iter().map(|at| one.forget(*at)) {
        world.heap.free_shared(class_of(block.size), NonNull::new(with_exposed_provenance_mut(block.at)).unwrap());
    }
    last.iter().for_each(|block| one.give(block.at, block.class()));
    assert!(!other.alloc(100, 1, false) && budget.is_vain());
    one.leave();
    assert!(other.alloc(100, 1, false), "the span is free");
    world.finish([one, other].into());
}

/// Spans that were retired stay listed for a while, above others that have something.
#[test]
fn a_chunk_below_many_tombstones_is_found() {
    const RETIRED: usize = 80;
    let world = World::new();
    let budget = world.heap.spans.arenas.budget();
    budget.set(2 * RETIRED, 0);
    let mut client = world.join();
    let info = &INFO[class_of(2048)];
    while client.alloc(info.size, 1, false) {}
    world.heap.flush(client.cache.expect("its cache"));
    let mut spans = BTreeMap::<usize, Vec<Block>>::new();
    while !client.blocks.is_empty() {
        let block = client.forget(0);
        spans.entry(block.at / PAGE).or_default().push(block);
    }
    let mut spans = spans.into_values().filter(|chunks| chunks.len() == info.chunks);
    let (mut top, mut bottom) = (spans.next().expect("a span"), spans.next().expect("another"));
    let mut retired: Vec<Vec<Block>> = spans.by_ref().take(RETIRED).collect();
    let free = |block: Block| {
        world.heap.free_shared(class_of(block.size), NonNull::new(with_exposed_provenance_mut(block.at)).unwrap());
    };
    // Each is listed at its first free chunk.
    free(bottom.pop().expect("a chunk"));
    free(bottom.pop().expect("a chunk"));
    retired.iter_mut().for_each(|chunks| free(chunks.pop().expect("a chunk")));
    free(top.pop().expect("a chunk"));
    retired.into_iter().flatten().for_each(free);
    while client.alloc(5 * PAGE, 1, false) {}
    while client.alloc(PAGE * 5, 1, false) || !budget.is_vain() {}
    // By one that has no cache, and takes one at a time.
    let mut others = world.client();
    others.dead = true;
    for at in 0..3 {
        assert!(others.alloc(info.size, 1, false), "chunk {at}");
    }
    client.blocks.extend(top.into_iter().chain(bottom).chain(spans.flatten()));
    world.finish([client, others].into());
}

/// Whatever a thread has in hand for a moment, while another looks for it.
#[test]
fn what_was_in_hand_meanwhile_is_found() {
    let raced = |step| {
        let world = World::new();
        world.heap.spans.arenas.budget().set(LIMIT, 0);
        let (mut one, mut other) = (world.join(), world.join());
        let info = &INFO[class_of(2048)];
        while one.alloc(info.size, 1, false) {}
        // All of one span in spares, and above them two magazines of another's.
        let spans = [one.blocks[0].at / PAGE, one.blocks[one.blocks.len() - 1].at / PAGE];
        for (span, mut count) in spans.into_iter().zip([info.chunks, 2 * info.slots]) {
            for at in (0..one.blocks.len()).rev() {
                if one.blocks[at].at / PAGE == span && count > 0 {
                    one.free(at);
                    count -= 1;
                }
            }
        }
        let spares = one.cache.map(|cache| cache.spare_count(class_of(info.size)));
        assert_eq!(spares, Some(info.chunks / info.slots + 1));
        for _ in 0..info.slots {
            assert!(one.alloc(info.size, 1, false));
        }
        // The bin is empty, so this takes a spare.
        let steps =
            interrupted(step, &mut || _ = other.alloc(100, 1, false), || assert!(one.alloc(info.size, 1, false)));
        alloc(&world, &mut other, 100);
        world.finish([one, other].into());
        steps
    };
    let steps = raced(u64::MAX);
    (0..steps).for_each(|step| _ = raced(step));
}
