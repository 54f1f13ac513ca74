//! A pool against a plain model: its magazines, its marks, and chunks that go out and come back; and each misuse that
//! a restore must notice.

mod order;

use super::full::Full;
use super::{Magazine, Magazines, Pool, Portion, Shards};
use crate::config::{CARVE_SPANS, DEEP_BYTES, DEEP_CHUNKS, POOL_BYTES, SHARDS};
use crate::os::fake::System;
use crate::size_class::{Class, ClassInfo, INFO, at_place, place_of};
use crate::slab::Slab;
use crate::span::{Span, Spans};
use crate::sync::Ordering;
use crate::tagged::Index;
use core::ptr;
use proptest::prelude::*;
use std::boxed::Box;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::vec::Vec;

struct World {
    system: Arc<System>,
    spans: Box<Spans>,
    magazines: Magazines,
    shards: Box<Shards>,
    class: Class,
    /// Chunks that the test has.
    out: Vec<usize>,
}

impl World {
    fn new(size: usize) -> Self {
        let class = at_place(place_of(size, 1).unwrap());
        let system = System::fresh();
        let spans = Box::new(Spans::new());
        Self { system, spans, magazines: Magazines::new(), shards: Box::new(Shards::new()), class, out: Vec::new() }
    }

    fn pool(&self) -> Pool<'_> {
        Pool { class: self.class, home: 0, shards: &self.shards, spans: &self.spans }
    }

    fn refill(&self, home: u32) -> Option<&Magazine> {
        self.shards.refill(self.class, home, &self.magazines)
    }

    fn drain(&self, home: u32, magazine: &Magazine) -> bool {
        self.shards.drain(self.class, home, &self.magazines, magazine)
    }

    fn depth(&self) -> u32 {
        self.shards.depth(self.class, &self.magazines)
    }

    fn info(&self) -> &'static ClassInfo {
        &INFO[self.class]
    }

    fn carve(&mut self, want: usize) -> Vec<usize> {
        let mut got = Vec::new();
        let count = self.pool().carve(Portion::any(want), 0, |first, run| {
            got.extend((0..run).map(|at| first + at * INFO[self.class].size));
        });
        assert!(count == got.len() && count <= want);
        for chunk in &got {
            assert!(self.spans.page_map.get(*chunk).is_some_and(|head| head.kind() == self.class as u32));
            assert!(!self.out.contains(chunk), "{chunk:#x} is out twice");
            self.out.push(*chunk);
            // SAFETY: a chunk of the test's, at least eight bytes and aligned to eight.
            unsafe { ptr::with_exposed_provenance_mut::<usize>(*chunk).write(!chunk) };
        }
        got
    }

    fn restore(&mut self, chunks: &[usize]) {
        for chunk in chunks {
            // SAFETY: as in `carve`.
            assert_eq!(unsafe { ptr::with_exposed_provenance::<usize>(*chunk).read() }, !chunk);
            let place = self.out.iter().position(|other| other == chunk).unwrap();
            self.out.swap_remove(place);
        }
        self.pool().restore(&mut chunks.to_vec(), 0);
    }

    /// A magazine with so many chunks.
    fn magazine(&mut self, count: usize) -> Index {
        let mut chunks = Vec::new();
        while chunks.len() < count {
            chunks.extend(self.carve(count - chunks.len()));
        }
        let magazine = self.magazines.take().unwrap();
        magazine.slots().iter().zip(&chunks).for_each(|(slot, chunk)| slot.set(*chunk));
        magazine.set_count(count);
        magazine.index()
    }

    fn check(&self) {
        let mut listed = BTreeSet::new();
        assert!(self.pool().check(|span| {
            assert!(listed.insert(span.head.index()), "a span is listed twice");
        }));
        assert!(self.shards.check(self.class, &self.magazines, |_| {}));
        let (mut chunks, mut pages) = (0, 0);
        for span in self.spans.live() {
            assert!(span.check() && !span.is_held());
            assert_eq!(span.count() > 0, listed.contains(&span.head.index()));
            chunks += self.info().chunks - span.count();
            pages += self.info().pages;
        }
        assert_eq!(chunks, self.out.len());
        assert_eq!(self.spans.arenas.check(), Ok(pages));
    }
}

impl Shards {
    /// How many magazines a shard may hold of a class.
    fn bound(&self, class: Class, home: u32) -> u32 {
        self.full(class, home).bound(&INFO[class], || self.halvings())
    }
}

