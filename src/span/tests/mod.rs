//! The life of spans: each verb cut into its atomic steps, which play against each other in all orders on one thread.
//!
//! What weaker orderings would do is for the models; here the spans are as large as shipped, and memory is real.

mod orders;
mod units;
mod world;

use super::{LINKED, RETIRED, Restored};
use crate::arena::Density;
use crate::sync::Ordering;
use proptest::prelude::*;
use std::vec::Vec;
use world::{Actor, World, class_of};

/// A life of one span in a row: each state of the table in the module's documentation.
#[test]
fn a_span_passes_through_its_states() {
    let mut world = World::new(class_of(8 << 10), 4096);
    assert_eq!(world.info().chunks, 8);
    let index = world.open(8);
    let span = world.span(index);
    assert!(span.is_live() && !span.is_linked() && !span.is_held() && span.count() == 0, "full");
    world.free(index, 1);
    assert!(span.is_linked() && span.count() == 1, "listed");
    assert_eq!(world.listed(), [index]);
    world.free(index, 2);
    assert_eq!(world.listed(), [index], "listed once");

    let mut carver = world.step(Actor::Pop { want: 2 });
    carver = world.step(carver);
    assert!(span.is_held() && !span.is_linked() && span.count() == 1, "held");
    world.free(index, 1);
    assert_eq!((span.count(), world.listed()), (2, Vec::new()), "the holder will list it");
    world.run(carver);
    assert_eq!(world.listed(), [index]);

    let visitor = world.step(Actor::Visit { index });
    assert!(span.is_held() && span.is_linked(), "held in place");
    world.run(Actor::Pop { want: 1 });
    assert!(span.is_held() && !span.is_linked(), "a pop leaves the listing to the holder");
    world.run(visitor);
    assert_eq!((span.is_held(), world.listed()), (false, [index].to_vec()));

    world.free(index, 8);
    assert_eq!(span.state().0, LINKED | RETIRED, "tombstone");
    assert_eq!(world.used_pages(), 0);
    world.run(Actor::Pop { want: 1 });
    assert_eq!(span.state().0, 0, "idle");
    world.finish();
}

/// A span that is held when its last chunk comes back is retired by its holder.
#[test]
fn whoever_lets_go_last_retires() {
    for in_place in [false, true] {
        let mut world = World::new(class_of(8 << 10), 4096);
        let index = world.open(3);
        let start = if in_place { Actor::Visit { index } } else { Actor::Pop { want: 0 } };
        let mut holder = world.step(start);
        if !in_place {
            holder = world.step(holder);
        }
        assert!(world.span(index).is_held());
        world.free(index, 3);
        assert_ne!(world.used_pages(), 0, "not from under the holder's hands");
        world.run(holder);
        assert_eq!(world.used_pages(), 0);
        assert_eq!(world.span(index).is_linked(), in_place, "a tombstone only if it is in the stack");
        world.finish();
    }
}

#[test]
fn a_rested_span_is_calm_until_it_changes() {
    let mut world = World::new(class_of(8 << 10), 4096);
    let index = world.open(2);
    let span = world.span(index);
    let held = |rested: fn(u32) -> bool| {
        let token = span.hold_in_place(rested);
        token.map(|token| span.unhold_in_place(token, true))
    };
    assert_eq!(held(|_| false), None, "not yet rested");
    assert_eq!(held(|_| true), Some(Restored::Done));
    assert_eq!(held(|_| true), None, "calm");
    world.free(index, 1);
    assert_eq!(held(|_| true), Some(Restored::Done), "changed");
    assert_eq!(held(|_| true), None);
    world.run(Actor::Pop { want: 1 });
    let token = span.hold_in_place(|_| true).expect("changed");
    world.free(index, 1);
    assert_eq!(span.unhold_in_place(token, true), Restored::Done);
    assert_eq!(held(|_| true), Some(Restored::Done), "changed while held");
    world.finish();
}

#[test]
fn the_stamp_is_that_of_the_listing_or_the_last_carve() {
    let mut world = World::new(class_of(8 << 10), 4096);
    world.now = 7;
    let index = world.open(8);
    world.now = u32::MAX;
    world.free(index, 1);
    let span = world.span(index);
    assert_eq!(span.state().stamp(), u32::MAX);
    world.now = 3;
    assert!(span.hold_in_place(|stamp| stamp != u32::MAX).is_none());
    world.free(index, 1);
    assert_eq!(span.state().stamp(), u32::MAX, "a trickle of frees does not count");
    world.run(Actor::Pop { want: 1 });
    assert_eq!(span.state().stamp(), 3);
    world.finish();
}

