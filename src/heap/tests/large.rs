//! Large and huge allocations: what is in place and what moves, what the page map says of them, and that a resize that
//! fails leaves all as it was.

use super::world::{Client, World};
use crate::arena::Fill;
use crate::config::{HUGE_MIN, PAGE, SHELF_PAGES};
use crate::tagged::NONE;

fn one(world: &World, size: usize, align: usize) -> Client<'_> {
    let mut client = world.join();
    assert!(client.alloc(size, align, false));
    client
}

/// The bytes that the page map knows at an address.
fn known(world: &World, at: usize) -> Option<usize> {
    world.heap.spans.page_map.get(at).and_then(|head| world.heap.large_bytes(head, at))
}

#[test]
fn a_large_one_grows_and_shrinks_where_it_is() {
    let world = World::new();
    let mut client = one(&world, 5 * PAGE, 1);
    let at = client.blocks[0].at;
    for pages in [6, 70, 200, 199, 64, 5] {
        assert!(client.realloc(0, pages * PAGE - 17));
        assert_eq!((client.blocks[0].at, known(&world, at)), (at, Some(pages * PAGE)));
        assert!(world.heap.owns(at + pages * PAGE - 1) && !world.heap.owns(at + pages * PAGE));
        assert!(known(&world, at + PAGE).is_none());
        world.check(&[&client]);
    }
    assert_eq!(world.heap.resize_large(NONE, at, 5 * PAGE, 1).map(|at| at.addr().get()), Some(at));
    world.finish([client].into());
}

#[test]
fn a_freed_one_waits_on_the_shelf_for_one_of_its_length() {
    let world = World::new();
    let mut client = one(&world, 5 * PAGE, 1);
    let at = client.blocks[0].at;
    client.free(0);
    world.check(&[&client]);
    // Its pages are claimed still, and nobody's.
    assert!((0..5).all(|page| !world.heap.owns(at + page * PAGE) && known(&world, at + page * PAGE).is_none()));
    assert!(world.heap.spans.arenas.used_bytes() == 5 * PAGE && world.heap.stats().dirty == 5 * PAGE);
    assert!(client.alloc(6 * PAGE, 1, false) && client.blocks[0].at != at, "of another length");
    assert!(client.alloc(5 * PAGE, 1, true) && client.blocks[1].at == at, "zeroed, though it was written to");
    assert!(client.alloc(5 * PAGE, 1, false) && client.blocks[2].at != at, "in use");
    world.check(&[&client]);
    while !client.blocks.is_empty() {
        client.free(0);
    }
    world.heap.trim(None);
    assert_eq!(world.heap.spans.arenas.used_bytes(), 0, "a trim clears the shelf");
    world.finish([client].into());
}

#[test]
fn the_shelf_has_one_short_run_of_each_thread() {
    let world = World::new();
    let mut clients = [world.join(), world.join()];
    for client in &mut clients {
        for pages in 1..=SHELF_PAGES + 4 {
            assert!(client.alloc((pages - 1) * PAGE + 1, 2 * PAGE, false));
        }
    }
    for client in &mut clients {
        client.free_all();
    }
    assert_eq!(world.heap.spans.arenas.used_bytes(), 2 * PAGE, "the last of each");
    for client in &mut clients {
        assert!(client.alloc(SHELF_PAGES * PAGE, 1, false));
        client.free_all();
    }
    assert_eq!(world.heap.spans.arenas.used_bytes(), 2 * SHELF_PAGES * PAGE, "and so for the longest");
    world.finish(clients.into());
}

#[test]
fn a_large_one_in_the_way_makes_it_move() {
    let world = World::new();
    let mut client = one(&world, 5 * PAGE, 1);
    assert!(client.alloc(5 * PAGE, 1, false));
    let (first, second) = (client.blocks[0].at, client.blocks[1].at);
    assert_eq!(second, first + 5 * PAGE, "first fit");
    assert_eq!(world.heap.resize_large(NONE, first, 6 * PAGE, 1), None);
    assert_eq!(known(&world, first), Some(5 * PAGE));
    world.check(&[&client]);
    assert!(client.realloc(0, 6 * PAGE));
    assert_ne!(client.blocks[1].at, first);
    world.check(&[&client]);
    world.finish([client].into());
}

#[test]
fn refused_growth_changes_nothing() {
    for call in 0.. {
        let world = World::new();
        let client = one(&world, 5 * PAGE, 1);
        let at = client.blocks[0].at;
        let failing = world.system.failing(call, u64::MAX);
        let grown = world.heap.resize_large(NONE, at, 90 * PAGE, 1);
        drop(failing);
        if grown.is_some() {
            assert!(call > 0);
            break;
        }
        assert_eq!(known(&world, at), Some(5 * PAGE));
        world.check(&[&client]);
        world.finish([client].into());
    }
}

