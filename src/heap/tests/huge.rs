//! Huge allocations that were freed: whom they serve, and when they go.

use super::world::{Client, World};
use crate::config::{CACHE_BYTES, DIRTY_BYTES, HUGE_MIN, KEPT_HUGE, KEPT_PART, PAGE, SPARE_TICKS};
use crate::report::Thp;
use crate::tagged::NONE;

/// Bytes that are kept.
fn kept(world: &World) -> usize {
    world.heap.kept.shelf.bytes()
}

/// A world in which two of so many bytes have come and gone, of which the second is kept, which could grow where it is or not, and where it was.
fn freed(size: usize, grows: bool) -> (World, usize) {
    let world = World::new();
    world.system.set_grows(grows);
    let mut client = world.join();
    let mut come_and_go = || {
        assert!(client.alloc(size, 1, false));
        let at = client.blocks[0].at;
        client.free(0);
        at
    };
    come_and_go();
    assert_eq!(kept(&world), 0, "the first goes at once");
    let at = come_and_go();
    let stats = world.check(&[&client]);
    assert_eq!((kept(&world), stats.dirty), (size, size), "it is free memory");
    assert!(!world.heap.owns(at) && !world.heap.owns(at + size - 1), "and nobody's");
    client.leave();
    (world, at)
}

/// Where the next one lies, with all else as it should be.
fn next(world: &World, client: &mut Client<'_>, size: usize, align: usize, zeroed: bool) -> usize {
    assert!(client.alloc(size, align, zeroed));
    world.check(&[client]);
    client.blocks.last().expect("allocated above").at
}

#[test]
fn it_serves_the_next_that_is_about_as_long() {
    for grows in [false, true] {
        let least = HUGE_MIN + HUGE_MIN / 2;
        for (size, serves) in
            [(least, true), (least - PAGE, true), (least + PAGE, grows), (2 * least, grows), (2 * least + PAGE, false)]
        {
            let (world, at) = freed(least, grows);
            let mut client = world.join();
            let there = next(&world, &mut client, size, 1, false);
            assert!(there == at || !serves, "{size} bytes after {least}");
            assert_eq!(kept(&world), 0, "it serves, or makes way");
            assert_eq!(world.heap.stats().live, size);
            world.finish([client].into());
        }
        let (world, at) = freed(2 * HUGE_MIN, false);
        let mut client = world.join();
        assert_eq!(next(&world, &mut client, HUGE_MIN, 1, false), at, "half as long");
        assert_eq!(world.system.reserved_bytes() - world.heap.spans.arenas.reserved(), HUGE_MIN, "the rest went");
        world.finish([client].into());
    }
}

#[test]
fn it_serves_no_other_alignment_and_nothing_that_is_to_be_zero() {
    for (align, zeroed) in [(1, true), (HUGE_MIN, false), (4 * HUGE_MIN, false)] {
        let (world, _) = freed(HUGE_MIN, false);
        let mut client = world.join();
        assert_eq!(next(&world, &mut client, HUGE_MIN, align, zeroed) % align, 0);
        assert_eq!(kept(&world), 0, "two would be there at once");
        world.finish([client].into());
    }
}

#[test]
fn each_thread_looks_into_all_and_keeps_the_last() {
    let (world, _) = freed(HUGE_MIN, false);
    let mut clients: std::vec::Vec<_> = (0..KEPT_HUGE).map(|_| world.join()).collect();
    let place = |client: &mut Client<'_>| {
        assert!(client.alloc(HUGE_MIN, 1, false));
        client.blocks.last().expect("allocated above").at
    };
    let mut there: std::vec::Vec<usize> = clients.iter_mut().map(place).collect();
    clients.iter_mut().for_each(|client| client.free(0));
    assert_eq!(kept(&world), KEPT_HUGE * HUGE_MIN);
    let mut again: std::vec::Vec<usize> = (0..KEPT_HUGE).map(|_| place(&mut clients[0])).collect();
    [&mut there, &mut again].iter_mut().for_each(|places| places.sort_unstable());
    assert_eq!(there, again);
    clients[0].free(0);
    clients[0].free(0);
    assert_eq!(kept(&world), HUGE_MIN, "the one before makes way");
    world.finish(clients);
}

