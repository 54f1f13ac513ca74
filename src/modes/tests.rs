//! A tracker against a map: IDs rise and are found until the end, stale ones never, and each end is had once.

use super::*;
use std::collections::BTreeMap;
use std::vec::Vec;

fn begin(tracker: &Tracker, address: usize, size: usize) -> u64 {
    tracker.begin(address, Birth { size, align: 8, thread: 1, now: 5, tag: "tag" }).expect("memory")
}

#[test]
fn records_are_found_until_they_end() {
    let tracker = Tracker::new();
    let mut live: BTreeMap<usize, (u64, usize)> = BTreeMap::new();
    let mut random = fastrand::Rng::with_seed(9);
    let mut last = 0;
    let mut ended: Vec<u64> = Vec::new();
    for _ in 0..60_000 {
        let address = random.usize(1..3000) * 16;
        if let Some((id, size)) = live.remove(&address) {
            assert_eq!(
                tracker.end(address, Some((size + 1, 8)), 2, 7),
                Err(Misuse::Layout(tracker.find(address).unwrap()))
            );
            let seen = tracker.end(address, Some((size, 8)), 2, 7).expect("live");
            assert_eq!((seen.id, seen.address, seen.size, seen.tag), (id, address, size, "tag"));
            match tracker.end(address, None, 3, 8) {
                Err(Misuse::Double(first)) => assert_eq!((first.id, first.freed_by, first.freed_ms), (id, 2, 7)),
                other => panic!("{other:?}"),
            }
            if let Some(old) = tracker.remember(seen.index) {
                tracker.retire(&old);
            }
            ended.push(id);
        } else {
            let size = random.usize(1..1000);
            let id = begin(&tracker, address, size);
            assert!(id > last);
            last = id;
            live.insert(address, (id, size));
        }
    }
    for (address, (id, size)) in &live {
        let seen = tracker.find(*address).expect("live");
        assert_eq!((seen.id, seen.size, seen.is_live), (*id, *size, true));
        assert_eq!(tracker.find_id(*id), Some(seen));
    }
    assert!(ended.iter().chain(&[0, last + 1, u64::MAX]).all(|id| tracker.find_id(*id).is_none()));
    let mut walked: Vec<u64> = Vec::new();
    tracker.walk(|seen| walked.push(seen.id));
    walked.sort_unstable();
    let mut expected: Vec<u64> = live.values().map(|(id, _)| *id).collect();
    expected.sort_unstable();
    assert_eq!(walked, expected);
    assert_eq!(tracker.end(7, None, 1, 1), Err(Misuse::Unknown));
    // SAFETY: used no more.
    unsafe { tracker.dispose() };
}

/// What has ended leaves nothing: the tables are as large as what lives, and what is remembered, needs.
#[test]
fn tables_do_not_grow_with_what_has_ended() {
    let tracker = Tracker::new();
    let turn = |at: usize| {
        // Addresses that come again, and such that do not.
        let address = if at % 2 == 0 { 64 } else { at * 64 };
        begin(&tracker, address, 10);
        let seen = tracker.end(address, None, 1, 1).expect("live");
        if let Some(old) = tracker.remember(seen.index) {
            tracker.retire(&old);
        }
    };
    (0..2 * RECENT).for_each(turn);
    let bytes = tracker.bytes();
    (0..20 * RECENT).for_each(turn);
    assert_eq!(tracker.bytes(), bytes);
    // SAFETY: used no more.
    unsafe { tracker.dispose() };
}

#[test]
fn of_two_that_free_one_does() {
    for _ in 0..200 {
        let tracker = Tracker::new();
        begin(&tracker, 64, 10);
        let ends = std::thread::scope(|scope| {
            let other = scope.spawn(|| tracker.end(64, None, 1, 1).is_ok());
            [tracker.end(64, None, 2, 1).is_ok(), other.join().unwrap()]
        });
        assert!(ends[0] != ends[1], "{ends:?}");
        // SAFETY: used no more.
        unsafe { tracker.dispose() };
    }
}