#[test]
fn a_huge_one_grows_in_place_or_moves_aligned() {
    for grows in [false, true] {
        for align in [1, 4 << 20, HUGE_MIN] {
            let world = World::new();
            world.system.set_grows(grows);
            let mut client = one(&world, HUGE_MIN, align);
            let at = client.blocks[0].at;
            for (size, stays) in [(HUGE_MIN + PAGE, grows), (HUGE_MIN + 9 * PAGE, grows), (HUGE_MIN / 2, true)] {
                let before = client.blocks[0].at;
                assert!(client.realloc(0, size));
                let now = client.blocks[0].at;
                assert!(now % align == 0 && (now == before || !stays));
                assert_eq!(known(&world, now), Some(size));
                assert!(now == before || known(&world, before).is_none());
                assert!(world.heap.owns(now) && world.heap.owns(now + size - 1));
                let stats = world.check(&[&client]);
                assert_eq!(stats.live, size);
            }
            assert!(!grows || client.blocks[0].at == at);
            // Much smaller: it becomes a large one, if its alignment allows it.
            assert!(client.realloc(0, HUGE_MIN / 4));
            assert!(align == HUGE_MIN || world.system.reserved_bytes() == world.heap.spans.arenas.reserved());
            world.check(&[&client]);
            world.finish([client].into());
        }
    }
}

#[test]
fn a_huge_one_that_may_not_move_grows_in_place_or_not_at_all() {
    for grows in [false, true] {
        let world = World::new();
        world.system.set_grows(grows);
        let mut client = one(&world, HUGE_MIN, 1);
        let at = client.blocks[0].at;
        assert_eq!(world.heap.resize_here(NONE, at, HUGE_MIN + PAGE), grows);
        assert_eq!(known(&world, at), Some(HUGE_MIN + if grows { PAGE } else { 0 }));
        client.blocks[0].verify_all();
        assert!(world.heap.resize_here(NONE, at, HUGE_MIN), "back to what it was");
        client.free(0);
        world.finish([client].into());
    }
}

#[test]
fn a_huge_resize_that_is_refused_leaves_all_as_it_was() {
    let world = World::new();
    let client = one(&world, HUGE_MIN, 1);
    let at = client.blocks[0].at;
    for call in 0.. {
        let (reserved, committed) = (world.system.reserved_bytes(), world.heap.committed() - world.heap.metadata());
        let failing = world.system.failing(call, u64::MAX);
        let resized = world.heap.resize_large(NONE, at, HUGE_MIN + PAGE, 1);
        drop(failing);
        if resized.is_some() {
            assert!(call >= 3, "in place, a place to go to, the move");
            return;
        }
        assert_eq!(known(&world, at), Some(HUGE_MIN));
        assert_eq!(world.system.reserved_bytes(), reserved);
        assert_eq!(world.heap.committed() - world.heap.metadata(), committed);
        world.check(&[&client]);
        client.blocks[0].verify_all();
    }
}

#[test]
fn zeroed_means_zero_on_pages_that_were_used() {
    let world = World::new();
    let mut client = world.join();
    for pages in [5, 70, 100, 300, 512] {
        assert!(client.alloc(pages * PAGE, 1, false));
    }
    client.free_all();
    world.heap.clear_shelf(|_| true);
    for junk in [false, true] {
        world.system.set_purges_to_junk(junk);
        for pages in [70, 5, 300, 64, 511] {
            assert!(client.alloc(pages * PAGE, 4 * PAGE, true));
            let at = client.blocks.last().unwrap().at;
            client.free(0);
            world.heap.clear_shelf(|_| true);
            let again = world.heap.alloc_large(NONE, pages * PAGE, 4 * PAGE, Fill::Zero).unwrap().as_ptr();
            assert_eq!(again.addr(), at, "the pages just used");
            // SAFETY: an allocation of the test's of that many bytes.
            let bytes = unsafe { core::slice::from_raw_parts(again, pages * PAGE) };
            assert!(bytes[0] == 0 && bytes[1..] == bytes[..bytes.len() - 1]);
            world.heap.free_large(NONE, at);
            world.heap.clear_shelf(|_| true);
        }
    }
    world.system.set_purges_to_junk(false);
    world.finish([client].into());
}

#[test]
fn alignments_beyond_a_page_are_kept() {
    let world = World::new();
    let mut client = world.join();
    for log in 16..27 {
        for size in [1, 300 << 10, (1 << log) + 1] {
            assert!(client.alloc(size, 1 << log, true));
        }
    }
    world.check(&[&client]);
    world.finish([client].into());
}

#[test]
fn what_is_owned_is_known() {
    let world = World::new();
    let mut client = world.join();
    for size in [8, 4096, 300 << 10, HUGE_MIN + 1] {
        assert!(client.alloc(size, 1, false));
        let block = client.blocks.last().unwrap();
        for offset in [0, 1, size / 2, size - 1] {
            assert!(world.heap.owns(block.at + offset));
        }
    }
    let here = 0u8;
    assert!(!world.heap.owns(&raw const here as usize) && !world.heap.owns(0) && !world.heap.owns(usize::MAX));
    world.finish([client].into());
}
