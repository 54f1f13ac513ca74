//! A thread's cache against a plain model of its bins, spares and empties; its owners; its charge.

use super::{Owner, ThreadCache};
use crate::config::{CACHE_BYTES, EMPTIES, FIRST_CARVE, LINE, SPARES};
use crate::os::fake::System;
use crate::pool::{Magazine, Magazines, Portion};
use crate::size_class::{CLASSES, Class, INFO, at_place, place_of};
use crate::slab::{Node, Slab};
use crate::sync::stepped::vanishing;
use crate::tagged::Index;
use core::ptr::{NonNull, without_provenance_mut};
use proptest::prelude::*;
use std::boxed::Box;
use std::vec::Vec;

fn class_of(size: usize) -> Class {
    at_place(place_of(size, 1).unwrap())
}

/// What the model knows of a class's part.
#[derive(Debug, Default)]
struct Bin {
    /// The loaded magazine and what it holds.
    loaded: Option<(Index, Vec<usize>)>,
    armed: bool,
    /// From the oldest, with the chunks in each.
    spares: Vec<(Index, Vec<usize>)>,
    stamp: u16,
}

struct World {
    magazines: Magazines,
    cache: Box<ThreadCache>,
    bins: Vec<Bin>,
    empties: Vec<Index>,
    /// Magazines of the slab that are not free: some are made free.
    taken: usize,
    next_chunk: usize,
    now: u32,
}

impl World {
    fn new() -> Self {
        System::fresh();
        let cache = Box::new(ThreadCache::new());
        cache.name(1);
        cache.join(7);
        Self {
            magazines: Magazines::new(),
            cache,
            bins: (0..CLASSES).map(|_| Bin::default()).collect(),
            empties: Vec::new(),
            taken: 0,
            next_chunk: 0x1000,
            now: 0,
        }
    }

    /// Addresses that are nobody's: a cache never follows them.
    fn chunk(&mut self) -> usize {
        self.next_chunk += 8;
        self.next_chunk
    }

    fn magazine(&mut self, count: usize) -> (Index, Vec<usize>) {
        let chunks: Vec<usize> = (0..count).map(|_| self.chunk()).collect();
        let magazine = self.magazines.take().unwrap();
        self.taken += 1;
        magazine.slots().iter().zip(&chunks).for_each(|(slot, chunk)| slot.set(*chunk));
        magazine.set_count(count);
        (magazine.index(), chunks)
    }

    fn holds(&self, index: Index, chunks: &[usize]) {
        let magazine = self.magazines.get(index);
        assert!(magazine.slots()[..magazine.count()].iter().map(|slot| slot.get()).eq(chunks.iter().copied()));
    }

    fn give(&mut self, index: Index) {
        self.magazines.get(index).set_count(0);
        self.magazines.give(index);
        self.taken -= 1;
    }

    fn push(&mut self, class: Class) {
        let chunk = self.chunk();
        let taken = self.cache.bin(class).push(NonNull::new(without_provenance_mut(chunk)).unwrap());
        let bin = &mut self.bins[class];
        let room = bin.loaded.as_mut().filter(|(_, chunks)| chunks.len() < INFO[class].slots);
        assert_eq!(taken, room.is_some());
        if let Some((_, chunks)) = room {
            chunks.push(chunk);
        }
    }

    fn pop(&mut self, class: Class) {
        let bin = &mut self.bins[class];
        let expected = bin.loaded.as_mut().filter(|_| !bin.armed).and_then(|(_, chunks)| chunks.pop());
        assert_eq!(self.cache.bin(class).pop().map(|chunk| chunk.addr().get()), expected);
    }

    fn load(&mut self, class: Class, count: usize) {
        self.unload(class);
        let (index, chunks) = self.magazine(count % (INFO[class].slots + 1));
        self.cache.load(class, self.magazines.get(index));
        self.bins[class].loaded = Some((index, chunks));
    }