#[test]
fn magazines_come_back_last_first_and_within_the_bound() {
    for size in [8, 1024, 256 << 10] {
        let mut world = World::new(size);
        let bound = POOL_BYTES / world.info().magazine_bytes();
        let mut mine: Vec<Index> = (0..=bound).map(|_| world.magazines.take().unwrap().index()).collect();
        for (at, index) in mine.iter().enumerate() {
            let taken = world.drain(0, world.magazines.get(*index));
            assert_eq!(taken, at < bound, "{at} of {bound}");
        }
        assert_eq!(world.depth() as usize, bound);
        world.check();
        mine.pop();
        while let Some(index) = mine.pop() {
            assert_eq!(world.refill(0).map(Magazine::index), Some(index));
        }
        assert!(world.refill(0).is_none() && world.shards.take(world.class, &world.magazines).is_none());
        assert_eq!(world.depth(), 0);
        world.check();
        world.carve(1);
    }
}

/// A pool that serves magazines holds more: twice as many as it served, of which each tick forgets half.
#[test]
fn what_comes_and_goes_makes_a_deep_pool() {
    for size in [48, 1024] {
        let world = World::new(size);
        let info = world.info();
        let bound = POOL_BYTES / info.magazine_bytes();
        let deep = (DEEP_BYTES / info.magazine_bytes()).min(DEEP_CHUNKS / info.slots);
        let fill = || {
            while world.drain(0, world.magazines.take().unwrap()) {}
            world.depth() as usize
        };
        let serve = |count: usize| (0..count).for_each(|_| assert!(world.refill(0).is_some()));
        assert_eq!(fill(), bound);
        serve(10);
        assert_eq!(fill(), bound + 20);
        // The second ends the burst that the first takes all these drains for.
        (0..2).for_each(|_| world.shards.tick(world.class, &world.magazines));
        serve(30);
        assert_eq!(fill(), bound + 2 * (10 / 4 + 30));
        serve(bound);
        assert_eq!(fill(), deep, "never more");
        for _ in 0..20 {
            world.shards.tick(world.class, &world.magazines);
        }
        while world.shards.take(world.class, &world.magazines).is_some() {}
        assert_eq!(fill(), bound, "nobody has needed it");
    }
}

#[test]
fn one_magazine_fits_whatever_the_class() {
    let full = Full::new();
    full.share_among(SHARDS as u32);
    for info in INFO {
        assert!(full.bound(&info, || 0) >= 1 && info.magazine_bytes() <= POOL_BYTES);
    }
}

/// Each processor has its own magazines back before another's, then those of its nearest neighbour.
#[test]
fn a_processor_is_served_what_it_drained() {
    let world = World::new(48);
    let put = |home: u32| {
        let index = world.magazines.take().unwrap().index();
        assert!(world.drain(world.shards.home(home), world.magazines.get(index)));
        index
    };
    let [low, near, own, last] = [0, 4, 5, SHARDS as u32 + 5].map(put);
    let far = put(SHARDS as u32 - 1);
    let served: Vec<_> = (0..6).map(|_| world.refill(5).map(Magazine::index)).collect();
    assert_eq!(served, [Some(last), Some(own), Some(near), Some(low), Some(far), None]);
}

/// Those shards share a pool's bounds that were used between the last two ticks; of the others each has its part among all that are
/// known.
#[test]
fn a_processor_carves_what_was_restored_there() {
    let mut world = World::new(64);
    let [first, second] = [(); 2].map(|()| world.carve(world.info().chunks));
    let homes = [5, 2].map(|processor| world.shards.home(processor));
    for (home, chunk) in homes.iter().zip([first[9], second[4]]) {
        Pool { home: *home, ..world.pool() }.restore(&mut [chunk], 0);
    }
    let carve = |home| {
        let mut got = 0;
        let count = Pool { home, ..world.pool() }.carve(Portion::any(1), 0, |chunk, _| got = chunk);
        assert_eq!(count, 1);
        got
    };
    assert_eq!(carve(homes[0]), first[9], "its own, though another's was listed later");
    assert_eq!(carve(homes[0]), second[4], "what there is elsewhere, before a span is opened");
    world.check();
}

