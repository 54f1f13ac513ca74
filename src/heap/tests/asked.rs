//! Questions that are asked while others go on: what was a span may be another's before the answer, so it may be out of date, but
//! there is one. Nothing dies of it, and nothing is looked up that is not there.

use super::super::walk::Blocks;
use super::world::{Client, World, class_of};
use crate::config::PAGE;
use crate::size_class::INFO;
use crate::span::Head;
use crate::sync::stepped::interrupted;

/// Two classes whose spans' nodes come from one slab, the second with fewer words.
const LONG: usize = 64;
const SHORT: usize = 128;

fn fill(client: &mut Client<'_>, size: usize) {
    (0..INFO[class_of(size)].chunks).for_each(|_| assert!(client.alloc(size, 1, false)));
}

/// A client with all chunks of a span, the head of that, and the address of its last chunk.
fn world_of(world: &World) -> (Client<'_>, &Head, usize) {
    let mut client = world.join();
    fill(&mut client, LONG);
    let last = client.blocks.iter().map(|block| block.at).max().expect("some");
    client.free(0);
    let head = world.heap.spans.page_map.get(last).expect("a span");
    (client, head, last)
}

/// The span is retired, and its node becomes that of the other class.
fn turn(world: &World, client: &mut Client<'_>, head: &Head) {
    client.free_all();
    world.heap.trim(client.cache);
    fill(client, SHORT);
    assert_eq!(head.kind() as usize, class_of(SHORT), "the node is used again");
}

/// Asks before each step of `ask`, until it has no more; `ask` is given the address of a chunk that is freed meanwhile.
fn asked(ask: impl Fn(&World, usize)) {
    assert!(INFO[class_of(LONG)].words > INFO[class_of(SHORT)].words);
    let mut step = 0;
    loop {
        let world = World::new();
        let (mut client, head, last) = world_of(&world);
        let mut meanwhile = || turn(&world, &mut client, head);
        let steps = interrupted(step, &mut meanwhile, || ask(&world, last));
        if step >= steps {
            break;
        }
        world.check(&[&client]);
        step += 1;
    }
    assert!(step > 3, "{step} steps");
}

#[test]
fn the_size_of_what_another_frees_is_asked_for() {
    asked(|world, last| {
        let size = world.heap.usable_size(last);
        assert!([None, Some(LONG), Some(SHORT)].contains(&size), "{size:?}");
    });
}

#[test]
fn a_magazine_is_checked_while_another_takes_its_chunks() {
    asked(|world, _| {
        let class = class_of(LONG);
        let cache = world.heap.caches.get(1);
        if let Some(magazine) = cache.loaded(class, &world.heap.magazines) {
            let _ = world.heap.bad_chunk(class, magazine, cache.loaded_count(class, magazine));
        }
    });
}

/// What has no bytes by now is not told of: whoever counts by them would not come to an end.
#[test]
fn what_is_given_out_is_walked_over_while_another_frees() {
    let mut step = 0;
    loop {
        let world = World::new();
        let mut client = world.join();
        assert!(client.alloc(5 * PAGE, 1, false) && client.alloc(LONG, 1, false));
        let mut meanwhile = || client.free_all();
        let visit = &mut |found: Blocks<'_>| assert!(found.size > 0 && found.count > 0, "{found:?} at step {step}");
        let steps = interrupted(step, &mut meanwhile, || world.heap.walk_blocks(visit));
        if step >= steps {
            break;
        }
        world.finish([client].into());
        step += 1;
    }
    assert!(step > 3, "{step} steps");
}

/// In a heap beside the program's, caches are made up to the thread's index: those that nobody had are left untouched.
#[test]
fn a_trim_marks_no_cache_that_nobody_had() {
    let world = World::new();
    let mut client = world.join();
    let made = world.heap.caches.made();
    assert!(world.heap.caches.reach(made + 100).is_some());
    world.trim(&[&client]);
    assert!((made + 1..=made + 100).all(|index| !world.heap.caches.get(index).take_mark()));
    client.leave();
}
