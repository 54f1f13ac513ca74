//! A few actors on one span, in every order of their steps.

use super::world::{Actor, World, class_of};
use crate::tagged::Index;
use std::vec::Vec;

/// Runs the actors that `cast` makes for a span of eight chunks, of which `taken` are in use, in every order: a choice
/// at each step, the next run differing in the last choice that can be made otherwise.
fn in_every_order(taken: usize, cast: impl Fn(&mut World, Index) -> Vec<Actor>) -> usize {
    let mut world = World::new(class_of(8 << 10), 4096);
    let mut choices: Vec<(usize, usize)> = Vec::new();
    let mut orders = 0;
    loop {
        let index = world.open(taken);
        let mut actors = cast(&mut world, index);
        let mut at = 0;
        while !actors.is_empty() {
            if at == choices.len() {
                choices.push((0, actors.len()));
            }
            let (choice, of) = choices[at];
            assert_eq!(of, actors.len(), "the same choices lead to the same state");
            let actor = actors.remove(choice);
            match world.step(actor) {
                Actor::Done => {}
                next => actors.insert(choice, next),
            }
            at += 1;
        }
        world.check(&[]);
        world.empty();
        orders += 1;
        while choices.last().is_some_and(|(choice, of)| choice + 1 == *of) {
            choices.pop();
        }
        match choices.last_mut() {
            Some((choice, _)) => *choice += 1,
            None => break,
        }
    }
    world.finish();
    orders
}

#[test]
fn a_carver_and_two_who_free() {
    let mut orders = 0;
    for taken in [2, 5, 8] {
        orders += in_every_order(taken, |world, index| {
            let (one, other) = (Actor::free(world, index, 1), Actor::free(world, index, usize::MAX));
            [Actor::Pop { want: 3 }, one, other].into()
        });
    }
    assert!(orders > 400, "{orders}");
}

#[test]
fn two_carvers_and_one_who_frees() {
    let mut orders = 0;
    for (taken, freed) in [(8, 1), (7, 7), (4, 2)] {
        orders += in_every_order(taken, |world, index| {
            let freer = Actor::free(world, index, freed);
            [Actor::Pop { want: 8 }, Actor::Pop { want: 1 }, freer].into()
        });
    }
    assert!(orders > 400, "{orders}");
}

#[test]
fn a_purger_and_a_carver_and_one_who_frees() {
    let mut orders = 0;
    for (taken, freed) in [(8, 1), (7, 7), (4, 2)] {
        orders += in_every_order(taken, |world, index| {
            let freer = Actor::free(world, index, freed);
            [Actor::Visit { index }, Actor::Pop { want: 2 }, freer].into()
        });
    }
    assert!(orders > 400, "{orders}");
}

#[test]
fn two_purgers_and_the_last_who_frees() {
    let orders = in_every_order(3, |world, index| {
        let freer = Actor::free(world, index, 3);
        [Actor::Visit { index }, Actor::Visit { index }, freer, Actor::Pop { want: 0 }].into()
    });
    assert!(orders > 400, "{orders}");
}
