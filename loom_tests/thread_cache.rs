//! Spare magazines: put and taken by their owner, taken by thieves, each of them once.

use super::{Thread, spawn};
use crate::config::CACHE_BYTES;
use crate::pool::{Magazine, Magazines};
use crate::size_class::{Class, INFO};
use crate::slab::Slab;
use crate::thread_cache::ThreadCache;
use core::ptr::{NonNull, with_exposed_provenance_mut};
use std::prelude::v1::*;
use std::rc::Rc;

const CLASS: Class = 0;
/// The address of a chunk, in name.
const CHUNK: usize = 64;

struct World {
    cache: ThreadCache,
    magazines: Magazines,
}

impl World {
    /// Takes an empty magazine and fills it, in name.
    fn fill(&self) -> &Magazine {
        let magazine = self.magazines.take().expect("the fake system gives memory");
        magazine.set_count(1);
        magazine.slots()[0].set(magazine.index() as usize);
        magazine
    }

    /// Empties a magazine whose chunks are the caller's now, and returns which it was.
    fn empty(&self, magazine: &Magazine) -> usize {
        let slot = &magazine.slots()[0];
        assert_eq!((magazine.count(), slot.get()), (1, magazine.index() as usize), "a magazine is not what it was");
        magazine.set_count(0);
        slot.set(0);
        magazine.index() as usize
    }

    fn steal(&self) -> Vec<usize> {
        let mut stolen = Vec::new();
        self.cache.steal_spares(CLASS, &self.magazines, |_| true, |spare| stolen.push(self.empty(spare)));
        stolen
    }
}

/// The owner puts two spares and takes one, while a thief takes what there is.
pub fn steal_against_put_and_take() {
    let world = Rc::new(World { cache: ThreadCache::new(), magazines: Magazines::new() });
    let (one, two) = (world.fill(), world.fill());
    let thief = spawn(&world, World::steal);
    let World { cache, magazines } = &*world;
    // Written to only now: the thief has it from the chain alone.
    one.set_count(1);
    assert!(cache.put_spare(CLASS, one, 0), "there is room for a spare");
    assert!(cache.put_spare(CLASS, two, 0), "there is room for another spare");
    let mut all: Vec<usize> =
        cache.take_spare(CLASS, magazines, 0).map(|spare| world.empty(spare)).into_iter().collect();
    all.extend(thief.join());
    all.extend(world.steal());
    all.sort_unstable();
    assert_eq!(all, [1, 2], "each magazine is in one place");
    assert_eq!(cache.spare_count(CLASS), 0, "no spare is left");
}

/// Two thieves take the spares of an owner who puts one more.
pub fn two_steal() {
    let world = Rc::new(World { cache: ThreadCache::new(), magazines: Magazines::new() });
    let (one, two) = (world.fill(), world.fill());
    assert!(world.cache.put_spare(CLASS, one, 0), "there is room for a spare");
    let thieves = [spawn(&world, World::steal), spawn(&world, World::steal)];
    assert!(world.cache.put_spare(CLASS, two, 0), "there is room for another spare");
    let mut all: Vec<usize> = thieves.into_iter().flat_map(|thief| thief.join()).collect();
    all.extend(world.steal());
    all.sort_unstable();
    assert_eq!(all, [1, 2], "each magazine is in one place");
}

/// A cache with two spares, and a thread that counts what it finds in them.
fn with_walker() -> (Rc<World>, Thread<usize>) {
    let world = Rc::new(World { cache: ThreadCache::new(), magazines: Magazines::new() });
    for spare in [world.fill(), world.fill()] {
        assert!(world.cache.put_spare(CLASS, spare, 0), "there is room for a spare");
    }
    let walker = spawn(&world, |world| {
        let mut count = 0;
        world.cache.walk_spares(CLASS, &world.magazines, |spare| count += spare.peek_count());
        count
    });
    (world, walker)
}

/// Another thread looks at the spares while their owner takes them all and puts one back on top of a new one: a look that
/// found the old one there goes on to the new one.
pub fn walk_against_put_and_take() {
    let (world, walker) = with_walker();
    let World { cache, magazines } = &*world;
    let take = || cache.take_spare(CLASS, magazines, 0).expect("nobody steals");
    let (top, _) = (take(), take());
    // The first of the slab's second segment.
    assert!(cache.put_spare(CLASS, world.fill(), 0), "there is room for a spare");
    assert!(cache.put_spare(CLASS, top, 0), "there is room for another spare");
    assert!(walker.join() <= 2, "no more are walked than there can be");
    assert_eq!(world.steal().len(), 2, "each magazine is in one place");
}

/// A thief takes the spares that the mark tells of, while their owner puts one more: if one is left, so is the mark.
pub fn mark_against_put() {
    let world = Rc::new(World { cache: ThreadCache::new(), magazines: Magazines::new() });
    let (one, two) = (world.fill(), world.fill());
    assert!(world.cache.put_spare(CLASS, one, 0), "there is room for a spare");
    let thief = spawn(&world, |world| if world.cache.take_mark() { world.steal() } else { Vec::new() });
    assert!(world.cache.put_spare(CLASS, two, 0), "there is room for another spare");
    let stolen = thief.join().len();
    assert_eq!(stolen + world.cache.spare_count(CLASS), 2, "each magazine is in one place");
    assert!(stolen == 2 || world.cache.take_mark(), "spares that no mark tells of");
}

