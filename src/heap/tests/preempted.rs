//! A thread is suspended before any one of its steps, and others go on: they need nothing of it, get along with little
//! more memory, and when it goes on nothing is lost.

use super::acts::{ACTS, Act, SIZE};
use super::world::{Block, Client, World};
use crate::config::{PAGE, QUIET_TICKS};
use crate::sync::Ordering;
use crate::sync::stepped::interrupted;
use std::vec::Vec;

/// How many places of each act are tried.
const PLACES: u64 = 60;

/// What another thread does meanwhile: something of everything.
fn busy(world: &World, other: &mut Client<'_>, inherited: &mut Vec<Block>) {
    other.blocks.append(inherited);
    for size in [SIZE, SIZE, SIZE, 16, 300 << 10, SIZE, SIZE] {
        assert!(other.alloc(size, 1, true));
    }
    for at in (0..other.blocks.len()).rev().step_by(2) {
        other.free(at);
    }
    world.system.advance_ms(150);
    assert!(other.alloc(2 * PAGE, 1, false) && other.alloc(SIZE, 1, false));
    world.heap.trim(other.cache);
    assert!(other.alloc(SIZE, 1, false));
}

/// Suspends the act before its step number `step`. Returns how many it has.
fn suspend(act: &Act, step: u64) -> u64 {
    let world = World::new();
    let (mut client, mut other) = (world.join(), world.join());
    (act.before)(&world, &mut client, &mut other);
    // Some of what the suspended thread has taken is freed by others.
    let mut inherited = Vec::new();
    if act.name == "carve from listed spans" || act.name == "tick" {
        inherited.append(&mut other.blocks);
    }
    let before = world.heap.committed();
    let mut grown = 0;
    let mut meanwhile = || {
        (0..3).for_each(|_| busy(&world, &mut other, &mut inherited));
        grown = world.heap.committed().saturating_sub(before);
    };
    let steps = interrupted(step, &mut meanwhile, || (act.act)(&world, &mut client));
    assert!(grown <= act.in_hand + (4 << 20), "{} grew by {grown} while {} was suspended", "the others", act.name);
    client.blocks.iter().chain(&other.blocks).for_each(Block::verify_all);
    client.blocks.append(&mut inherited);
    world.check(&[&client, &other]);
    world.finish([client, other].into());
    steps
}

#[test]
fn nobody_waits_for_a_suspended_thread() {
    for act in ACTS {
        let steps = suspend(act, u64::MAX);
        assert!(steps > 20, "{} is too short", act.name);
        let stride = steps.div_ceil(PLACES);
        for place in 0..steps / stride {
            // Not the same phase at each place.
            suspend(act, place * stride + place % stride);
        }
    }
}

/// Memory that comes back in the middle of a tick that has found nothing is work all the same.
#[test]
fn a_tick_does_not_forget_who_woke_upkeep_meanwhile() {
    let world = World::new();
    let quiet = &world.heap.clock.quiet;
    let tick = |step: u64| {
        quiet.store(QUIET_TICKS, Ordering::Relaxed);
        let steps = interrupted(step, &mut || world.heap.ebb(PAGE), || world.heap.tick());
        assert!(step >= steps || quiet.load(Ordering::Relaxed) < 2, "woken before step {step} of {steps}");
        steps
    };
    tick(u64::MAX);
    assert_eq!(quiet.load(Ordering::Relaxed), QUIET_TICKS + 1, "there was nothing to do");
    assert!((0..).take_while(|step| *step < tick(*step)).count() > 20);
}

#[test]
fn of_two_first_threads_the_loser_gives_its_words_back_to_be_kept_on_a_fork() {
    let first = |step: u64| {
        let world = World::new();
        let (mut client, mut other) = (world.client(), world.client());
        let steps = interrupted(step, &mut || assert!(other.join()), || assert!(client.join()));
        world.finish([client, other].into());
        steps
    };
    let steps = first(u64::MAX);
    // The fake system ends the test where words are to serve as something else, and a child would find them wiped.
    (0..steps).for_each(|step| _ = first(step));
}