#[test]
fn a_chunk_is_known_by_its_address() {
    let mut world = World::new(class_of(48), 4096);
    let index = world.open(1);
    let (span, info) = (world.span(index), world.info());
    let start = span.head.start();
    for chunk in 0..info.chunks {
        assert_eq!(span.chunk_at(info, start + chunk * 48), Some(chunk));
        assert_eq!(span.chunk_at(info, start + chunk * 48 + 1), None);
    }
    assert!(info.tail() > 0);
    assert_eq!(span.chunk_at(info, start + info.chunks * 48), None, "the tail has no chunk");
    assert_eq!(span.chunk_at(info, start - 48), None);
    assert_eq!(span.chunk_at(info, usize::MAX), None);
}

#[test]
fn bits_that_are_set_already_are_told() {
    let mut world = World::new(class_of(64), 4096);
    let index = world.open(70);
    let span = world.span(index);
    assert_eq!(span.set_bits(0, 0b1010), Ok(()));
    assert_eq!(span.set_bits(0, 0b0110), Err(0b0010));
    assert_eq!(span.set_bits(1, 1 << 6), Err(1 << 6));
}

/// A span opened where another class has been finds nothing of it.
#[test]
fn a_run_is_used_again_for_another_class() {
    let mut first = World::new(class_of(8), 4096);
    let index = first.open(1);
    let start = first.span(index).head.start();
    first.run(Actor::Visit { index });
    assert_ne!(first.span(index).purged_bytes(), (0, 0));
    first.free(index, 1);
    first.run(Actor::Pop { want: 1 });
    let mut second = first.of_class(class_of(512));
    let again = second.open(1);
    let span = second.span(again);
    assert_eq!(span.head.start(), start);
    assert_eq!((span.count(), span.purged_bytes()), (second.info().chunks - 1, (0, 0)));
    assert_eq!(span.bits(span.info())[0].load(Ordering::Relaxed), !1);
    second.finish();
}

#[test]
fn without_memory_nothing_is_opened_and_nothing_kept() {
    let mut refused = 0;
    loop {
        let world = World::new(class_of(96), 4096);
        let failing = world.system.failing(refused, u64::MAX);
        let opened = world.spans.open(world.class, 1, Density::Dense, 0).is_some();
        drop(failing);
        if opened {
            break;
        }
        assert_eq!((world.used_pages(), world.spans.live().count()), (0, 0));
        refused += 1;
    }
    assert_eq!(refused, 5, "reservation, its table, commit, leaf of the page map, nodes");
}

#[derive(Clone, Debug)]
enum Op {
    Open(usize),
    Pop(usize),
    Free(usize, usize),
    Visit(usize),
    /// One more step of one of the actors.
    Step(usize),
    StepRefused(usize),
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => any::<usize>().prop_map(Op::Open),
        2 => (0usize..80).prop_map(Op::Pop),
        4 => (any::<usize>(), prop_oneof![1usize..4, 1usize..70, Just(usize::MAX)]).prop_map(|(a, b)| Op::Free(a, b)),
        2 => any::<usize>().prop_map(Op::Visit),
        20 => any::<usize>().prop_map(Op::Step),
        1 => any::<usize>().prop_map(Op::StepRefused),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_in_any_order(
        ops in prop::collection::vec(ops(), 1..400),
        size in prop::sample::select(std::vec![24usize, 160, 1 << 10, 6 << 10, 8 << 10, 40 << 10, 256 << 10]),
        os_page in prop::sample::select(std::vec![4096usize, 16 << 10, 64 << 10]),
        junk in prop::bool::weighted(0.1),
    ) {
        let mut world = World::new(class_of(size), os_page);
        world.system.set_purges_to_junk(junk);
        let mut actors: Vec<Actor> = Vec::new();
        for op in ops {
            world.now += 1;
            let (spans, made) = (world.live(), world.spans.nodes(world.class).made());
            match op {
                Op::Open(taken) if spans.len() < 5 => {
                    let taken = taken % (world.info().chunks + 1);
                    world.open(taken);
                }
                Op::Pop(want) => actors.push(Actor::Pop { want }),
                Op::Free(which, count) if !spans.is_empty() => {
                    let index = spans[which % spans.len()];
                    actors.push(Actor::free(&mut world, index, count));
                }
                Op::Visit(index) if made > 0 => actors.push(Actor::Visit { index: index as u32 % made + 1 }),
                Op::Step(which) | Op::StepRefused(which) if !actors.is_empty() => {
                    let refuse = matches!(op, Op::StepRefused(_));
                    let failing = refuse.then(|| world.system.failing(0, u64::MAX));
                    let at = which % actors.len();
                    let actor = actors.swap_remove(at);
                    let next = world.step(actor);
                    if !matches!(next, Actor::Done) {
                        actors.push(next);
                    }
                    drop(failing);
                }
                _ => {}
            }
            world.check(&actors);
        }
        actors.into_iter().for_each(|actor| world.run(actor));
        world.check(&[]);
        world.finish();
    }
}