/// A thief takes the spares that the mark tells of while another puts it back, since he has left some: if one is left, so is the mark.
pub fn mark_against_put_back() {
    let world = Rc::new(World { cache: ThreadCache::new(), magazines: Magazines::new() });
    let spare = world.fill();
    let thief = spawn(&world, |world| if world.cache.take_mark() { world.steal() } else { Vec::new() });
    let other = spawn(&world, |world| world.cache.put_mark_back());
    assert!(world.cache.put_spare(CLASS, spare, 0), "there is room for a spare");
    other.join();
    let stolen = thief.join().len();
    assert_eq!(stolen + world.cache.spare_count(CLASS), 1, "each magazine is in one place");
    assert!(stolen == 1 || world.cache.take_mark(), "spares that no mark tells of");
}

/// The owner counts anew what it holds, since some was stolen, while two thieves take the rest: that is seen, or they leave word of it.
pub fn recount_against_thefts() {
    let world = Rc::new(World { cache: ThreadCache::new(), magazines: Magazines::new() });
    let cache = &world.cache;
    for (class, info) in INFO.iter().enumerate() {
        assert!(cache.charge(info.magazine_bytes()), "there is room");
        assert!(cache.put_spare(class, world.fill(), 0), "there is room for a spare");
    }
    cache.note_theft();
    let thieves = [0, 1].map(|class| {
        spawn(&world, move |World { cache, magazines }| {
            cache.steal_spares(class, magazines, |_| true, |_| cache.note_theft());
        })
    });
    // All that a cache may hold: nothing else is held then.
    let is_had = cache.charge(CACHE_BYTES);
    thieves.into_iter().for_each(|thief| thief.join());
    assert!(is_had || cache.charge(CACHE_BYTES), "what was stolen is charged");
}

/// Another thread looks at the loaded magazine while the owner puts a chunk, unloads the magazine and loads it again: the
/// slots that it is told of are written.
pub fn look_against_push_and_load() {
    let world = Rc::new(World { cache: ThreadCache::new(), magazines: Magazines::new() });
    let World { cache, magazines } = &*world;
    cache.load(CLASS, magazines.take().expect("the fake system gives memory"));
    let other = spawn(&world, |World { cache, magazines }| {
        let Some(magazine) = cache.loaded(CLASS, magazines) else { return };
        for slot in &magazine.slots()[..cache.loaded_count(CLASS, magazine)] {
            assert_eq!(slot.get(), CHUNK, "a slot that is not written");
        }
    });
    assert!(cache.bin(CLASS).push(NonNull::new(with_exposed_provenance_mut(CHUNK)).expect("no null")), "there is room");
    let magazine = cache.unload(CLASS, magazines).expect("it is loaded");
    assert_eq!(magazine.count(), 1, "a chunk is in one place");
    cache.load(CLASS, magazine);
    other.join();
    assert_eq!(cache.loaded_count(CLASS, magazine), 1, "a chunk is in one place");
}

/// Another thread walks the spares while their owner takes them all and keeps one of them empty, on top of a new one: a walk
/// that stands at the old one goes on to the new one.
pub fn walk_against_put_empty() {
    let (world, walker) = with_walker();
    let World { cache, magazines } = &*world;
    let take = || cache.take_spare(CLASS, magazines, 0).expect("nobody steals");
    let (top, last) = (take(), take());
    // The first of the slab's second segment.
    cache.put_empty(magazines, magazines.take().expect("the fake system gives memory"));
    world.empty(top);
    cache.put_empty(magazines, top);
    assert!(walker.join() <= 2, "no more are walked than there can be");
    assert_eq!(cache.empties(), 2, "each magazine is in one place");
    cache.give_empties(magazines);
    magazines.give(last.index());
    assert_eq!(magazines.free_nodes(), Some(magazines.made() as usize), "each magazine is given back");
}

/// Another thread looks whether the loaded magazine is named while the owner loads it.
pub fn look_against_load() {
    let world = Rc::new(World { cache: ThreadCache::new(), magazines: Magazines::new() });
    let magazine = world.fill();
    let other = spawn(&world, |world| assert!(world.cache.bin(CLASS).is_named(), "bounds, and no name"));
    world.cache.load(CLASS, magazine);
    other.join();
}

/// The same while the owner lets it go.
pub fn look_against_unload() {
    let world = Rc::new(World { cache: ThreadCache::new(), magazines: Magazines::new() });
    world.cache.load(CLASS, world.fill());
    let other = spawn(&world, |world| assert!(world.cache.bin(CLASS).is_named(), "bounds, and no name"));
    assert!(world.cache.unload(CLASS, &world.magazines).is_some(), "it is loaded");
    other.join();
}
