//! A thread vanishes before any one of its steps, as all but one do in the child of a fork. What it had is adopted,
//! what it had in hand is found: nothing is stranded, nothing is there twice, and all can be used and given back.

use super::acts::{ACTS, Act, SIZE};
use super::world::{Block, Client, World};
use crate::config::{ARENA_MIN, PAGE};
use crate::os::fake;
use crate::slab::Slab;
use crate::sync::stepped::vanishing;
use crate::thread_cache::ThreadCache;
use std::panic::catch_unwind;
use std::vec::Vec;

/// How many places of each act are tried.
const PLACES: u64 = 60;

impl World {
    /// What a fork leaves: the words are wiped, and the calling thread is alone, with another number.
    pub(super) fn fork(&self) {
        self.heap.wipe();
        self.system.next_process();
        self.system.set_alone(true);
        fake::set_thread_id(fake::thread_id() + 100_000);
    }
}

/// One life: the client vanishes in its act, and the other goes on in the child.
fn live_on(act: &Act, step: u64, bystander: bool) -> Option<u64> {
    let world = World::new();
    let (mut client, mut other) = (world.join(), world.join());
    if bystander {
        // Another thread with a cache vanishes too.
        let mut third = world.join();
        assert!(third.alloc(SIZE, 1, false));
        third.free(0);
    }
    (act.before)(&world, &mut client, &mut other);
    // What a call would have returned is lost.
    let steps = vanishing(step, || (act.act)(&world, &mut client));
    let mut inherited = client.blocks;

    world.fork();
    world.heap.settle_fork(other.cache.unwrap());
    let known: usize = inherited.iter().chain(&other.blocks).map(Block::usable).sum();
    let stats = world.heap.check().unwrap_or_else(|error| panic!("{error} {:?}", world.heap.stats()));
    let context = || std::format!("{} at step {step}: {stats:?}", act.name);
    assert_eq!((stats.threads, stats.stranded), (1, 0), "{}", context());
    assert!(stats.live >= known && stats.live - known <= act.in_hand, "{known} known, {}", context());
    let lost = stats.live - known;
    inherited.iter().for_each(Block::verify_all);

    // Who is given its cache finds nothing there, and may begin with a free.
    let mut next = world.join();
    next.blocks = inherited.split_off(inherited.len() / 2);
    next.free_all();
    assert!(next.alloc(SIZE, 1, false));
    next.free_all();
    next.leave();

    // What is handed out now is nobody's: each block keeps what is written to it.
    other.blocks.append(&mut inherited);
    for size in [SIZE; 40].into_iter().chain([16, 300 << 10, 40 << 10]) {
        assert!(other.alloc(size, 1, false));
    }
    other.blocks.iter().for_each(Block::verify_all);
    other.free_all();
    other.leave();
    world.heap.trim(None);
    let stats = world.heap.check().unwrap();
    assert_eq!((stats.live, stats.threads, stats.stranded), (lost, 0, 0), "{}", context());
    assert!(stats.committed - stats.metadata <= lost.next_multiple_of(64 << 10) + (64 << 10), "{stats:?}");
    // A mapping whose address was in a register only is out of reach.
    let mapped = world.system.reserved_bytes() - (stats.reserved - stats.metadata);
    assert!(mapped == 0 || mapped <= act.in_hand || mapped == ARENA_MIN, "{mapped}, {}", context());
    assert!(mapped > 0 || world.system.resident_bytes() <= stats.committed - stats.metadata);
    let heap = &world.heap;
    assert_eq!(heap.magazines.free_nodes(), Some(heap.magazines.made() as usize), "{}", context());
    assert_eq!(heap.caches.free_nodes(), Some(heap.caches.made() as usize), "{}", context());
    steps
}

/// The same in a heap whose caches go with those of another: there is no repair, and whoever has the index next goes on with the
/// cache as it was left.
fn claim_on(act: &Act, step: u64, later: bool) -> Option<u64> {
    let (world, global) = (World::new(), Slab::<ThreadCache>::new());
    let begin = |thread| {
        let own = global.take().unwrap();
        own.join(thread);
        let mut client = world.client();
        client.cache = world.heap.cache_of(own, &global);
        assert!(client.cache.is_some());
        (own, client)
    };
    let ((own, mut client), (_, mut other)) = (begin(7), begin(8));
    // Who claims a cache looks at few others, and is to find this one as it was left.
    (10..18).for_each(|thread| _ = begin(thread));
    (act.before)(&world, &mut client, &mut other);
    let steps = vanishing(step.saturating_add(later.into()), || (act.act)(&world, &mut client));
    let mut inherited = client.blocks;
    world.fork();
    own.leave();
    global.give(own.index());

    let (again, mut next) = begin(9);
    assert_eq!(again.index(), own.index());
    inherited.iter().chain(&other.blocks).for_each(Block::verify_all);
    next.blocks = inherited.split_off(inherited.len() / 2);
    next.free_all();
    other.blocks.append(&mut inherited);
    for client in [&mut next, &mut other] {
        for size in [SIZE; 40].into_iter().chain([16, 300 << 10, 40 << 10]) {
            assert!(client.alloc(size, 1, false));
        }
        client.check_cache();
    }
    next.blocks.iter().chain(&other.blocks).for_each(Block::verify_all);
    [next, other].iter_mut().for_each(Client::free_all);
    world.heap.flush_all_ended(&global);
    world.heap.trim(None);
    steps
}

/// Lives a life of each act for each place in it at which the client may vanish.
fn at_each_place(acts: impl Iterator<Item = &'static Act>, life: fn(&Act, u64, bool) -> Option<u64>) {
    let mut failures = Vec::new();
    for act in acts {
        let steps = life(act, u64::MAX, true).expect("it came through");
        let stride = steps.div_ceil(PLACES);
        for (place, bystander) in (0..steps / stride).flat_map(|place| [(place, false), (place, true)]) {
            let step = place * stride + place % stride;
            if let Err(cause) = catch_unwind(|| life(act, step, bystander)) {
                let text = cause.downcast_ref::<std::string::String>().cloned();
                let text = text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).into()));
                failures.push(std::format!("{} {step}/{steps}: {text:?}", act.name));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn what_vanished_threads_had_is_found() {
    at_each_place(ACTS.iter(), live_on);
}

/// What it had given up is not counted in the child, wherever it came to count that.
#[test]
fn addresses_are_counted_anew() {
    let life = |step: u64| {
        let world = World::new();
        let (mut client, other) = (world.join(), world.join());
        assert!(client.alloc(300 * PAGE, 1, false));
        client.free_all();
        let steps = vanishing(step, || world.heap.spans.arenas.abandon_free());
        world.fork();
        world.heap.settle_fork(other.cache.unwrap());
        let (counted, there) = (world.heap.spans.arenas.reserved(), world.system.reserved_bytes());
        assert!(counted <= there, "{counted} bytes of {there}, at step {step}");
        assert!(steps.is_none() || counted == 0, "all was free");
        steps
    };
    let steps = life(u64::MAX).expect("it came through");
    (0..steps).for_each(|step| _ = life(step));
}

#[test]
fn what_vanished_threads_had_of_other_heaps_is_gone_on_with() {
    let leaves =
        |act: &&Act| act.name.contains("without a cache") || act.name.contains("leave") || act.name.contains("shared");
    at_each_place(ACTS.iter().filter(|act| !leaves(act)), claim_on);
}
