//! Misuse ends the process with a word on what it was: at once for larger allocations, for chunks when they return to
//! their span. (The fake system panics instead. What a pool notices is tested there.)

use super::super::Tracked;
use super::world::{Block, Client, World, class_of};
use crate::arena::Fill;
use crate::config::{HUGE_MIN, PAGE};
use crate::modes::Tracker;
use crate::report::Mode;
use crate::sync::stepped::interrupted;
use crate::tagged::NONE;
use std::string::String;

/// The words with which the process ends.
fn death(act: impl FnOnce()) -> String {
    let cause = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).expect_err("it goes on");
    let text = cause.downcast_ref::<String>().expect("a formatted panic").clone();
    assert!(text.starts_with("millpond: ") && !text.contains('\n'), "{text}");
    text
}

/// A block of the client's, which stays as it is.
fn block(client: &mut Client<'_>, size: usize) -> usize {
    assert!(client.alloc(size, 1, false));
    client.blocks.last().map(|block: &Block| block.at).unwrap()
}

#[test]
fn a_larger_allocation_is_freed_twice() {
    for size in [5 * PAGE, HUGE_MIN] {
        let world = World::new();
        let mut client = world.join();
        let at = block(&mut client, size);
        client.free(0);
        let text = death(|| world.heap.free_large(NONE, at));
        assert!(text.contains(&std::format!("{at:#x}")), "{text}");
        world.check(&[&client]);
        // Two that free at the same time: the second finds the entry taken.
        assert!(text.contains("which is not an allocation of Millpond's"), "{text}");
        world.finish([client].into());
    }
}

#[test]
fn a_mapping_that_is_kept_is_freed_again() {
    let world = World::new();
    let mut client = world.join();
    let [_, at] = [(); 2].map(|()| {
        let at = block(&mut client, HUGE_MIN);
        client.free(0);
        at
    });
    for address in [at, at + HUGE_MIN - 8] {
        let text = death(|| world.heap.free_large(NONE, address));
        assert!(text.ends_with("which is not an allocation of Millpond's: in free memory of Millpond's"), "{text}");
    }
    world.check(&[&client]);
    world.heap.trim(None);
    assert!(!death(|| world.heap.free_large(NONE, at)).contains("in free memory"), "it has gone");
    world.finish([client].into());
}

#[test]
fn a_larger_allocation_is_freed_where_it_does_not_begin() {
    let world = World::new();
    let mut client = world.join();
    let large = block(&mut client, 5 * PAGE);
    for offset in [1, 4096, PAGE, 4 * PAGE + 8] {
        assert!(death(|| world.heap.free_large(NONE, large + offset)).contains("where no allocation begins"));
    }
    assert!(death(|| world.heap.free_large(NONE, large + 5 * PAGE)).contains("not an allocation"));
    let huge = block(&mut client, HUGE_MIN);
    assert!(death(|| world.heap.free_large(NONE, huge + 8)).contains("where no allocation begins"));
    assert!(death(|| world.heap.free_large(NONE, huge + PAGE)).contains("where no allocation begins"));
    world.check(&[&client]);
    world.finish([client].into());
}

#[test]
fn what_is_nobodys_is_freed() {
    let world = World::new();
    let client = world.join();
    let here = 0;
    for at in [0, 8, &raw const here as usize, usize::MAX, 1 << 47, 1 << 63] {
        assert!(death(|| world.heap.free_large(NONE, at)).contains("not an allocation"), "{at:#x}");
        let resized = || assert!(world.heap.resize_large(NONE, at, 9 * PAGE, 1).is_some());
        assert!(death(resized).contains("not an allocation"), "{at:#x}");
    }
    world.finish([client].into());
}