    fn unload(&mut self, class: Class) {
        let unloaded = self.cache.unload(class, &self.magazines).map(Magazine::index);
        let bin = &mut self.bins[class];
        bin.armed = false;
        let was = bin.loaded.take();
        assert_eq!(unloaded, was.as_ref().map(|(index, _)| *index));
        if let Some((index, chunks)) = was {
            self.holds(index, &chunks);
            self.give(index);
        }
    }

    fn put_spare(&mut self, class: Class) {
        let (index, chunks) = self.magazine(INFO[class].slots);
        let taken = self.cache.put_spare(class, self.magazines.get(index), self.now);
        assert_eq!(taken, self.bins[class].spares.len() < SPARES as usize);
        self.bins[class].stamp = self.now as u16;
        if taken {
            self.bins[class].spares.push((index, chunks));
        } else {
            self.give(index);
        }
    }

    fn take_spare(&mut self, class: Class) {
        let taken = self.cache.take_spare(class, &self.magazines, self.now).map(Magazine::index);
        let expected = self.bins[class].spares.pop();
        assert_eq!(taken, expected.as_ref().map(|(index, _)| *index));
        if let Some((index, chunks)) = expected {
            self.bins[class].stamp = self.now as u16;
            self.holds(index, &chunks);
            self.give(index);
        }
    }

    fn steal(&mut self, class: Class, rest: u16) {
        let now = self.now as u16;
        let rested = |stamp: u16| now.wrapping_sub(stamp) >= rest;
        let mut stolen = Vec::new();
        self.cache.steal_spares(class, &self.magazines, rested, |magazine| stolen.push(magazine.index()));
        self.cache.note_theft();
        if rested(self.bins[class].stamp) {
            let spares = core::mem::take(&mut self.bins[class].spares);
            assert!(stolen.iter().eq(spares.iter().rev().map(|(index, _)| index)), "the last first");
            for (index, chunks) in spares {
                self.holds(index, &chunks);
                self.give(index);
            }
        } else {
            assert!(stolen.is_empty(), "they have not rested");
        }
    }

    fn check(&self) {
        assert!(self.cache.check(&self.magazines));
        for (class, bin) in self.bins.iter().enumerate() {
            let loaded = self.cache.loaded(class, &self.magazines);
            assert_eq!(loaded.map(Magazine::index), bin.loaded.as_ref().map(|(index, _)| *index));
            if let (Some(magazine), Some((_, chunks))) = (loaded, &bin.loaded) {
                assert_eq!(self.cache.loaded_count(class, magazine), chunks.len());
            }
            assert_eq!(self.cache.spare_count(class), bin.spares.len());
            let mut walked = Vec::new();
            self.cache.walk_spares(class, &self.magazines, |magazine| walked.push(magazine.index()));
            assert!(walked.iter().eq(bin.spares.iter().rev().map(|(index, _)| index)));
        }
        assert_eq!(self.cache.empties(), self.empties.len());
        let mut walked = Vec::new();
        self.cache.walk_empties(&self.magazines, |magazine| walked.push(magazine.index()));
        assert!(walked.iter().eq(self.empties.iter().rev()));
        assert_eq!(self.magazines.free_nodes(), Some(self.magazines.made() as usize - self.taken));
    }
}

#[derive(Clone, Debug)]
enum Op {
    Push(Class),
    Pop(Class),
    Arm,
    Disarm(Class),
    Load(Class, usize),
    Unload(Class),
    PutSpare(Class),
    TakeSpare(Class),
    Steal(Class, u16),
    PutEmpty,
    TakeEmpty,
    GiveEmpties,
    Later(u32),
}