#[test]
fn what_is_used_shares_the_bounds() {
    let world = World::new(48);
    let bound = POOL_BYTES / world.info().magazine_bytes();
    let now = || [0, 1, 2, 9].map(|home| world.shards.bound(world.class, home) as usize);
    let bounds = |used: &[u32]| {
        for processor in used {
            assert!(world.drain(world.shards.home(*processor), world.magazines.take().unwrap()));
        }
        world.shards.tick(world.class, &world.magazines);
        now()
    };
    assert_eq!(now(), [bound; 4], "nobody has been there");
    assert_eq!(bounds(&[0]), [bound; 4]);
    assert_eq!(bounds(&[0, 1]), [bound / 2; 4]);
    assert_eq!(bounds(&[1]), [bound / 2, bound, bound / 2, bound / 2]);
    assert_eq!(bounds(&[1, 2, 9]), [bound / 4; 4]);
    assert_eq!(bounds(&[2]), [bound / 4, bound / 4, bound, bound / 4], "one has all again");
    assert_eq!(bounds(&[]), [bound / 4; 4]);
}

/// All shards are filled at once, of which one alone was used before: they hold twice the bound at most, and half as soon as it is
/// known how many they are.
#[test]
fn many_that_come_at_once_have_twice_the_bound_at_most() {
    let world = World::new(4096);
    let bound = POOL_BYTES / world.info().magazine_bytes();
    let fill = || {
        for processor in (0..SHARDS as u32).rev() {
            let home = world.shards.home(processor);
            while world.drain(home, world.magazines.take().unwrap()) {}
        }
        world.depth() as usize
    };
    assert!(world.drain(world.shards.home(0), world.magazines.take().unwrap()));
    (1..SHARDS as u32).for_each(|processor| assert_eq!(world.shards.home(processor), processor));
    world.shards.tick(world.class, &world.magazines);
    assert_eq!(fill(), bound + (SHARDS - 1) * bound / SHARDS);
    while world.shards.take(world.class, &world.magazines).is_some() {}
    // Asked for as well, so that it is no burst.
    (0..SHARDS as u32).for_each(|home| (0..bound).for_each(|_| assert!(world.refill(home).is_none())));
    world.shards.tick(world.class, &world.magazines);
    assert_eq!(fill(), bound);
    while world.shards.take(world.class, &world.magazines).is_some() {}
}

/// Many more drains than refills make a burst, in which the pool keeps one magazine; a quiet period ends it.
#[test]
fn a_burst_leaves_one_magazine() {
    let world = World::new(4096);
    let one = || world.magazines.take().unwrap();
    let drain = |times: usize| (0..times).filter(|_| world.drain(0, one())).count();
    drain(16);
    world.shards.tick(world.class, &world.magazines);
    assert!(!world.shards.in_burst(world.class, 0), "16 are none yet");
    drain(17);
    world.shards.tick(world.class, &world.magazines);
    assert!(world.shards.in_burst(world.class, 0));
    while world.shards.take(world.class, &world.magazines).is_some() {}
    assert_eq!(drain(5), 1);
    world.shards.tick(world.class, &world.magazines);
    assert!(!world.shards.in_burst(world.class, 0));
    drain(24);
    world.refill(0);
    world.shards.tick(world.class, &world.magazines);
    assert!(!world.shards.in_burst(world.class, 0), "one refill is worth eight drains");
    drain(25);
    world.refill(0);
    world.shards.tick(world.class, &world.magazines);
    assert!(world.shards.in_burst(world.class, 0));
}

#[test]
fn carve_takes_the_lowest_of_the_span_on_top_and_then_of_the_next() {
    let mut world = World::new(4096);
    let all: Vec<Vec<usize>> = (0..3).map(|_| world.carve(16)).collect();
    assert!(all.iter().all(|chunks| chunks.len() == 16 && chunks.is_sorted()));
    world.restore(&[all[0][5], all[0][3]]);
    world.restore(&[all[1][2], all[1][15], all[2][0]]);
    assert_eq!(world.carve(4), [all[2][0], all[1][2], all[1][15], all[0][3]]);
    assert_eq!(world.carve(4), [all[0][5]], "what there is; nothing is opened for the rest");
    world.check();
    assert_eq!(world.spans.live().count(), 3);
    assert_eq!(world.carve(1).len(), 1);
    assert_eq!(world.spans.live().count(), 4);
}

/// A carve visits a bounded number of spans, however many have a single free chunk.
#[test]
fn carve_visits_few_spans() {
    let mut world = World::new(4096);
    let spans: Vec<Vec<usize>> = (0..40).map(|_| world.carve(16)).collect();
    spans.iter().for_each(|chunks| world.restore(&chunks[..1]));
    assert_eq!(world.carve(64).len(), CARVE_SPANS as usize);
    world.check();
}