#[test]
fn a_size_is_not_its_own() {
    let world = World::new();
    let mut client = world.join();
    let (small, large) = (block(&mut client, 100), block(&mut client, 5 * PAGE));
    assert!(death(|| world.heap.free_large(NONE, small)).contains("a size that is not its own"));
    assert!(death(|| assert!(world.heap.resize_large(NONE, small, 9 * PAGE, 1).is_some())).contains("not its own"));
    // As a chunk of some class, on both paths; with a cache it is noticed when the cache gives it back.
    for class in [class_of(64), class_of(256 << 10)] {
        for at in [small, large] {
            let mut shared = world.client();
            shared.dead = true;
            assert!(death(|| shared.give(at, Some(class))).contains("not its own"));
        }
    }
    world.check(&[&client]);
    client.give(small, Some(class_of(64)));
    let cache = client.cache.unwrap();
    assert!(death(|| world.heap.flush(cache)).contains("not its own"));
}

/// In the cache two frees are not told apart; when the chunk returns to its span they are.
#[test]
fn a_chunk_is_freed_twice() {
    for other in [false, true] {
        let world = World::new();
        let (mut client, mut helper) = (world.join(), world.join());
        let at = block(&mut client, 100);
        // Another chunk keeps the span from being given back.
        let _kept = block(&mut helper, 100);
        client.give(at, Some(class_of(100)));
        if other { &mut helper } else { &mut client }.give(at, Some(class_of(100)));
        let text = death(|| {
            world.heap.flush(client.cache.unwrap());
            world.heap.flush(helper.cache.unwrap());
        });
        assert_eq!(text, std::format!("millpond: double free of {at:#x}"));
    }
}

#[test]
fn a_chunk_is_freed_twice_on_the_shared_path() {
    let world = World::new();
    let (mut client, mut dead) = (world.join(), world.client());
    dead.dead = true;
    let at = block(&mut client, 100);
    dead.give(at, Some(class_of(100)));
    assert_eq!(death(|| dead.give(at, Some(class_of(100)))), std::format!("millpond: double free of {at:#x}"));
    assert!(death(|| dead.give(at + 8, Some(class_of(100)))).contains("where no allocation begins"));
}

#[test]
fn sizes_that_overflow_are_refused_and_no_misuse() {
    let world = World::new();
    let client = world.join();
    for (size, align) in [
        (usize::MAX, 1),
        (usize::MAX - PAGE, 1),
        (isize::MAX as usize, 1),
        (isize::MAX as usize - (1 << 40), 1 << 40),
        (1 << 47, 1),
        (PAGE, 1 << 62),
    ] {
        assert_eq!(world.heap.alloc_large(NONE, size, align, Fill::Any), None, "{size:#x} aligned to {align:#x}");
    }
    world.finish([client].into());
}

/// Whenever another thread lets go of what it has resized: who is to move it is told of that, or has it in hand, and copies nothing
/// that can be freed meanwhile.
#[test]
fn what_another_lets_go_of_is_held_from_then_on() {
    let (mut held, mut told) = (0, 0);
    for step in 0.. {
        let (world, tracker) = (World::new(), Tracker::new());
        let heap = &world.heap;
        let tracked = Tracked { heap, tracker: &tracker, mode: Mode::Tracked, cache: None, tag: "", frame: 0 };
        let at = tracked.alloc(100, 8, Some(class_of(100)), Fill::Any).expect("memory").as_ptr().expose_provenance();
        let mut other = Some(tracker.resize(heap.place(at), None, 77).expect("live"));
        let mut mine = None;
        let steps = interrupted(step, &mut || drop(other.take()), || {
            let hold = std::panic::AssertUnwindSafe(|| tracked.hold(at, Some((100, 8)), false));
            mine = std::panic::catch_unwind(hold).ok();
        });
        match mine.take() {
            None => told += 1,
            Some(Ok(Some(_))) => held += 1,
            Some(other) => panic!("at step {step}: {other:?}"),
        }
        if step > steps {
            break;
        }
        // SAFETY: used no more.
        unsafe { tracker.dispose() };
    }
    assert!(held > 0 && told > 0, "{held} and {told}");
}
