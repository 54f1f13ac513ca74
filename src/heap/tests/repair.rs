//! Repair: what is in no place is put back, each kind stranded by hand; all of it at once; and with memory too short
//! for the repair itself.

use super::acts::SIZE;
use super::world::{Client, World, class_of};
use crate::arena::{Density, Fill};
use crate::config::{HUGE_MIN, PAGE};
use crate::pool::Portion;
use crate::size_class::INFO;
use crate::span::{Pop, SLABS};
use crate::sync::Ordering;
use crate::tagged::NONE;
use std::vec::Vec;

/// A heap in use: one client that stays, and one that will vanish idle, so that there is something to adopt.
fn in_use(world: &World) -> (Client<'_>, Client<'_>) {
    let (mut stays, mut goes) = (world.join(), world.join());
    for client in [&mut stays, &mut goes] {
        for size in [SIZE, 64, 1000] {
            (0..200).for_each(|_| assert!(client.alloc(size, 1, false)));
        }
        assert!(client.alloc(5 * PAGE, 1, false) && client.alloc(HUGE_MIN, 1, false));
        for at in (0..client.blocks.len()).rev().filter(|at| at % 3 != 0) {
            client.free(at);
        }
        world.heap.hand_over_all(client.cache.unwrap());
    }
    // What is stranded comes out of the pools, which growth would empty.
    world.heap.clock.high.store(usize::MAX, Ordering::Relaxed);
    let class = class_of(SIZE);
    world.heap.return_magazines(class, world.heap.shards.depth(class, &world.heap.magazines) / 2);
    (stays, goes)
}

/// Things that a thread can have had in hand when it vanished. Each says how many bytes of chunks are lost for good.
/// A name, and what strands something; it returns the bytes that are lost for good.
type Stranding = (&'static str, fn(&World) -> usize);

const STRANDINGS: [Stranding; 13] = [
    ("a full magazine", |world| {
        world.heap.shards.take(class_of(SIZE), &world.heap.magazines).unwrap();
        0
    }),
    ("a full magazine, told how high it would lie, and not yet there", |world| {
        let magazine = world.heap.shards.take(class_of(SIZE), &world.heap.magazines).unwrap();
        magazine.set_height(magazine.height() + 1);
        0
    }),
    ("empty magazines", |world| {
        (0..3).for_each(|_| assert!(world.heap.magazines.take().is_some()));
        0
    }),
    ("a magazine of which one chunk has been restored", |world| {
        let heap = &world.heap;
        let class = class_of(SIZE);
        let magazine = heap.shards.take(class, &heap.magazines).unwrap();
        let mut first = [magazine.slots()[0].get()];
        let others = magazine.count() - 1;
        // As `restore_all` does: from here on the chunks are in registers.
        magazine.set_count(0);
        heap.pool(class, 0).restore(&mut first, 0);
        others * SIZE
    }),
    ("chunks in registers", |world| {
        let class = class_of(SIZE);
        let mut lost = 0;
        world.heap.pool(class, 0).carve(Portion::any(3), 0, |_, run| lost += run * SIZE);
        lost
    }),
    ("a span, popped", |world| {
        let class = class_of(SIZE);
        let node = world.heap.pool(class, 0).pop_listed();
        assert!(node.is_some());
        0
    }),
    ("a span, held, its chunks taken from the count", |world| {
        let class = class_of(SIZE);
        let nodes = world.heap.spans.nodes(class);
        let span = nodes.get(world.heap.pool(class, 0).pop_listed().unwrap());
        assert!(matches!(span.hold_popped(2, 0), Pop::Held(1..)));
        0
    }),
    ("a span, held in place", |world| {
        let span = world.heap.spans.live().find_map(|span| span.hold_in_place(|_| true));
        assert!(span.is_some());
        0
    }),
    ("a span, opened and not listed", |world| {
        assert!(world.heap.spans.open(class_of(SIZE), 0, Density::Dense, 0).is_some());
        0
    }),
    ("a span's node", |world| {
        assert!(world.heap.spans.nodes(class_of(SIZE)).take().is_some());
        0
    }),
    ("a run", |world| {
        assert!(world.heap.spans.arenas.take_run(70, 1, Fill::Any).is_some());
        0
    }),
    ("a large allocation's node, its run published", |world| {
        let at = world.heap.alloc_large(NONE, 3 * PAGE, 1, Fill::Any).unwrap();
        let page = at.as_ptr().addr() / PAGE;
        world.heap.spans.page_map.publish(page, 1, core::ptr::null_mut());
        0
    }),
    ("a large node", |world| {
        assert!(world.heap.larges.take().is_some());
        0
    }),
];

/// A cache that a thread was settling when both vanished keeps its magazines until a repair has memory to go on with it: they are
/// nobody else's meanwhile.
#[test]
fn a_cache_that_is_being_settled_keeps_what_it_has() {
    let world = World::new();
    let (stays, mut goes) = (world.join(), world.join());
    (0..INFO[class_of(SIZE)].slots / 2).for_each(|_| assert!(goes.alloc(SIZE, 1, false)));
    let cache = goes.cache.take().unwrap();
    assert!(cache.adopt(cache.owner().unwrap()));
    goes.dead = true;
    for failed in [1, 0] {
        world.fork();
        let failing = world.system.failing(0, failed);
        world.heap.settle_fork(stays.cache.unwrap());
        drop(failing);
        let loaded = cache.loaded(class_of(SIZE), &world.heap.magazines).map(|magazine| magazine.index());
        assert_eq!(loaded.is_some(), failed > 0);
        world.heap.magazines.walk_free(|index| assert!(loaded != Some(index), "{index} is loaded and free"));
    }
    verify(&world, Vec::from([stays, goes]), 0, "a cache that was being settled");
}

/// Has things stranded, and the fork settled by the one who stays.
fn settle<'a>(world: &'a World, strandings: &[Stranding]) -> (Vec<Client<'a>>, usize) {
    let (stays, goes) = in_use(world);
    let lost = strandings.iter().map(|(_, strand)| strand(world)).sum();
    world.fork();
    (Vec::from([stays, goes]), lost)
}