/// Tombstones on top are cleared away in passing, and do not hide what lies below for long.
#[test]
fn tombstones_go_as_they_are_met() {
    let mut world = World::new(4096);
    let spans: Vec<Vec<usize>> = (0..100).map(|_| world.carve(16)).collect();
    world.restore(&spans[0][..1]);
    for chunks in &spans[1..] {
        world.restore(&chunks[..1]);
        world.restore(&chunks[1..]);
    }
    world.check();
    assert_eq!(world.spans.live().count(), 1);
    let nodes = world.spans.nodes(world.class);
    let free = || nodes.free_nodes().unwrap();
    assert_eq!((nodes.made(), free()), (100, 0), "tombstones are in the stack");
    world.pool().reap(30, 0);
    assert_eq!(free(), 30);
    let mut opened = 0;
    while world.carve(16) != [spans[0][0]] {
        opened += 1;
        assert!(opened < 4, "the chunk below is found after a few carves");
    }
    world.check();
    world.pool().reap(1000, 0);
    world.check();
    assert_eq!(world.spans.nodes(world.class).free_nodes(), Some(100 - world.spans.live().count()));
}

#[test]
fn reap_lists_again_what_it_meets() {
    let mut world = World::new(4096);
    let chunks = world.carve(16);
    world.restore(&chunks[..4]);
    for _ in 0..3 {
        world.pool().reap(100, 0);
        world.check();
    }
    assert_eq!(world.carve(16), chunks[..4]);
}

#[test]
fn without_memory_a_carve_gives_nothing_or_what_is_listed() {
    let mut world = World::new(4096);
    let failing = world.system.failing(0, u64::MAX);
    assert!(world.carve(3).is_empty());
    drop(failing);
    let chunks = world.carve(16);
    world.restore(&chunks[..2]);
    let _failing = world.system.failing(0, u64::MAX);
    assert_eq!(world.carve(16), chunks[..2]);
    assert!(world.carve(16).is_empty());
    world.check();
}

#[derive(Clone, Debug)]
enum Op {
    Carve(usize),
    Restore(usize, usize),
    Drain(usize),
    Refill(u32),
    Tick,
    Reap(usize),
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1usize..65).prop_map(Op::Carve),
        6 => (any::<usize>(), 1usize..200).prop_map(|(at, count)| Op::Restore(at, count)),
        4 => any::<usize>().prop_map(Op::Drain),
        5 => (0u32..4).prop_map(Op::Refill),
        2 => Just(Op::Tick),
        1 => (0usize..10).prop_map(Op::Reap),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pool_does_what_its_model_does(
        size in prop::sample::select(std::vec![8usize, 48, 512, 3000, 20 << 10, 256 << 10]),
        ops in prop::collection::vec(ops(), 1..150),
    ) {
        let mut world = World::new(size);
        let slots = world.info().slots;
        let mut stacks: [Vec<Index>; 4] = Default::default();
        let mut lows = [0; 4];
        for op in ops {
            match op {
                Op::Carve(want) if world.out.len() < 2000 => {
                    prop_assert!(!world.carve(want).is_empty());
                }
                Op::Restore(at, count) => {
                    // Those in the pool's magazines are not the test's to restore.
                    let pooled: BTreeSet<usize> = stacks.iter().flatten().flat_map(|index| {
                        let magazine = world.magazines.get(*index);
                        magazine.slots()[..magazine.count()].iter().map(|slot| slot.get()).collect::<Vec<_>>()
                    }).collect();
                    let mut free: Vec<usize> = world.out.iter().copied().filter(|at| !pooled.contains(at)).collect();
                    let at = at % (free.len() + 1);
                    free.rotate_left(at);
                    free.truncate(count);
                    world.restore(&free);
                }
                Op::Drain(count) if world.out.len() < 2000 => {
                    let index = world.magazine(1 + count % slots);
                    let home = world.shards.home(count as u32 % 4);
                    let stack = &mut stacks[home as usize];
                    let bound = world.shards.bound(world.class, home) as usize;
                    let taken = world.drain(home, world.magazines.get(index));
                    prop_assert_eq!(taken, stack.len() < bound);
                    if taken {
                        stack.push(index);
                    } else {
                        dissolve(&mut world, index);
                    }
                }
                Op::Refill(home) => {
                    let home = world.shards.home(home) as usize;
                    let popped = world.refill(home as u32).map(Magazine::index);
                    let from = (0..4).map(|step| home ^ step).find(|at| !stacks[*at].is_empty()).unwrap_or(home);
                    prop_assert_eq!(popped, stacks[from].pop());
                    lows[from] = lows[from].min(stacks[from].len());
                    if let Some(index) = popped {
                        dissolve(&mut world, index);
                    }
                }
                Op::Tick => {
                    world.shards.tick(world.class, &world.magazines);
                    for (stack, low) in stacks.iter_mut().zip(&mut lows) {
                        let unneeded = (*low).min(stack.len());
                        *low = stack.len();
                        for _ in 0..if unneeded > 16 { unneeded.div_ceil(2) } else { unneeded } {
                            let surplus = world.shards.take_surplus(world.class, &world.magazines).map(Magazine::index);
                            prop_assert_eq!(surplus, stack.pop());
                            *low = stack.len();
                            dissolve(&mut world, surplus.unwrap());
                        }
                    }
                    prop_assert!(world.shards.take_surplus(world.class, &world.magazines).is_none());
                }
                Op::Reap(limit) => world.pool().reap(limit, 0),
                _ => {}
            }
            prop_assert_eq!(world.depth() as usize, stacks.iter().map(Vec::len).sum::<usize>());
            world.check();
        }
        while let Some(index) = stacks.iter_mut().find_map(Vec::pop) {
            prop_assert_eq!(world.shards.take(world.class, &world.magazines).map(Magazine::index), Some(index));
            dissolve(&mut world, index);
        }
        let rest = world.out.clone();
        world.restore(&rest);
        world.check();
        world.pool().reap(usize::MAX, 0);
        prop_assert_eq!(world.spans.live().count(), 0);
        let nodes = world.spans.nodes(world.class);
        prop_assert_eq!(nodes.free_nodes(), Some(nodes.made() as usize));
        prop_assert_eq!(world.spans.arenas.committed().load(Ordering::Relaxed), world.spans.arenas.dirty());
    }
}

