//! Records and their indices: found once they are made, removed and ended by one only, read whole or not at all.

use super::spawn;
use crate::config::PAGE;
use crate::modes::{Birth, Ids, Index, Place, Places, Record, Tracker};
use crate::slab::Slab;
use crate::sync::{Ordering, Slot};
use crate::thread_cache::Lot;
use std::prelude::v1::*;
use std::rc::Rc;

fn birth(size: usize) -> Birth<'static> {
    Birth { size, align: 8, thread: 1, now: 0, tag: "", callers: &[] }
}

/// The first place of a page.
const fn place(page: usize) -> Place {
    Place { address: page * PAGE, word: 0 }
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
    record.begin(1, 1, 64, birth(10), 0);
    let index = record.index();
    let other = spawn(&records, move |records| records.get(index).end(1, 2, 3));
    let mine = record.end(1, 3, 4);
    assert!(mine != other.join(), "one has freed it");
}

/// An allocation is freed, and another begins at its address, while a third thread asks what is there.
pub fn find_against_reuse() {
    let tracker = Rc::new(Tracker::new());
    let lot = Lot::new();
    assert_eq!(tracker.begin(&lot, place(1), birth(10)), Some(1), "the first ID");
    let other = spawn(&tracker, move |tracker| {
        tracker.end(place(1), Some((10, 8)), 1, 5).expect("live");
        tracker.begin(&lot, place(1), birth(20))
    });
    if let Some(seen) = tracker.find(place(1)) {
        assert!(matches!((seen.id, seen.size), (1, 10) | (2, 20)), "a record of two allocations: {seen:?}");
    }
    assert_eq!(other.join(), Some(2), "the second ID");
    assert_eq!(tracker.find(place(1)).map(|seen| (seen.id, seen.is_live)), Some((2, true)), "the second is there");
    assert_eq!(tracker.find_id(1), None, "the first is not");
}

/// Two use the first addresses of a table of places.
pub fn two_make_places() {
    let places = Rc::new(Places::new());
    let name = |places: &Places, page, record| {
        // Relaxed: whoever has the chunk has the word.
        places.make(place(page)).expect("there is memory").store(record, Ordering::Relaxed);
    };
    let other = spawn(&places, move |places| name(places, 0, 1));
    name(&places, 1, 2);
    other.join();
    let named = [0, 1].map(|page| places.get(place(page)).map_or(0, |word| word.load(Ordering::Relaxed)));
    assert_eq!(named, [1, 2], "each place has its word");
}

/// An allocation begins, at an address where none was before, while another thread asks what is there.
pub fn find_against_begin() {
    let tracker = Rc::new(Tracker::new());
    let other = spawn(&tracker, |tracker| tracker.begin(&Lot::new(), place(1), birth(20)));
    if let Some(seen) = tracker.find(place(1)) {
        assert_eq!((seen.address, seen.size), (PAGE, 20), "a record that is made");
    }
    assert_eq!(other.join(), Some(1), "the first ID");
    assert_eq!(tracker.find(place(1)).map(|seen| seen.size), Some(20), "it is there");
}

/// Two use blocks of IDs up, take them over and give further IDs out, while all are looked for.
pub fn ids_against_each_other() {
    let ids = Rc::new(Ids::new());
    let turn = |ids: &Ids, lot: &Lot, record| {
        let (id, block) = ids.issue(lot, record).expect("there is memory");
        assert_eq!(ids.find(id), Some(record), "an ID is found while it lives");
        (id, block)
    };
    let lot = Lot::new();
    // A block that is used up, for whoever is first.
    for _ in 0..2 {
        let (id, block) = turn(&ids, &lot, 9);
        ids.end(id, block);
    }
    let other = spawn(&ids, move |ids| turn(ids, &Lot::new(), 1));
    let mine = turn(&ids, &lot, 2);
    let theirs = other.join();
    assert!(mine.0 != theirs.0, "an ID of its own");
    assert_eq!([theirs, mine].map(|(id, _)| ids.find(id)), [Some(1), Some(2)], "an ID is found while it lives");
}

/// A block's last ID is given out, while another thread looks for a block that is used up.
pub fn ids_against_the_last() {
    let ids = Rc::new(Ids::new());
    let lot = Lot::new();
    let (first, block) = ids.issue(&lot, 1).expect("there is memory");
    ids.end(first, block);
    let other = spawn(&ids, move |ids| ids.issue(&Lot::new(), 5));
    let (id, _) = ids.issue(&lot, 2).expect("there is memory");
    let theirs = other.join().expect("there is memory");
    assert_eq!([id, theirs.0].map(|id| ids.find(id)), [Some(2), Some(5)], "an ID is found while it lives");
}

/// One forgets the oldest free while another remembers one more than there is room for.
pub fn forget_against_remember() {
    let tracker = Rc::new(Tracker::new());
    assert!([64, 128].iter().all(|address| tracker.remember(*address, 10).is_none()), "there is room for two");
    let other = spawn(&tracker, |tracker| tracker.remember(192, 10));
    let mine = tracker.forget_oldest();
    let mut had: Vec<usize> = mine.into_iter().chain(other.join()).map(|(address, _)| address).collect();
    tracker.forget_all(|address, _| had.push(address));
    had.sort_unstable();
    assert_eq!(had, [64, 128, 192], "each free is had once");
}
