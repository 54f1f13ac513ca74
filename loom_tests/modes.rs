//! Records and their indices: found once they are made, removed and ended by one only, read whole or not at all.

use super::spawn;
use crate::modes::{Birth, Index, Misuse, Record, Tracker};
use crate::slab::Slab;
use crate::sync::Slot;
use std::prelude::v1::*;
use std::rc::Rc;

fn birth(size: usize) -> Birth {
    Birth { size, align: 8, thread: 1, now: 0, tag: "" }
}

struct World {
    index: Index,
    payload: Slot,
}

impl World {
    fn new() -> Rc<Self> {
        Rc::new(Self { index: Index::new(), payload: Slot::new(0) })
    }
}

/// One inserts an entry, and with it what its number stands for; another, that has the key, looks for it.
pub fn find_against_insert() {
    let world = World::new();
    let other = spawn(&world, |world| {
        world.payload.set(7);
        assert!(world.index.insert(5, 1), "there is memory");
    });
    assert!(world.index.insert(6, 2), "there is memory");
    if world.index.find(5, |number| number == 1).is_some() {
        assert_eq!(world.payload.get(), 7, "what the number stands for is there");
    }
    other.join();
    assert_eq!(world.index.find(5, |number| number == 1), Some(1), "each entry is found");
    assert_eq!(world.index.find(6, |number| number == 2), Some(2), "each entry is found");
}

/// Two insert more than there is room for, and so add levels.
pub fn two_make_it_grow() {
    let world = World::new();
    let other = spawn(&world, |world| assert!(world.index.insert(1, 1) && world.index.insert(2, 2), "there is memory"));
    assert!(world.index.insert(3, 3) && world.index.insert(4, 4), "there is memory");
    other.join();
    for key in 1..5 {
        assert_eq!(world.index.find(key, |number| number == key as u32), Some(key as u32), "each entry is found");
        assert!(world.index.remove(key, key as u32), "each entry is in one place");
        assert_eq!(world.index.find(key, |number| number == key as u32), None, "and is gone");
    }
}

/// Two remove the same entry.
pub fn two_remove() {
    let world = World::new();
    assert!(world.index.insert(5, 1), "there is memory");
    let other = spawn(&world, |world| world.index.remove(5, 1));
    let mine = world.index.remove(5, 1);
    assert!(mine != other.join(), "one has removed it");
}

/// Two free the same allocation.
pub fn two_end() {
    let records = Rc::new(Slab::<Record>::new());
    let record = records.take().expect("the fake system gives memory");
    record.begin(1, 64, birth(10));
    let index = record.index();
    let other = spawn(&records, move |records| records.get(index).end(1, 2, 3));
    let mine = record.end(1, 3, 4);
    assert!(mine != other.join(), "one has freed it");
}

/// An allocation is freed, and another begins at its address, while a third thread asks what is there.
pub fn find_against_reuse() {
    let tracker = Rc::new(Tracker::new());
    assert_eq!(tracker.begin(64, birth(10)), Some(1), "the first ID");
    let other = spawn(&tracker, |tracker| {
        let seen = tracker.end(64, Some((10, 8)), 1, 5).expect("live");
        // Forgotten at once, so that its record is the next one's.
        tracker.retire(&seen);
        tracker.begin(64, birth(20))
    });
    if let Some(seen) = tracker.find(64) {
        assert!(matches!((seen.id, seen.size), (1, 10) | (2, 20)), "a record of two allocations: {seen:?}");
    }
    if let Some(seen) = tracker.find_id(2) {
        assert_eq!((seen.address, seen.size), (64, 20), "a record of two allocations: {seen:?}");
    }
    assert_eq!(other.join(), Some(2), "the second ID");
    assert_eq!(tracker.find(64).map(|seen| (seen.id, seen.is_live)), Some((2, true)), "the second is there");
    assert_eq!(tracker.find_id(1), None, "the first is not");
    assert_eq!(
        tracker.end(64, Some((10, 8)), 1, 7),
        Err(Misuse::Layout(tracker.find(64).expect("live"))),
        "its own size"
    );
}

/// An allocation begins where another was freed, whose record is retired meanwhile and then that of a third.
pub fn begin_against_retire() {
    let tracker = Rc::new(Tracker::new());
    assert_eq!(tracker.begin(64, birth(10)), Some(1), "the first ID");
    let freed = tracker.end(64, None, 1, 5).expect("live");
    let other = spawn(&tracker, move |tracker| {
        tracker.retire(&freed);
        tracker.begin(128, birth(20))
    });
    let mine = tracker.begin(64, birth(30));
    let theirs = other.join();
    let found = [64, 128].map(|address| tracker.find(address).map(|seen| (Some(seen.id), seen.size)));
    assert_eq!(found, [Some((mine, 30)), Some((theirs, 20))], "each allocation has its record");
}

/// One forgets the oldest free while another remembers one more than there is room for.
pub fn forget_against_remember() {
    let tracker = Rc::new(Tracker::new());
    let free = |address| {
        tracker.begin(address, birth(10)).expect("the fake system gives memory");
        tracker.end(address, None, 1, 5).expect("live")
    };
    let freed = [64, 128, 192].map(free);
    assert!(freed[..2].iter().all(|seen| tracker.remember(seen.index).is_none()), "there is room for two");
    let other = spawn(&tracker, move |tracker| tracker.remember(freed[2].index));
    let mine = tracker.forget_oldest();
    let mut had: Vec<usize> = mine.into_iter().chain(other.join()).map(|seen| seen.address).collect();
    tracker.forget_all(|seen| had.push(seen.address));
    had.sort_unstable();
    assert_eq!(had, [64, 128, 192], "each free is had once");
}