/// Restores what a magazine in hand holds.
fn dissolve(world: &mut World, index: Index) {
    let magazine = world.magazines.get(index);
    let chunks: Vec<usize> = magazine.slots()[..magazine.count()].iter().map(|slot| slot.get()).collect();
    world.out.retain(|chunk| !chunks.contains(chunk));
    world.pool().restore_all(magazine, 0);
    assert_eq!(magazine.count(), 0);
    world.magazines.give(index);
}

/// Restores chunks of 96 bytes that `spoil` has made wrong.
fn misuse(spoil: impl FnOnce(&mut World, &mut Vec<usize>)) {
    let mut world = World::new(96);
    let mut chunks = world.carve(20);
    spoil(&mut world, &mut chunks);
    world.pool().restore(&mut chunks, 0);
}

#[test]
#[should_panic(expected = "millpond: double free of 0x")]
fn twice_in_one_magazine() {
    misuse(|_, chunks| chunks[7] = chunks[3]);
}

#[test]
#[should_panic(expected = "millpond: double free of 0x")]
fn twice_in_two_magazines() {
    misuse(|world, chunks| world.restore(&chunks[4..5]));
}

#[test]
#[should_panic(expected = "where no allocation begins")]
fn inside_a_chunk() {
    misuse(|_, chunks| chunks[19] += 8);
}

#[test]
#[should_panic(expected = "where no allocation begins")]
fn behind_the_last_chunk() {
    misuse(|world, chunks| {
        assert!(world.info().tail() > 0);
        chunks[0] += world.info().chunks * 96;
    });
}

#[test]
#[should_panic(expected = "with a size that is not its own")]
fn of_another_class() {
    misuse(|world, chunks| {
        let class = at_place(place_of(4096, 1).unwrap());
        Pool { class, ..world.pool() }.carve(Portion::any(1), 0, |chunk, _| chunks.push(chunk));
    });
}

#[test]
#[should_panic(expected = "which is not an allocation of Millpond's")]
fn of_nobody() {
    misuse(|_, chunks| chunks.push(&raw const *chunks as usize));
}

#[test]
#[should_panic(expected = "which is not an allocation of Millpond's")]
fn beyond_all_addresses() {
    misuse(|_, chunks| chunks.push(usize::MAX));
}

#[test]
#[should_panic(expected = "which is not an allocation of Millpond's")]
fn after_the_span_is_gone() {
    misuse(|world, chunks| {
        let kept = chunks.clone();
        world.restore(&kept);
    });
}
