//! A tracker against a map: IDs rise and are found until the end, stale ones never, and each end is had once.

use super::*;
use crate::config::{GRAIN, KEPT_RUNS, PAGE, RECENT};
use std::collections::BTreeMap;
use std::vec::Vec;

fn place(address: usize) -> Place {
    Place { address, word: address % PAGE / GRAIN }
}

fn begin(tracker: &Tracker, lot: &Lot, address: usize, size: usize) -> u64 {
    let birth = Birth { size, align: 8, thread: 1, now: 5, tag: "tag", callers: &[size, address] };
    tracker.begin(lot, place(address), birth).expect("memory")
}

#[test]
fn records_are_found_until_they_end() {
    let (tracker, lot) = (Tracker::new(), Lot::new());
    tracker.keep_callers(2);
    let mut live: BTreeMap<usize, (u64, usize)> = BTreeMap::new();
    let mut random = fastrand::Rng::with_seed(9);
    let mut last = 0;
    let mut ended: Vec<u64> = Vec::new();
    for _ in 0..60_000 {
        let address = random.usize(1..3000) * 16;
        if let Some((id, size)) = live.remove(&address) {
            let seen = tracker.find(place(address)).expect("live");
            assert_eq!((seen.id, seen.address, seen.size, seen.tag), (id, address, size, "tag"));
            assert_eq!(tracker.end(place(address), Some((size + 1, 8)), 2, 7), Err(Misuse::Layout(seen)));
            let freed = tracker.end(place(address), Some((size, 8)), 2, 7).expect("live");
            assert_eq!((freed.id, freed.address, freed.size), (id, address, size));
            match tracker.end(place(address), None, 3, 8) {
                Err(Misuse::Double(first)) => {
                    assert_eq!((first.id, first.freed_by, first.freed_ms), (id, 2, 7));
                    tracker.keep_freed(place(address), &[1, 2, 3]);
                    let mut callers = [0; 3];
                    assert_eq!((tracker.callers(&first, Of::Free, &mut callers), callers), (2, [1, 2, 0]));
                    assert_eq!((tracker.callers(&first, Of::Birth, &mut callers), callers), (2, [size, address, 0]));
                }
                other => panic!("{other:?}"),
            }
            if let Some((old, size)) = tracker.remember(2, address, size) {
                assert!(old % 16 == 0 && (1..1000).contains(&size));
            }
            ended.push(id);
        } else {
            let size = random.usize(1..1000);
            let id = begin(&tracker, &lot, address, size);
            assert!(id > last);
            last = id;
            live.insert(address, (id, size));
        }
    }
    for (address, (id, size)) in &live {
        let seen = tracker.find(place(*address)).expect("live");
        assert_eq!((seen.id, seen.size, seen.is_live), (*id, *size, true));
        let mut callers = [0; 3];
        assert_eq!((tracker.callers(&seen, Of::Birth, &mut callers), callers), (2, [*size, *address, 0]));
        assert_eq!(tracker.callers(&seen, Of::Free, &mut callers), 0);
        assert_eq!(tracker.find_id(*id), Some(seen));
    }
    assert!(ended.iter().chain(&[0, last + 1, u64::MAX]).all(|id| tracker.find_id(*id).is_none()));
    let mut walked: Vec<u64> = Vec::new();
    tracker.walk(|seen| walked.push(seen.id));
    walked.sort_unstable();
    let mut expected: Vec<u64> = live.values().map(|(id, _)| *id).collect();
    expected.sort_unstable();
    assert_eq!(walked, expected);
    assert_eq!(tracker.end(place(8), None, 1, 1), Err(Misuse::Unknown));
    // SAFETY: used no more.
    unsafe { tracker.dispose() };
}

/// What has ended leaves its record to what comes: the tables are as large as what lived at one time needs.
#[test]
fn tables_do_not_grow_with_what_has_ended() {
    let (tracker, lot) = (Tracker::new(), Lot::new());
    // One that stays, and a page whose chunks are of one size, then of another.
    begin(&tracker, &lot, PAGE * 9, 10);
    let turn = |at: usize| {
        let address = PAGE * 5 + if at / 4096 % 2 == 0 { at % 4096 * 16 } else { at % 1024 * 64 };
        let place = Place { address, word: if at / 4096 % 2 == 0 { at % 4096 } else { at % 1024 } };
        let birth = Birth { size: 10, align: 8, thread: 1, now: 5, tag: "", callers: &[] };
        tracker.begin(&lot, place, birth).expect("memory");
        tracker.end(place, None, 1, 1).expect("live");
    };
    (0..8192).for_each(turn);
    let bytes = tracker.bytes();
    (0..100_000).for_each(turn);
    assert_eq!(tracker.bytes(), bytes);
    // SAFETY: used no more.
    unsafe { tracker.dispose() };
}

