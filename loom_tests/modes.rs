//! Records and their indices: found once they are made, removed and ended by one only, read whole or not at all.

use super::{each, spawn};
use crate::config::PAGE;
use crate::heap::Heap;
use crate::modes::{Birth, Ids, Index, Misuse, Of, Place, Places, Record, Seen, Tracker};
use crate::os::fake;
use crate::pool::Portion;
use crate::size_class::Class;
use crate::slab::Slab;
use crate::sync::{Ordering, Slot};
use crate::tagged;
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

/// The same where there is no room but in the lowest level, and none can be added.
pub fn find_against_insert_further_down() {
    let world = World::new();
    let last = (1..).find(|key| !world.index.insert(*key, *key as u32)).expect("a bucket is full at last");
    assert!(world.index.remove(1, 1), "each entry is in one place");
    let other = spawn(&world, move |world| {
        world.payload.set(7);
        assert!(world.index.insert(last, 9), "there is room");
    });
    if world.index.find(last, |number| number == 9).is_some() {
        assert_eq!(world.payload.get(), 7, "what the number stands for is there");
    }
    other.join();
    assert_eq!(world.index.find(last, |number| number == 9), Some(9), "each entry is found");
}

/// Two insert more than there is room for, and so add levels.
pub fn two_make_it_grow() {
    let world = World::new();
    let other = spawn(&world, |world| {
        assert!((1..4).all(|key| world.index.insert(key, key as u32)), "there is memory");
        assert_eq!(world.index.find(3, |number| number == 3), Some(3), "each entry is found");
    });
    assert!(world.index.insert(4, 4), "there is memory");
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

/// Records, and the number of one whose allocation was freed.
fn freed_record() -> (Rc<Slab<Record>>, tagged::Index) {
    let records = Rc::new(Slab::<Record>::new());
    let record = records.take().expect("the fake system gives memory");
    record.begin(1, 1, 64, birth(10), 0);
    assert!(record.end(1, 1, 1), "it was live");
    let index = record.index();
    (records, index)
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

/// What has become of an allocation of 10 bytes that is made one of 20 where it is: whether it was, by the caller.
fn resize(tracker: &Tracker, resizer: u32) -> bool {
    match tracker.resize(place(1), None, resizer) {
        Ok(held) => {
            assert_eq!(held.was.size, 10, "one at a time has it");
            held.to(20, 16);
            drop(held);
            true
        }
        Err(_) => false,
    }
}

/// One frees an allocation while another resizes it: one comes first, and a free in the middle is told so.
pub fn end_against_resize() {
    let tracker = Rc::new(Tracker::new());
    assert_eq!(tracker.begin(&Lot::new(), place(1), birth(10)), Some(1), "the first ID");
    let other = spawn(&tracker, |tracker| resize(tracker, fake::thread_id()));
    let ended = tracker.end(place(1), None, 2, 5);
    let resized = other.join();
    match ended {
        Ok(ended) => assert_eq!(ended.size, if resized { 20 } else { 10 }, "it ends with the size that it has"),
        Err(Misuse::Resized(seen)) => assert!(resized && seen.id == 1, "it is told who has it"),
        Err(misuse) => std::panic!("a free that is not told what it is: {misuse:?}"),
    }
    let left = tracker.find(place(1)).expect("a record");
    assert!(left.is_live == ended.is_err() && !left.is_resized, "nobody has it any more");
}

/// Two resize an allocation at the same time, and it is freed behind them.
pub fn two_resize() {
    let tracker = Rc::new(Tracker::new());
    assert_eq!(tracker.begin(&Lot::new(), place(1), birth(10)), Some(1), "the first ID");
    let step = |tracker: &Tracker| match tracker.resize(place(1), None, fake::thread_id()) {
        Ok(held) => {
            let to = held.was.size + 10;
            held.to(to, 8);
            drop(held);
            1
        }
        Err(_) => 0,
    };
    let other = spawn(&tracker, move |tracker| step(tracker));
    let done = step(&tracker) + other.join();
    assert!(done > 0, "one has resized it");
    let ended = tracker.end(place(1), None, 1, 1).expect("live");
    assert_eq!(ended.size, 10 + 10 * done, "each goes on from the other");
}

/// One resizes an allocation while another walks over all that live: it is there, with one of both sizes.
pub fn walk_against_resize() {
    let tracker = Rc::new(Tracker::new());
    assert_eq!(tracker.begin(&Lot::new(), place(1), birth(10)), Some(1), "the first ID");
    let other = spawn(&tracker, |tracker| resize(tracker, fake::thread_id()));
    let mut walked = 0;
    tracker.walk(|seen| {
        assert!(matches!((seen.size, seen.align), (10 | 20, 8 | 16)), "a size that it never had: {seen:?}");
        walked += 1;
    });
    assert_eq!(walked, 1, "what lives throughout is walked over");
    assert!(other.join(), "nobody else has it");
    assert_eq!(tracker.usable_size(place(1)), Some(20), "it has the new size");
}

/// A thread vanishes in the middle of a resize, and two free what it has left.
pub fn two_end_what_is_left() {
    let tracker = Rc::new(Tracker::new());
    assert_eq!(tracker.begin(&Lot::new(), place(1), birth(10)), Some(1), "the first ID");
    // The fake system's threads before the caller's are no more.
    let _vanished = tracker.resize(place(1), None, 0).expect("live");
    let end = |tracker: &Tracker| tracker.end(place(1), None, 1, 1).is_ok();
    let other = spawn(&tracker, move |tracker| end(tracker));
    let mine = end(&tracker);
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
        places.count(place(page));
    };
    let other = spawn(&places, move |places| name(places, 0, 1));
    name(&places, 1, 2);
    other.join();
    let named = [0, 1].map(|page| places.get(place(page)).map_or(0, |word| word.load(Ordering::Relaxed)));
    assert_eq!(named, [1, 2], "each place has its word");
    let alone = Places::new();
    [0, 1].iter().for_each(|page| name(&alone, *page, 1));
    assert_eq!(places.bytes(), alone.bytes(), "each table is counted once");
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

/// Two places lose their records.
pub fn two_lose_their_records() {
    let places = Rc::new(Places::new());
    let both = [0, 1].map(place);
    assert!(both.iter().all(|place| places.make(*place).is_some()), "there is memory");
    let before = places.bytes();
    both.iter().for_each(|place| places.count(*place));
    let other = spawn(&places, |places| places.uncount(0));
    places.uncount(0);
    other.join();
    assert_eq!(places.bytes(), before, "each is counted once");
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

/// Two begin a block of IDs each, and the system refuses one of them an index: the other's is its own.
pub fn two_open_without_memory() {
    let ids = Rc::new(Ids::new());
    // The blocks' own table is there afterwards.
    fake::refuse_table(2);
    assert_eq!(ids.issue(&Lot::new(), 9), None, "the index is refused");
    fake::refuse_table(1);
    let other = spawn(&ids, |ids| (ids.issue(&Lot::new(), 1).map(|(id, _)| id), 1));
    let mine = (ids.issue(&Lot::new(), 2).map(|(id, _)| id), 2);
    let had: Vec<(u64, u32)> = [mine, other.join()].iter().filter_map(|(id, record)| Some(((*id)?, *record))).collect();
    assert_eq!(had.len(), 1, "one is refused, and one is not");
    assert_eq!(ids.find(had[0].0), Some(had[0].1), "an ID is found while it lives");
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

/// A mark is set while another thread issues an ID and sets one: what comes after a mark is above it.
pub fn two_mark() {
    let ids = Rc::new(Ids::new());
    ids.issue(&Lot::new(), 9).expect("there is memory");
    let other = spawn(&ids, |ids| ids.mark());
    let lot = Lot::new();
    ids.issue(&lot, 1).expect("there is memory");
    let mark = ids.mark();
    other.join();
    let (id, _) = ids.issue(&lot, 2).expect("there is memory");
    assert!(id > mark, "{id} after {mark}");
}

/// An ID is guessed while its allocation begins, with the first record of a segment.
pub fn find_id_against_begin() {
    let tracker = Rc::new(Tracker::new());
    let lot = Lot::new();
    assert_eq!(tracker.begin(&lot, place(1), birth(10)), Some(1), "the first ID");
    assert_eq!(tracker.begin(&Lot::new(), place(2), birth(10)), Some(3), "the first of another block");
    let other = spawn(&tracker, move |tracker| tracker.begin(&lot, place(3), birth(20)));
    if let Some(seen) = tracker.find_id(2) {
        assert_eq!((seen.address, seen.size), (3 * PAGE, 20), "a record that is made");
    }
    assert_eq!(other.join(), Some(2), "the second ID");
    assert_eq!(tracker.find_id(2).map(|seen| seen.size), Some(20), "it is there");
}

/// A record is read while it becomes another allocation's, with callers.
pub fn read_against_begin() {
    let records = Rc::new(Slab::<Record>::new());
    // A count, a caller of the allocation, one of the free.
    records.shape(3);
    let record = records.take().expect("the fake system gives memory");
    let begin = |record: &Record, id: u64| {
        let callers = [id as usize];
        record.begin(id, 1, 64, Birth { callers: &callers, ..birth(id as usize) }, 1);
    };
    begin(record, 1);
    assert!(record.end(1, 1, 1), "it was live");
    let index = record.index();
    let other = spawn(&records, move |records| begin(records.get(index), 2));
    let mut out = [0];
    if record.callers(1, Of::Birth, 1, &mut out) == 1 {
        assert_eq!(out, [1], "callers of two allocations");
    }
    if record.callers(2, Of::Birth, 1, &mut out) == 1 {
        assert_eq!(out, [2], "callers of two allocations");
    }
    other.join();
    assert_eq!((record.callers(2, Of::Birth, 1, &mut out), out), (1, [2]), "the second is there");
}

/// A freed record, read while another allocation begins there and goes on by `then`: what is told of the first is the first's.
fn read_against<T: 'static>(then: impl FnOnce(&Record) -> T + 'static) -> (T, Option<Seen>) {
    let (records, index) = freed_record();
    let other = spawn(&records, move |records| {
        let record = records.get(index);
        record.begin(2, 1, 64, birth(20), 0);
        then(record)
    });
    let record = records.get(index);
    if let Some(seen) = record.read().filter(|seen| seen.id == 1) {
        let told = (seen.size, seen.align, seen.freed_by, seen.freed_ms);
        assert_eq!((seen.is_live, told), (false, (10, 8, 1, 1)), "a free of two allocations");
    }
    (other.join(), record.read())
}

/// The other ends: who has freed it belongs to it.
pub fn read_against_end() {
    let (was_live, _) = read_against(|record| record.end(2, 2, 2));
    assert!(was_live, "the second was live");
}

/// The other is resized.
pub fn read_against_resize() {
    let (was_live, seen) = read_against(|record| {
        let was_live = record.begin_resize(2, 7);
        record.resize(30, 16);
        record.end_resize(2);
        was_live
    });
    assert!(was_live, "the second was live");
    let told = seen.map(|seen| (seen.id, seen.size, seen.is_live));
    assert_eq!(told, Some((2, 30, true)), "the second is there");
}

/// What is kept back, and what its memory stands for.
struct Kept {
    tracker: Tracker,
    memory: [Slot; 5],
}

impl Kept {
    /// With what is freed already.
    fn new(freed: &[usize]) -> Rc<Self> {
        let kept = Self { tracker: Tracker::new(), memory: core::array::from_fn(|_| Slot::new(0)) };
        freed.iter().for_each(|address| assert_eq!(kept.remember(*address), None, "there is room"));
        Rc::new(kept)
    }

    /// Writes to what the caller has.
    fn write(&self, address: usize) -> usize {
        self.memory[address / 64].set(address);
        address
    }

    fn remember(&self, address: usize) -> Option<usize> {
        self.write(address);
        self.tracker.remember(1, address, 10).map(|(address, _)| self.write(address))
    }

    fn forget_all(&self) -> Vec<usize> {
        let mut had = Vec::new();
        self.tracker.forget_all(|address, _| had.push(self.write(address)));
        had
    }

    fn remember_run(&self, address: usize) -> Option<usize> {
        self.write(address);
        self.tracker.remember_run(address).map(|address| self.write(address))
    }

    fn forget_runs(&self) -> Vec<usize> {
        let mut had = Vec::new();
        self.tracker.forget_runs(|address| had.push(self.write(address)));
        had
    }
}

fn sorted(had: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let mut had: Vec<usize> = had.into_iter().collect();
    had.sort_unstable();
    had
}

/// One forgets the oldest free while another remembers one more than there is room for.
pub fn forget_against_remember() {
    let kept = Kept::new(&[64, 128]);
    let other = spawn(&kept, |kept| kept.remember(192));
    let mine = kept.tracker.forget_oldest(1).map(|(address, _)| kept.write(address));
    let had = mine.into_iter().chain(other.join()).chain(kept.forget_all());
    assert_eq!(sorted(had), [64, 128, 192], "each free is had once");
}

/// One with a queue of its own, which is empty, forgets the oldest of the longest while its owner remembers two more.
pub fn forget_elsewhere_against_remember() {
    let kept = Kept::new(&[64]);
    let other = spawn(&kept, |kept| [kept.remember(128), kept.remember(192)]);
    let mine: Vec<usize> = (0..2)
        .filter_map(|_| {
            let (address, _) = kept.tracker.forget_oldest(kept.tracker.longest(2))?;
            Some(kept.write(address))
        })
        .collect();
    let had = mine.into_iter().chain(other.join().into_iter().flatten()).chain(kept.forget_all());
    assert_eq!(sorted(had), [64, 128, 192], "each free is had once");
}

/// One takes all frees out while another remembers one more.
pub fn forget_all_against_remember() {
    let kept = Kept::new(&[64]);
    let other = spawn(&kept, |kept| [kept.remember(128), kept.remember(192)]);
    let mine = kept.forget_all();
    let had = mine.into_iter().chain(other.join().into_iter().flatten()).chain(kept.forget_all());
    assert_eq!(sorted(had), [64, 128, 192], "each free is had once");
}

/// The same of runs.
pub fn forget_runs_against_remember() {
    let kept = Kept::new(&[]);
    assert_eq!(kept.remember_run(64), None, "there is room");
    let other = spawn(&kept, |kept| [kept.remember_run(128), kept.remember_run(192)]);
    let mine = kept.forget_runs();
    let had = mine.into_iter().chain(other.join().into_iter().flatten()).chain(kept.forget_runs());
    assert_eq!(sorted(had), [64, 128, 192], "each free is had once");
}

/// Two free what there is room for: nothing comes out, and all is counted.
pub fn two_remember() {
    let tracker = Rc::new(Tracker::new());
    let turn = |tracker: &Tracker, address| {
        let run = tracker.remember_run(address).is_none() && tracker.remember_first(address, 8).is_none();
        run && tracker.remember(1, address, 10).is_none()
    };
    let other = spawn(&tracker, move |tracker| turn(tracker, 64));
    assert!(turn(&tracker, 128) && other.join(), "there is room for two");
    assert_eq!(tracker.firsts_kept(), (2, 16), "both are counted");
}

/// Two free more than there is room for: what comes out may be what the other has just freed.
pub fn two_remember_too_much() {
    let kept = Kept::new(&[64]);
    let other = spawn(&kept, |kept| [kept.remember(128), kept.remember(192)]);
    let had = kept.remember(256).into_iter().chain(other.join().into_iter().flatten()).chain(kept.forget_all());
    assert_eq!(sorted(had), [64, 128, 192, 256], "each free is had once");
}

/// The same of runs.
pub fn two_remember_too_many_runs() {
    let kept = Kept::new(&[]);
    assert_eq!(kept.remember_run(64), None, "there is room");
    let other = spawn(&kept, |kept| [kept.remember_run(128), kept.remember_run(192)]);
    let had = kept.remember_run(256).into_iter().chain(other.join().into_iter().flatten()).chain(kept.forget_runs());
    assert_eq!(sorted(had), [64, 128, 192, 256], "each free is had once");
}

/// One takes the next run out and has to keep it further, while another frees.
pub fn keep_further_against_remember() {
    let kept = Kept::new(&[]);
    [64, 128].iter().for_each(|run| assert_eq!(kept.remember_run(*run), None, "there is room"));
    let other = spawn(&kept, |kept| kept.remember_run(192));
    let next = kept.tracker.forget_next_run().map(|run| kept.write(run));
    let mine = next.filter(|run| !kept.tracker.keep_run_further(*run));
    let had = mine.into_iter().chain(other.join()).chain(kept.forget_runs());
    assert_eq!(sorted(had), [64, 128, 192], "each free is had once");
}

/// Two take out what was refused access, and one of them has to keep another further.
pub fn forget_stuck_against_keep_further() {
    let kept = Kept::new(&[]);
    [64, 128].iter().for_each(|run| assert_eq!(kept.remember_run(*run), None, "there is room"));
    assert!(kept.tracker.keep_run_further(kept.write(192)), "there is room beside them");
    let other = spawn(&kept, |kept| {
        let had = kept.tracker.forget_stuck_run().map(|run| kept.write(run));
        let left = kept.write(256);
        had.into_iter().chain(Some(left).filter(|left| !kept.tracker.keep_run_further(*left))).collect::<Vec<_>>()
    });
    let mine: Vec<usize> = (0..2).filter_map(|_| kept.tracker.forget_stuck_run()).map(|run| kept.write(run)).collect();
    let had = mine.into_iter().chain(other.join()).chain(kept.forget_runs());
    assert_eq!(sorted(had), [64, 128, 192, 256], "each free is had once");
}

/// One looks at what is kept back while another frees, more than there is room for.
pub fn look_against_remember() {
    let kept = Kept::new(&[64]);
    let other = spawn(&kept, |kept| [kept.remember(128), kept.remember(192)]);
    let mut mine = Vec::new();
    kept.tracker.look_at_recent(|in_hand| {
        let (address, _) = in_hand.what();
        assert_eq!(kept.memory[address / 64].get(), address, "what was freed is there");
        kept.write(address);
        mine.extend(in_hand.put_back().map(|(address, _)| kept.write(address)));
    });
    let had = mine.into_iter().chain(other.join().into_iter().flatten()).chain(kept.forget_all());
    assert_eq!(sorted(had), [64, 128, 192], "each free is had once");
}

/// One looks at what is kept back while another takes all out.
pub fn look_against_forget_all() {
    let kept = Kept::new(&[64, 128]);
    let other = spawn(&kept, |kept| kept.forget_all());
    let mut mine = Vec::new();
    kept.tracker.look_at_recent(|in_hand| {
        kept.write(in_hand.what().0);
        mine.extend(in_hand.put_back().map(|(address, _)| kept.write(address)));
    });
    let had = mine.into_iter().chain(other.join()).chain(kept.forget_all());
    assert_eq!(sorted(had), [64, 128], "each free is had once");
}

/// An allocation is freed a second time while the next begins in its record: what is ended is one allocation.
pub fn end_against_begin() {
    let (records, index) = freed_record();
    let record = records.get(index);
    let other = spawn(&records, move |records| records.get(index).begin(2, 1, 64, birth(20), 0));
    if let Some((ended, ..)) = record.live_at(64).filter(|(ended, ..)| record.end(ended.id, 1, 2)) {
        assert_eq!((ended.id, ended.size), (2, 20), "what is ended is one allocation");
    }
    other.join();
}

/// A free is forgotten while an allocation begins in its page, and so has its record.
pub fn forget_against_begin() {
    let (records, index) = freed_record();
    let record = records.get(index);
    let other = spawn(&records, move |records| records.get(index).begin(2, 1, 128, birth(20), 0));
    record.forget(64);
    other.join();
    assert_eq!(record.read().map(|seen| (seen.id, seen.is_live)), Some((2, true)), "the second is there");
}

/// A heap with its records.
struct Recorded {
    heap: Heap,
    tracker: Tracker,
}

impl Recorded {
    /// Makes the record of a chunk in the caller's hand.
    fn begin(&self, lot: &Lot, chunk: usize, size: usize) {
        assert!(self.tracker.begin(lot, self.heap.place(chunk), birth(size)).is_some(), "there is memory");
    }

    /// Frees a chunk of which it is known how large it is.
    fn end(&self, chunk: usize, size: usize) {
        let ended = self.tracker.end(self.heap.place(chunk), None, 1, 0).map(|ended| ended.size);
        assert_eq!(ended, Ok(size), "each has a record of its own");
    }
}

/// Free places lose their records while another thread takes a chunk and begins an allocation there: what is taken from its place
/// is nobody's, and serves another.
pub fn unbind_against_begin() {
    const CLASS: Class = 0;
    let world = Rc::new(Recorded { heap: Heap::new(), tracker: Tracker::new() });
    let carve = |heap: &Heap, want: usize| {
        let mut chunks = Vec::new();
        heap.pool(CLASS, 0).carve(Portion::any(want), 0, each(CLASS, |chunk| chunks.push(chunk)));
        chunks
    };
    let chunks = carve(&world.heap, 2);
    let lots = [Lot::new(), Lot::new()];
    // Both lots have IDs afterwards, and the chunk that goes back has a record.
    for (lot, chunk) in lots.iter().zip(&chunks) {
        world.begin(lot, *chunk, 10);
        world.end(*chunk, 10);
    }
    assert!(world.tracker.unbind(world.heap.place(chunks[1])), "the place has a record");
    world.heap.pool(CLASS, 0).restore(&mut [chunks[0]], 0);

    let [mine, theirs] = lots;
    let other = spawn(&world, move |world| {
        let chunk = carve(&world.heap, 1)[0];
        world.begin(&theirs, chunk, 20);
        chunk
    });
    let span = world.heap.spans.nodes(CLASS).get(1);
    if let Some(outcome) = span.visit_free(|chunk| {
        world.tracker.unbind(world.heap.place(chunk));
    }) {
        world.heap.pool(CLASS, 0).settle(span, outcome);
    }
    world.begin(&mine, chunks[1], 30);
    let theirs = other.join();
    world.end(theirs, 20);
    world.end(chunks[1], 30);
}

/// Two allocations are guarded, and end: as many as before may be.
pub fn two_are_guarded() {
    let tracker = Rc::new(Tracker::new());
    let turn = |tracker: &Tracker| {
        assert!(tracker.guard_begins(), "there is room for two");
        tracker.guard_ends();
    };
    let other = spawn(&tracker, turn);
    turn(&tracker);
    other.join();
    assert_eq!((0..3).filter(|_| tracker.guard_begins()).count(), 2, "there is room for two");
}