fn live(clients: &[Client<'_>]) -> usize {
    clients.iter().flat_map(|client| &client.blocks).map(|block| block.usable()).sum()
}

/// Verifies that all is in place, but `lost`, and can be used and given back.
fn verify(world: &World, mut clients: Vec<Client<'_>>, lost: usize, what: &str) {
    assert_eq!(world.check_live(live(&clients) + lost).threads, 1, "{what}");
    let mut stays = clients.remove(0);
    stays.blocks.append(&mut clients[0].blocks);
    for size in [SIZE, 64, 1000, 3 * PAGE] {
        (0..50).for_each(|_| assert!(stays.alloc(size, 1, true)));
    }
    stays.free_all();
    stays.leave();
    world.heap.trim(None);
    let stats = world.check_live(lost);
    let spans = lost.div_ceil(SIZE);
    assert!(stats.spans <= spans && stats.committed - stats.metadata <= spans * SIZE, "{what}: {stats:?}");
    let heap = &world.heap;
    assert_eq!(heap.magazines.free_nodes(), Some(heap.magazines.made() as usize), "{what}");
    assert_eq!(heap.free_larges().map(|(free, made)| made - free), Some(0), "{what}");
    let nodes: usize = heap.spans.slabs().iter().map(|slab| slab.made() as usize - slab.free_nodes().unwrap()).sum();
    // Beneath a span that is listed still there may be tombstones.
    assert!(nodes == stats.spans || lost > 0, "{what}: {nodes} nodes, {stats:?}");
    assert!(world.system.resident_bytes() <= spans * SIZE, "{what}");
}

#[test]
fn each_thing_that_is_stranded_is_put_back() {
    for one in STRANDINGS {
        let world = World::new();
        let (mut clients, lost) = settle(&world, &[one]);
        clients[1].cache = None;
        clients[1].dead = true;
        world.heap.settle_fork(clients[0].cache.unwrap());
        verify(&world, clients, lost, one.0);
    }
}

#[test]
fn all_of_it_at_once() {
    for rounds in 1..4 {
        let world = World::new();
        let things: Vec<_> = (0..rounds).flat_map(|_| STRANDINGS).collect();
        let (mut clients, lost) = settle(&world, &things);
        clients[1].cache = None;
        clients[1].dead = true;
        world.heap.settle_fork(clients[0].cache.unwrap());
        verify(&world, clients, lost, "all of it");
    }
}

/// While other threads are there already nothing is repaired: what is stranded stays so, and is said to be.
#[test]
fn with_others_there_what_is_stranded_is_reported() {
    let stranded: [Stranding; 3] = [STRANDINGS[6], STRANDINGS[8], STRANDINGS[10]];
    for one in stranded {
        let world = World::new();
        let (mut clients, _) = settle(&world, &[one]);
        clients[1].cache = None;
        clients[1].dead = true;
        world.system.set_alone(false);
        world.heap.settle_fork(clients[0].cache.unwrap());
        let stats = world.heap.check().unwrap_or_else(|error| panic!("{}: {error}", one.0));
        assert!(stats.stranded > 0 && stats.stranded <= 70 * PAGE, "{}: {stats:?}", one.0);
        assert!(clients[0].alloc(SIZE, 1, false));
        world.heap.check().unwrap();
    }
}

/// With the system refusing all from one call on, a repair does what it can: all stays usable and sound, and the next
/// repair does the rest.
#[test]
fn without_memory_a_repair_loses_nothing() {
    for call in 0.. {
        let world = World::new();
        let (mut clients, lost) = settle(&world, &STRANDINGS);
        clients[1].cache = None;
        clients[1].dead = true;
        let failing = world.system.failing(call, u64::MAX);
        world.heap.settle_fork(clients[0].cache.unwrap());
        let calls = failing.seen();
        drop(failing);
        clients[0].blocks.iter().for_each(|block| block.verify_all());
        for size in [SIZE, 64, 1000, 3 * PAGE] {
            (0..20).for_each(|_| assert!(clients[0].alloc(size, 1, true)));
        }
        // Another fork, with another thread that vanishes.
        let mut third = world.join();
        assert!(third.alloc(INFO[9].size, 1, false));
        third.free(0);
        world.fork();
        world.heap.settle_fork(clients[0].cache.unwrap());
        verify(&world, clients, lost, &std::format!("call {call}"));
        if calls <= call {
            assert!(call > SLABS as u64 + 2, "one set of marks for each kind");
            return;
        }
    }
}