/// A free is remembered when its page has chunks of another size, or none.
#[test]
fn a_double_free_is_known_whatever_became_of_the_page() {
    let (tracker, lot) = (Tracker::new(), Lot::new());
    let id = begin(&tracker, &lot, PAGE + 160, 10);
    tracker.end(place(PAGE + 160), None, 1, 1).expect("live");
    let elsewhere = Place { address: PAGE + 160, word: 0 };
    assert!(matches!(tracker.end(elsewhere, None, 1, 1), Err(Misuse::Double(seen)) if seen.id == id));
    // SAFETY: used no more.
    unsafe { tracker.dispose() };
}

/// A resize keeps the record; a free in its middle is told so, unless the thread that resizes is no more.
#[test]
fn a_resize_in_the_middle_is_told_of_and_one_that_was_left_is_over() {
    let system = crate::os::fake::System::fresh();
    let (tracker, lot) = (Tracker::new(), Lot::new());
    let resizer = crate::os::thread_id();
    let id = begin(&tracker, &lot, 64, 10);
    assert_eq!(tracker.resize(place(64), Some((11, 8)), resizer).err(), Some(Misuse::Unknown), "another size");
    let held = tracker.resize(place(64), Some((10, 8)), resizer).expect("live");
    assert_eq!(held.was, Ended { id, address: 64, size: 10 });
    held.to(30, 16);
    let seen = tracker.find(place(64)).expect("live");
    assert_eq!((seen.id, seen.size, seen.align, seen.is_live, seen.is_resized), (id, 30, 16, true, true));
    for layout in [None, Some((10, 8)), Some((30, 16))] {
        assert_eq!(tracker.end(place(64), layout, 2, 7), Err(Misuse::Resized(seen)));
        assert_eq!(tracker.resize(place(64), layout, 2).err(), Some(Misuse::Resized(seen)));
    }
    drop(held);
    assert_eq!(tracker.find_id(id).map(|seen| (seen.size, seen.is_resized)), Some((30, false)));
    // Here it vanishes.
    let held = tracker.resize(place(64), None, resizer).expect("live");
    held.to(40, 8);
    core::mem::forget(held);
    system.end_thread(resizer);
    assert_eq!(tracker.find(place(64)).map(|seen| (seen.id, seen.is_live, seen.size)), Some((id, true, 40)));
    let ended = tracker.end(place(64), Some((40, 8)), 2, 7).expect("live");
    assert_eq!(ended, Ended { id, address: 64, size: 40 });
    assert!(matches!(tracker.end(place(64), None, 2, 7), Err(Misuse::Double(seen)) if seen.freed_by == 2));
    // What was left is no bar to what comes there next.
    let next = begin(&tracker, &lot, 64, 10);
    core::mem::forget(tracker.resize(place(64), None, resizer).expect("live"));
    assert!(begin(&tracker, &lot, 64, 12) > next, "its chunk was found and handed out");
    assert_eq!(tracker.find_id(next), None);
    // SAFETY: used no more.
    unsafe { tracker.dispose() };
}

/// A run that was taken out and is to be kept further has a place, though others have filled the queue meanwhile: each is had once.
#[test]
fn what_is_kept_further_has_a_place_beside_a_full_queue() {
    let tracker = Tracker::new();
    let runs: Vec<usize> = (1..=KEPT_RUNS + 1).map(|at| at << 20).collect();
    let (last, first) = runs.split_last().expect("some");
    first.iter().for_each(|run| assert_eq!(tracker.remember_run(*run), None, "there is room"));
    assert_eq!(tracker.forget_stuck_run(), None);
    let taken = tracker.forget_next_run().expect("the queue is full");
    assert_eq!(tracker.remember_run(*last), None, "in its place");
    assert!(tracker.keep_run_further(taken), "it would be lost");
    let mut kept = Vec::new();
    tracker.walk_kept(|run| kept.push(run));
    kept.sort_unstable();
    assert_eq!(kept, runs);
    assert_eq!(tracker.forget_stuck_run(), Some(taken), "it is the first to be tried again");
    assert!(tracker.keep_run_further(taken));
    let mut had = Vec::new();
    tracker.forget_runs(|run| had.push(run));
    had.sort_unstable();
    assert_eq!(had, runs);
}