#[test]
fn what_is_freed_without_another_being_asked_for_goes_at_once() {
    let world = World::new();
    let mut client = world.join();
    (0..2 * KEPT_HUGE).for_each(|_| assert!(client.alloc(HUGE_MIN, 1, false)));
    while !client.blocks.is_empty() {
        client.free(0);
        assert_eq!(kept(&world), 0);
    }
    world.finish([client].into());
}

#[test]
fn it_goes_at_a_trim_with_advice_and_at_the_heaps_end() {
    let ways: [fn(&World); 3] = [
        |world| _ = world.heap.trim(None),
        |world| world.heap.set_thp(Thp::Never),
        // SAFETY: nothing of it is in use, and nothing is done with it but to count.
        |world| unsafe { world.heap.dispose() },
    ];
    for way in ways {
        let (world, _) = freed(HUGE_MIN, false);
        way(&world);
        assert_eq!((kept(&world), world.system.resident_bytes()), (0, 0));
    }
}

#[test]
fn it_goes_once_it_has_rested() {
    let (world, _) = freed(HUGE_MIN, false);
    let client = world.join();
    let mut ticks = 0;
    while kept(&world) > 0 {
        ticks += 1;
        assert!(ticks <= SPARE_TICKS + 2, "it stays");
        world.system.advance_ms(100);
        world.heap.attend_large(NONE);
        (0..super::world::LOOKS).for_each(|_| world.heap.attend_large(client.cache.expect("joined").index()));
    }
    assert!(ticks >= SPARE_TICKS, "after {ticks} ticks");
    let mut client = client;
    next(&world, &mut client, HUGE_MIN, 1, false);
    client.free(0);
    assert_eq!(kept(&world), 0, "nobody had asked for it");
    world.finish([client].into());
}

#[test]
fn it_goes_when_the_heap_grows_elsewhere() {
    let (world, _) = freed(2 * HUGE_MIN, false);
    let before = world.heap.stats().committed;
    let mut client = world.join();
    while kept(&world) > 0 {
        assert!(client.alloc(1000, 1, false));
        let grown = world.heap.stats().committed.saturating_sub(before);
        assert!(grown <= 2 * HUGE_MIN / KEPT_PART + CACHE_BYTES, "{grown} bytes more");
    }
    world.finish([client].into());
}

#[test]
fn no_more_is_kept_than_free_pages_may_hold() {
    let (world, _) = freed(HUGE_MIN, false);
    let mut client = world.join();
    assert!(client.alloc(DIRTY_BYTES + PAGE, 1, false));
    client.free(0);
    assert_eq!(kept(&world), 0, "too long");
    assert!(client.alloc(DIRTY_BYTES, 1, false));
    client.free(0);
    assert_eq!(kept(&world), DIRTY_BYTES);
    // What becomes free besides has it go.
    assert!(client.alloc(HUGE_MIN / 2, 1, false));
    client.free(0);
    assert!(kept(&world) + world.heap.stats().dirty <= DIRTY_BYTES, "{:?}", world.heap.stats());
    // And then it begins anew.
    for now in [0, HUGE_MIN] {
        assert!(client.alloc(HUGE_MIN, 1, false));
        client.free(0);
        assert_eq!(kept(&world), now);
    }
    world.finish([client].into());
}

#[test]
fn none_is_kept_where_there_is_a_limit_or_it_is_not_to_be() {
    let ways: [fn(&World); 2] =
        [|world| world.heap.spans.arenas.budget().set(4 * HUGE_MIN / PAGE, 0), |world| world.heap.keep_no_mapping()];
    for way in ways {
        let world = World::new();
        way(&world);
        let mut client = world.join();
        for _ in 0..4 {
            assert!(client.alloc(HUGE_MIN, 1, false));
            client.free(0);
            assert_eq!(kept(&world), 0);
        }
        world.finish([client].into());
    }
}