fn ops() -> impl Strategy<Value = Op> {
    let class = || prop::sample::select(std::vec![class_of(8), class_of(1280), class_of(256 << 10)]);
    let empties = prop_oneof![4 => Just(Op::PutEmpty), 2 => Just(Op::TakeEmpty), 1 => Just(Op::GiveEmpties)];
    prop_oneof![
        6 => class().prop_map(Op::Push),
        6 => class().prop_map(Op::Pop),
        3 => prop_oneof![1 => Just(Op::Arm), 2 => class().prop_map(Op::Disarm)],
        2 => (class(), any::<usize>()).prop_map(|(class, count)| Op::Load(class, count)),
        1 => class().prop_map(Op::Unload),
        4 => class().prop_map(Op::PutSpare),
        2 => class().prop_map(Op::TakeSpare),
        1 => (class(), 0u16..4).prop_map(|(class, rest)| Op::Steal(class, rest)),
        3 => empties,
        2 => prop_oneof![0u32..3, Just(0xffff)].prop_map(Op::Later),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_cache_does_what_its_model_does(ops in prop::collection::vec(ops(), 1..300)) {
        let mut world = World::new();
        for op in ops {
            match op {
                Op::Push(class) => world.push(class),
                Op::Pop(class) => world.pop(class),
                Op::Arm => {
                    world.cache.arm(0..CLASSES);
                    world.bins.iter_mut().for_each(|bin| bin.armed = bin.loaded.is_some());
                }
                Op::Disarm(class) => {
                    let was = world.cache.disarm(class, &world.magazines);
                    prop_assert_eq!(was, core::mem::take(&mut world.bins[class].armed));
                }
                Op::Load(class, count) => world.load(class, count),
                Op::Unload(class) => world.unload(class),
                Op::PutSpare(class) => world.put_spare(class),
                Op::TakeSpare(class) => world.take_spare(class),
                Op::Steal(class, rest) => world.steal(class, rest),
                Op::PutEmpty => {
                    let (index, _) = world.magazine(0);
                    world.cache.put_empty(&world.magazines, world.magazines.get(index));
                    if world.empties.len() < EMPTIES as usize {
                        world.empties.push(index);
                    } else {
                        world.taken -= 1;
                    }
                }
                Op::TakeEmpty => {
                    let taken = world.cache.take_empty(&world.magazines).unwrap().index();
                    match world.empties.pop() {
                        Some(expected) => prop_assert_eq!(taken, expected),
                        None => world.taken += 1,
                    }
                    world.give(taken);
                }
                Op::GiveEmpties => {
                    world.cache.give_empties(&world.magazines);
                    world.taken -= world.empties.len();
                    world.empties.clear();
                }
                Op::Later(ticks) => world.now = world.now.wrapping_add(ticks),
            }
            world.check();
        }
    }
}

#[test]
fn a_cache_without_magazines_misses_both_ways() {
    let mut world = World::new();
    for class in 0..CLASSES {
        world.push(class);
        world.pop(class);
        assert!(!world.cache.disarm(class, &world.magazines));
    }
    world.cache.arm(0..CLASSES);
    world.check();
}

/// The child of a fork adopts it, whatever its owner was about, and the next owner may begin with a free.
#[test]
fn bins_miss_both_ways_once_they_are_unloaded_wherever_their_owner_vanished() {
    let acts: [fn(&World, Class); 2] = [
        |world, class| _ = world.cache.unload(class, &world.magazines),
        |world, class| {
            let magazine = world.cache.unload(class, &world.magazines).unwrap();
            world.cache.load(class, magazine);
        },
    ];
    for act in acts {
        let vanished = |step| {
            let mut world = World::new();
            let class = class_of(64);
            world.load(class, 5);
            let steps = vanishing(step, || act(&world, class));
            let left = world.cache.unload(class, &world.magazines).map(Magazine::count);
            assert!(left.is_none_or(|count| count == 5), "at step {step}: {left:?}");
            let bin = &world.cache.bins[class];
            let words = [&bin.top, &bin.bottom, &bin.limit].map(|word| word.load(super::Ordering::Relaxed));
            assert!(words.iter().all(|word| word.is_null()), "at step {step}: {words:?}");
            steps
        };
        let steps = vanished(u64::MAX).unwrap();
        (0..steps).for_each(|step| assert!(vanished(step).is_none()));
    }
}

/// Chunks that the loaded and spare magazines can hold, over all classes.
fn capacity(cache: &ThreadCache) -> usize {
    let magazines =
        |class| cache.spare_count(class) + (cache.bins[class].loaded.load(super::Ordering::Relaxed) != 0) as usize;
    (0..CLASSES).map(|class| magazines(class) * INFO[class].magazine_bytes()).sum()
}

#[test]
fn the_charge_is_bounded_and_counted_anew_when_thieves_were_there() {
    let mut world = World::new();
    let classes = [class_of(1024), class_of(2048), class_of(4096), class_of(8192)];
    let bytes = INFO[classes[0]].magazine_bytes();
    for at in 0.. {
        let class = classes[at % 4];
        assert_eq!(INFO[class].magazine_bytes(), bytes);
        if !world.cache.charge(bytes) {
            break;
        }
        world.put_spare(class);
        assert!(capacity(&world.cache) <= CACHE_BYTES);
    }
    assert_eq!(capacity(&world.cache), CACHE_BYTES);
    assert!(!world.cache.charge(1), "full");
    world.steal(classes[2], 0);
    let free = CACHE_BYTES - capacity(&world.cache);
    assert!(free > 0 && !world.cache.charge(free + 1));
    assert!(world.cache.charge(free), "what was stolen is not held any more");
    world.cache.discharge(free);
    world.cache.discharge(usize::MAX);
    assert!(world.cache.charge(CACHE_BYTES), "nothing is charged");
}

#[test]
fn victims_come_in_turn_and_have_something() {
    let mut world = World::new();
    assert_eq!(world.cache.next_victim(0), None);
    let (small, middle, large) = (class_of(8), class_of(1024), class_of(256 << 10));
    world.load(small, 3);
    world.put_spare(middle);
    world.load(large, 1);
    let turn: Vec<Option<Class>> = (0..4).map(|_| world.cache.next_victim(usize::MAX)).collect();
    assert_eq!(turn, [Some(middle), Some(large), Some(small), Some(middle)]);
    assert_eq!(world.cache.next_victim(large), Some(small));
    world.unload(small);
    world.unload(large);
    assert_eq!(world.cache.next_victim(middle), None);
}

#[test]
fn the_mark_is_put_with_a_spare_and_taken_once() {
    let mut world = World::new();
    assert!(!world.cache.take_mark());
    world.put_spare(3);
    assert!(world.cache.take_mark() && !world.cache.take_mark());
    world.cache.put_mark();
    assert!(world.cache.take_mark());
}

#[test]
fn a_cache_is_adopted_once_and_only_from_the_owner_who_was_seen() {
    let cache = ThreadCache::new();
    assert!(cache.owner().is_none() && !cache.is_adopted());
    cache.join(7);
    let first: Owner = cache.owner().unwrap();
    assert_eq!(first.thread(), 7);
    cache.leave();
    assert!(cache.owner().is_none() && !cache.adopt(first));
    cache.join(7);
    assert!(!cache.adopt(first), "the same number, another thread");
    let second = cache.owner().unwrap();
    assert!(cache.adopt(second) && cache.is_adopted() && cache.owner().is_none());
    assert!(!cache.adopt(second));
    cache.leave();
    assert!(!cache.is_adopted());
    // The count of owners wraps and leaves the rest alone.
    for _ in 0..5 {
        cache.join(u32::MAX);
        assert_eq!(cache.owner().unwrap().thread(), u32::MAX);
        cache.leave();
    }
}

#[test]
fn portions_grow_from_few_chunks_to_a_magazine_and_anew_for_each_owner() {
    let cache = ThreadCache::new();
    for _ in 0..2 {
        cache.join(1);
        for (class, info) in INFO.iter().enumerate() {
            assert_eq!(cache.is_stranger(class), info.size < LINE);
            let Portion { chunks: mut last, lines } = cache.portion(class);
            assert!((1..=info.slots).contains(&last), "{info:?}");
            if lines {
                assert!(last * info.size % LINE == 0 && last * info.size < FIRST_CARVE + 8 * info.size, "{info:?}");
            } else {
                assert!(info.size >= LINE && (last == 1 || last * info.size <= FIRST_CARVE), "{info:?}");
            }
            for _ in 0..7 {
                let Portion { chunks: next, lines } = cache.portion(class);
                assert!(!lines);
                assert_eq!(next, (2 * last).min(info.slots));
                last = next;
            }
            assert_eq!(last, info.slots);
        }
    }
}