/// Wherever in a resize a thread vanishes, its allocation is live, with one of both sizes, and can be freed, or resized.
#[test]
fn a_thread_may_vanish_anywhere_in_a_resize() {
    for step in 0.. {
        let system = crate::os::fake::System::fresh();
        let (tracker, lot) = (Tracker::new(), Lot::new());
        let id = begin(&tracker, &lot, 64, 10);
        let resizer = crate::os::thread_id();
        let through = crate::sync::stepped::vanishing(step, || {
            let held = tracker.resize(place(64), None, resizer).expect("live");
            held.to(20, 8);
            drop(held);
        });
        system.end_thread(resizer);
        let seen = tracker.find(place(64)).expect("live");
        assert!(seen.is_live && seen.id == id && matches!(seen.size, 10 | 20), "at step {step}: {seen:?}");
        if step % 2 == 0 {
            let held = tracker.resize(place(64), Some((seen.size, 8)), 2).expect("live");
            assert_eq!(held.was.size, seen.size);
            drop(held);
        }
        let ended = tracker.end(place(64), Some((seen.size, 8)), 2, 7).expect("live");
        assert_eq!((ended.id, ended.size), (id, seen.size), "at step {step}");
        // SAFETY: used no more.
        unsafe { tracker.dispose() };
        if through.is_some() {
            assert!(step > 10, "{step} steps");
            break;
        }
    }
}

/// A record that a vanished thread has left live is ended once, though there be no memory for the ID of what comes there: its slot may
/// be another ID's by the next time.
#[test]
fn what_was_left_live_is_ended_once() {
    let system = crate::os::fake::System::fresh();
    let tracker = Tracker::new();
    let [vanished, others, next] = [Lot::new(), Lot::new(), Lot::new()];
    let left = begin(&tracker, &vanished, 64, 10);
    let failing = system.failing(0, u64::MAX);
    while tracker.ids.issue(&others, 1).is_some() {}
    let birth = Birth { size: 12, align: 8, thread: 1, now: 5, tag: "", callers: &[] };
    assert_eq!(tracker.begin(&next, place(64), birth), None);
    assert_eq!(tracker.find_id(left), None);
    // The block of the ID that was left is used up, and used again.
    for _ in 1..crate::config::ID_BLOCK {
        let (id, block) = tracker.ids.issue(&vanished, 1).expect("the rest of a block");
        tracker.ids.end(id, block);
    }
    let (id, block) = tracker.ids.issue(&others, 1).expect("a block that is used up");
    assert_eq!(tracker.ids.find(id), Some(1));
    assert_eq!(tracker.begin(&next, place(64), birth), None);
    assert_eq!(tracker.ids.find(id), Some(1), "it is live");
    tracker.ids.end(id, block);
    drop(failing);
    assert!(tracker.begin(&next, place(64), birth).is_some());
    // SAFETY: used no more.
    unsafe { tracker.dispose() };
}

#[test]
fn of_two_that_free_one_does() {
    for _ in 0..200 {
        let tracker = Tracker::new();
        begin(&tracker, &Lot::new(), 64, 10);
        let ends = std::thread::scope(|scope| {
            let other = scope.spawn(|| tracker.end(place(64), None, 1, 1).is_ok());
            [tracker.end(place(64), None, 2, 1).is_ok(), other.join().unwrap()]
        });
        assert!(ends[0] != ends[1], "{ends:?}");
        // SAFETY: used no more.
        unsafe { tracker.dispose() };
    }
}

/// What a thread frees comes out for its own frees, and, before its turn, the oldest of its own first.
#[test]
fn threads_that_share_no_queue_do_not_push_each_others_frees_out() {
    let tracker = Tracker::new();
    let (own, other) = (7, 8);
    let address = |at: usize| 64 * (at + 1);
    for at in 0..RECENT {
        assert_eq!(tracker.remember(own, address(at), 10), None);
    }
    for at in RECENT..2 * RECENT {
        assert_eq!(tracker.remember(other, address(at), 20), None, "its own queue has room");
    }
    assert_eq!(tracker.remember(own, 64, 10), Some((address(0), 10)));
    assert_eq!(tracker.forget_oldest(other), Some((address(RECENT), 20)));
    let mut left = 0;
    while let Some((at, size)) = tracker.forget_oldest(own) {
        left += 1;
        // Its own first.
        assert_eq!(size, if left <= RECENT { 10 } else { 20 }, "{at}");
    }
    assert_eq!(left, 2 * RECENT - 1);
}
