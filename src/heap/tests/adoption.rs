//! Caches of threads that are no more: after a fork all but the forking thread's, otherwise those whose threads the
//! system does not know any more. Their chunks are found again, once, and by nobody else's doing.

use super::world::{Client, LOOKS, World, class_of, wipe};
use crate::os::fake::{self, System};
use crate::size_class::INFO;
use crate::slab::Slab;
use crate::sync::Ordering;
use crate::sync::stepped::vanishing;
use crate::thread_cache::ThreadCache;
use std::vec::Vec;

/// Has a client leave something in each part of its cache: loaded and armed bins, spares, empty magazines.
fn furnish(world: &World, client: &mut Client<'_>) {
    for size in [4096, 512, 48] {
        (0..40).for_each(|_| assert!(client.alloc(size, 1, false)));
    }
    (0..80).for_each(|_| client.free(client.blocks.len() - 30));
    let cache = client.cache.unwrap();
    cache.put_empty(&world.heap.magazines, world.heap.magazines.take().unwrap());
    cache.arm(0..INFO.len());
    assert!(client.cached() > 0 && cache.empties() > 0);
    assert!((0..INFO.len()).any(|class| cache.spare_count(class) > 0));
}

/// What is out of the ordinary: nothing, after those that are left are counted.
fn settled(world: &World, clients: &[&Client<'_>], threads: usize) {
    assert_eq!(world.check(clients).threads, threads);
}

/// Lets the heap forget who had a cache: they vanished. Their blocks live on.
fn vanish(client: &mut Client<'_>) {
    client.cache = None;
    client.dead = true;
}

#[test]
fn the_forking_thread_adopts_all_others_at_its_next_slow_path() {
    let world = World::new();
    let mut clients: Vec<Client<'_>> = (0..4).map(|_| world.join()).collect();
    clients.iter_mut().for_each(|client| furnish(&world, client));
    world.fork();
    for client in &mut clients[1..] {
        vanish(client);
    }
    settled(&world, &clients.iter().collect::<Vec<_>>(), 4);
    // Its bins miss sooner or later.
    while world.check(&clients.iter().collect::<Vec<_>>()).threads > 1 {
        assert!(clients[0].alloc(4096, 1, false));
    }
    settled(&world, &clients.iter().collect::<Vec<_>>(), 1);
    // The child frees what it has inherited, on both paths.
    world.finish(clients);
}

/// Most children run another program at once, and each page that they write to is copied: so what the forking thread has stays
/// its own, chunks, portions and tag, and it does not look at the clock yet, which would arm all bins.
#[test]
fn the_forking_thread_keeps_what_it_has() {
    let world = World::new();
    let mut client = world.join();
    let cache = client.cache.unwrap();
    cache.set_tag("mine");
    assert!(client.alloc(48, 1, false) && client.alloc(512, 1, false));
    let portions = || (0..INFO.len()).filter(|class| cache.is_stranger(*class)).count();
    let clock = || cache.seen_ms.load(Ordering::Relaxed);
    let (strange, cached, seen) = (portions(), client.cached(), clock());
    world.fork();
    world.system.advance_ms(1000);
    assert!(client.alloc(4096, 1, false), "a slow path");
    assert!(!world.heap.is_unsettled(cache));
    assert_eq!((portions(), cache.tag(), clock()), (strange, "mine", seen));
    assert!(client.alloc(48, 1, false));
    assert_eq!(client.cached(), cached - 48);
    world.finish([client].into());
}

#[test]
fn it_adopts_before_it_leaves_trims_or_does_upkeep() {
    let slow: [fn(&World, &mut Client<'_>); 3] = [
        |_, client| client.leave(),
        |world, client| {
            world.heap.trim(client.cache);
        },
        |world, client| {
            world.system.advance_ms(1);
            for _ in 0..LOOKS {
                world.heap.attend(client.cache.unwrap(), 0);
            }
        },
    ];
    for act in slow {
        let world = World::new();
        let (mut stays, mut goes) = (world.join(), world.join());
        furnish(&world, &mut goes);
        furnish(&world, &mut stays);
        world.fork();
        vanish(&mut goes);
        act(&world, &mut stays);
        settled(&world, &[&stays, &goes], stays.cache.is_some() as usize);
        world.finish([stays, goes].into());
    }
}

#[test]
fn threads_born_in_the_child_are_left_alone_and_adopt_nobody() {
    let world = World::new();
    let (mut stays, mut goes) = (world.join(), world.join());
    furnish(&world, &mut goes);
    world.fork();
    vanish(&mut goes);
    // Born in the child, before the forking thread has noticed anything.
    fake::set_thread_id(501);
    let mut born = world.join();
    furnish(&world, &mut born);
    settled(&world, &[&stays, &goes, &born], 3);
    fake::set_thread_id(500);
    world.system.set_alone(false);
    world.heap.settle_fork(stays.cache.unwrap());
    settled(&world, &[&stays, &goes, &born], 2);
    assert!(born.cached() > 0, "nobody has taken from it");
    assert!(stays.alloc(64, 1, false) && born.alloc(64, 1, false));
    world.finish([stays, goes, born].into());
}

#[test]
fn a_forking_thread_without_a_cache_adopts_when_it_joins() {
    let world = World::new();
    let mut goes = world.join();
    furnish(&world, &mut goes);
    world.fork();
    vanish(&mut goes);
    let other = world.join();
    settled(&world, &[&other, &goes], 2);
    world.system.set_first_thread(true);
    let stays = world.join();
    settled(&world, &[&stays, &other, &goes], 2);
    world.finish([stays, other, goes].into());
}

/// A thread whose cache is gone for good forks: in the child it never joins, and adopts on the shared path.
#[test]
fn a_forking_thread_that_is_past_its_cache_adopts_on_the_shared_path() {
    for size in [64, 300 << 10] {
        let world = World::new();
        let (mut forks, mut goes) = (world.join(), world.join());
        furnish(&world, &mut goes);
        assert!(forks.alloc(size, 1, false) && forks.alloc(size, 1, false));
        forks.leave();
        world.fork();
        vanish(&mut goes);
        // Another thread without a cache, born in the child, cannot know what the forking thread has.
        let mut born = world.client();
        born.dead = true;
        assert!(born.alloc(size, 1, false));
        settled(&world, &[&forks, &goes, &born], 1);
        world.system.set_first_thread(true);
        forks.free(0);
        settled(&world, &[&forks, &goes, &born], 0);
        world.finish([forks, goes, born].into());
    }
}

/// Nor does it take what belongs to another process that shares the memory: it may be in the child of a `vfork`.
#[test]
fn a_first_thread_without_a_cache_adopts_nobody_where_another_process_is() {
    for dead in [false, true] {
        let world = World::new();
        let stays = world.join();
        world.fork();
        // Born in the child, before the forking thread has noticed anything.
        let born = world.join();
        world.system.next_process();
        world.system.set_first_thread(true);
        let mut vforked = world.client();
        vforked.dead = dead;
        assert!(vforked.alloc(64, 1, false));
        settled(&world, &[&stays, &born, &vforked], 2 + !dead as usize);
        world.finish([stays, born, vforked].into());
    }
}

/// What a thread had in hand in another process that shares the memory is not looked for: that one goes on.
#[test]
fn nothing_is_repaired_where_another_process_is() {
    let world = World::new();
    let stays = world.join();
    world.fork();
    let born = world.join();
    let in_hand = world.heap.magazines.take().unwrap().index();
    let guest = world.heap.guest();
    world.system.next_process();
    world.heap.settle_fork(stays.cache.unwrap());
    let free = world.heap.magazines.free_nodes().unwrap();
    assert_eq!(free + 1, world.heap.magazines.made() as usize, "it is in hand");
    drop(guest);
    world.heap.magazines.give(in_hand);
    world.finish([stays, born].into());
}

/// Forks of forks: each generation leaves two caches behind, and none of it is left.
#[test]
fn generations_leave_nothing_behind() {
    let world = World::new();
    let mut stays = world.join();
    let mut orphans: Vec<Client<'_>> = Vec::new();
    let mut metadata = 0;
    for generation in 0..30 {
        for _ in 0..2 {
            let mut goes = world.join();
            furnish(&world, &mut goes);
            vanish(&mut goes);
            orphans.push(goes);
        }
        world.fork();
        world.heap.settle_fork(stays.cache.unwrap());
        orphans.iter_mut().for_each(|orphan| stays.blocks.append(&mut orphan.blocks));
        settled(&world, &[&stays], 1);
        stays.free_all();
        if generation == 19 {
            metadata = world.heap.metadata();
        }
        assert!(generation < 19 || world.heap.metadata() == metadata, "caches and magazines are used again");
    }
    world.finish([stays].into());
}

#[test]
fn a_second_look_in_the_same_process_adopts_nobody() {
    let world = World::new();
    let (stays, mut other) = (world.join(), world.join());
    furnish(&world, &mut other);
    world.fork();
    world.heap.settle_fork(stays.cache.unwrap());
    let mut born = world.join();
    furnish(&world, &mut born);
    vanish(&mut other);
    world.heap.settle_fork(stays.cache.unwrap());
    world.heap.settle_fork(stays.cache.unwrap());
    settled(&world, &[&stays, &other, &born], 2);
    world.finish([stays, other, born].into());
}

/// Threads that ended without a word are noticed by those that join, a few at a time.
#[test]
fn ended_threads_are_asked_for_in_turn() {
    let world = World::new();
    let mut clients = Vec::new();
    for id in 1..=8 {
        fake::set_thread_id(id);
        let mut client = world.join();
        furnish(&world, &mut client);
        clients.push(client);
    }
    for id in [2, 3, 7] {
        world.system.end_thread(id);
        vanish(&mut clients[id as usize - 1]);
    }
    fake::set_thread_id(100);
    let mut joins = 0;
    let all = |clients: &[Client<'_>], joined: &Client<'_>| {
        let all: Vec<&Client<'_>> = clients.iter().chain([joined]).collect();
        world.check(&all).threads
    };
    loop {
        let mut joined = world.join();
        joins += 1;
        let threads = all(&clients, &joined);
        joined.leave();
        if threads == 6 {
            break;
        }
        assert!(joins < 10, "eight caches are asked for by four who join, and some new ones");
    }
    assert!(joins > 1, "not all by one");
    for _ in 0..20 {
        let mut joined = world.join();
        assert_eq!(all(&clients, &joined), 6, "those that live are left alone");
        joined.leave();
    }
    world.finish(clients);
}

/// Where there is no memory for a further cache, those of threads that have ended are asked for all the same: nobody else would, and
/// whoever comes later had none for good.
#[test]
fn who_gets_no_cache_asks_for_ended_threads() {
    let world = World::new();
    fake::set_thread_id(1);
    let mut clients: Vec<Client<'_>> = Vec::from([world.join()]);
    world.system.set_room(0);
    for id in 2.. {
        fake::set_thread_id(id);
        let mut client = world.client();
        if !client.join() {
            break;
        }
        clients.push(client);
    }
    world.system.end_thread(1);
    vanish(&mut clients[0]);
    let mut late = world.client();
    assert!((0..=clients.len()).any(|_| late.join()), "none of {} caches is free", clients.len());
    world.system.set_room(usize::MAX);
    clients.push(late);
    world.finish(clients);
}

/// A child that has not settled yet, or shares its parent's memory (`vfork`), asks the system about threads of another
/// process: its answer means nothing.
#[test]
fn nobody_is_asked_for_by_another_process() {
    for shares_memory in [false, true] {
        let world = World::new();
        fake::set_thread_id(7);
        let mut client = world.join();
        furnish(&world, &mut client);
        if shares_memory {
            world.system.next_process();
        } else {
            world.fork();
        }
        world.system.end_thread(7);
        fake::set_thread_id(8);
        for _ in 0..6 {
            let mut joined = world.join();
            settled(&world, &[&client, &joined], 2);
            joined.leave();
        }
        fake::set_thread_id(9);
        world.heap.settle_fork(client.cache.unwrap());
        world.finish([client].into());
    }
}

/// A thread that first allocates in the child of a `fork` which nobody has settled is asked for like any other.
#[test]
fn threads_born_in_an_unsettled_child_are_asked_for() {
    let world = World::new();
    let stays = world.join();
    world.fork();
    fake::set_thread_id(501);
    let mut born = world.join();
    furnish(&world, &mut born);
    fake::set_thread_id(502);
    world.system.end_thread(501);
    vanish(&mut born);
    let mut joined = world.join();
    joined.leave();
    let joined = world.join();
    settled(&world, &[&stays, &born, &joined], 2);
    world.finish([stays, born, joined].into());
}

/// A thread that first allocates in the child of a `vfork` has its cache under the child's number; when the child is
/// gone, its parent's thread has it.
#[test]
fn a_cache_made_in_a_child_that_shares_memory_stays_its_threads() {
    let world = World::new();
    fake::set_thread_id(1);
    let first = world.join();
    let child = System::fresh();
    child.next_process();
    fake::set_thread_id(2);
    let cache = world.heap.join(wipe);
    world.system.enter();
    world.system.end_thread(2);
    fake::set_thread_id(3);
    let mut parents = world.client();
    parents.cache = cache;
    furnish(&world, &mut parents);
    for _ in 0..4 {
        let mut joined = world.join();
        settled(&world, &[&first, &parents, &joined], 3);
        joined.leave();
    }
    world.finish([first, parents].into());
}

/// In the child of a fork the index of a thread that vanished is another's some day, and so is its cache of each heap, as it was.
#[test]
fn who_claims_the_cache_of_a_thread_that_vanished_finds_it_sound() {
    let claimed = |step: u64| {
        let (world, global) = (World::new(), Slab::<ThreadCache>::new());
        let (heap, class) = (&world.heap, class_of(512));
        let join = |thread| global.take().inspect(|own| own.join(thread)).unwrap();
        let cache_of = |own| heap.cache_of(own, &global).unwrap();
        let own = join(7);
        let cache = cache_of(own);
        // So many that who claims one does not look at this one by chance.
        (10..18).for_each(|thread| _ = cache_of(join(thread)));
        let chunks: Vec<_> = (0..5).map(|_| heap.alloc_slow(cache, class).unwrap()).collect();
        chunks.iter().for_each(|chunk| assert!(cache.bin(class).push(*chunk)));
        let count = cache.loaded_count(class, cache.loaded(class, &heap.magazines).unwrap());
        let steps = vanishing(step, || {
            let magazine = cache.unload(class, &heap.magazines).unwrap();
            cache.load(class, magazine);
        });
        // The child's forking thread adopts that of the global heap, and another thread begins.
        own.leave();
        global.give(own.index());
        let cache = cache_of(join(8));
        assert!(cache.check(&heap.magazines), "at step {step}");
        cache.disarm(class, &heap.magazines);
        let mut had: Vec<_> = (0..=count).map_while(|_| cache.bin(class).pop()).collect();
        let expected = if cache.is_loaded(class) { count } else { 0 };
        had.sort_unstable();
        had.dedup();
        assert_eq!(had.len(), expected, "at step {step}");
        steps
    };
    let steps = claimed(u64::MAX).unwrap();
    (0..steps).for_each(|step| assert!(claimed(step).is_none()));
}

/// It would keep what is in it for good, and the thread with its index would do without.
#[test]
fn a_cache_whose_adopter_vanished_is_gone_on_with_by_who_is_alone() {
    let (world, global) = (World::new(), Slab::<ThreadCache>::new());
    let (heap, class) = (&world.heap, class_of(512));
    let own = global.take().inspect(|own| own.join(7)).unwrap();
    let cache = heap.cache_of(own, &global).unwrap();
    let chunk = heap.alloc_slow(cache, class).unwrap();
    assert!(cache.bin(class).push(chunk));
    own.leave();
    own.join(8);
    assert!(cache.adopt(cache.owner().unwrap()));
    world.fork();
    assert!(heap.cache_of(own, &global).is_none() && heap.stats().live > 0);
    assert!(!heap.flush_all_left(|| false) && heap.stats().live > 0);
    assert!(heap.flush_all_left(|| true) && !heap.flush_all_left(|| panic!("there is none")));
    let stats = heap.check().unwrap();
    assert_eq!((stats.live, stats.thread_cached), (0, 0), "{stats:?}");
    assert!(heap.cache_of(own, &global).is_some());
}
