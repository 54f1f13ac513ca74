//! Threads on several processors: each is served what was freed on its own, and nothing is left where nobody looks.

use super::acts::SIZE;
use super::world::{Client, World, class_of};
use crate::os::fake;
use crate::size_class::INFO;
use std::collections::BTreeSet;
use std::vec::Vec;

/// As many magazines as go to the pool beside the spares of one thread.
const MAGAZINES: usize = 40;

/// A client that has noticed on which processor it is.
fn on<'a>(world: &'a World, processor: u32) -> Client<'a> {
    fake::set_processor(processor);
    let mut client = world.join();
    assert!(client.alloc(SIZE, 1, false));
    assert_eq!(client.cache.unwrap().home(), processor);
    client
}

fn addresses(client: &Client<'_>) -> BTreeSet<usize> {
    client.blocks.iter().map(|block| block.at).collect()
}

#[test]
fn what_a_processor_freed_is_served_there() {
    let world = World::new();
    let slots = INFO[class_of(SIZE)].slots;
    let chunks = MAGAZINES * slots;
    let freed: Vec<_> = [2, 7]
        .map(|processor| {
            let mut client = on(&world, processor);
            (0..chunks).for_each(|_| assert!(client.alloc(SIZE, 1, false)));
            (client, processor)
        })
        .into_iter()
        .map(|(mut client, processor)| {
            fake::set_processor(processor);
            let addresses = addresses(&client);
            client.free_all();
            client.leave();
            (addresses, processor)
        })
        .collect();
    let mut clients = Vec::new();
    for (addresses_there, processor) in freed {
        let mut client = on(&world, processor);
        (0..chunks / 2).for_each(|_| assert!(client.alloc(SIZE, 1, false)));
        let others = addresses(&client).difference(&addresses_there).count();
        assert!(others < slots, "on processor {processor}: but for what was carved there and never allocated");
        clients.push(client);
    }
    world.finish(clients);
}

/// A thread that moves leaves nothing behind for good: what one processor freed serves all, before anything is carved.
#[test]
fn a_thread_that_moves_finds_what_it_freed() {
    let world = World::new();
    let slots = INFO[class_of(SIZE)].slots;
    let chunks = MAGAZINES * slots;
    let mut client = on(&world, 1);
    (0..chunks).for_each(|_| assert!(client.alloc(SIZE, 1, false)));
    let all = addresses(&client);
    client.free_all();
    client.leave();
    let mut client = on(&world, 6);
    (0..chunks).for_each(|_| assert!(client.alloc(SIZE, 1, false)));
    // A thread's last magazine is not full, and its first is carved where another is refilled.
    let carved = addresses(&client).difference(&all).count();
    assert!(carved <= slots, "{carved} of {chunks}");
    world.finish([client].into());
}
