//! What a thread's code allocates, in number, bytes and peak: exact, whatever other threads do, one measurement inside another,
//! and in every mode.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward)))]

mod common;

use common::block::{give, take};
use common::child::Scenario;
use common::{KIB, MIB};
use millpond::measure;
use std::alloc::{GlobalAlloc, Layout};
use std::sync::Barrier;

/// What is freed is given back before the next is taken, or not.
fn blocks(count: usize, size: usize, at_once: usize) {
    let mut live = std::collections::VecDeque::new();
    for _ in 0..count {
        live.push_back(take(size, 8));
        if live.len() == at_once {
            // SAFETY: allocated above, freed once.
            live.pop_front().into_iter().for_each(|block| unsafe { give(block, size, 8) });
        }
    }
    // SAFETY: as above.
    live.into_iter().for_each(|block| unsafe { give(block, size, 8) });
}

/// Allocations, bytes and peak.
fn counted(run: impl FnOnce()) -> (u64, u64, u64) {
    let measured = measure(run).1;
    (measured.allocations, measured.bytes, measured.peak)
}

/// The same of chunks, with what the queue of blocks itself takes known beforehand.
#[test]
fn the_peak_is_what_was_live_at_one_time() {
    for (size, served) in [(24, 24), (1000, KIB as u64), (300_000, 5 * 64 * KIB as u64), (40 * MIB, 40 * MIB as u64)] {
        for at_once in [1usize, 2, 4] {
            let mut live = Vec::with_capacity(at_once);
            let run = || {
                for _ in 0..3 {
                    live.extend((0..at_once).map(|_| take(size, 8)));
                    // SAFETY: allocated just now, freed once.
                    live.drain(..).for_each(|block| unsafe { give(block, size, 8) });
                }
            };
            let (of_all, at_most) = (3 * at_once as u64, at_once as u64);
            assert_eq!(counted(run), (of_all, of_all * served, at_most * served), "{size}, {at_once}");
        }
    }
}

#[test]
fn what_was_there_before_lowers_the_peak_and_what_stays_raises_it() {
    let before = take(MIB, 8);
    let mut after = core::ptr::null_mut();
    let run = || {
        // SAFETY: allocated above, freed once.
        unsafe { give(before, MIB, 8) };
        after = take(2 * MIB, 8);
    };
    assert_eq!(counted(run), (1, 2 * MIB as u64, MIB as u64));
    // SAFETY: as above.
    assert_eq!(counted(|| unsafe { give(after, 2 * MIB, 8) }), (0, 0, 0));
    assert_eq!(counted(|| ()), (0, 0, 0));
}

#[test]
fn one_may_be_inside_another_and_end_by_a_panic() {
    let (inner, outer) = measure(|| {
        blocks(10, 1000, 10);
        let inner = measure(|| {
            let first = counted(|| drop(vec![1u8; 3 * MIB]));
            let panicked = std::panic::catch_unwind(|| measure(|| std::panic::resume_unwind(Box::new(7))));
            assert!(panicked.is_err());
            (first, counted(|| drop(vec![1u8; MIB])))
        });
        blocks(10, 1000, 10);
        inner
    });
    assert_eq!(inner.0, ((1, 3 * MIB as u64, 3 * MIB as u64), (1, MIB as u64, MIB as u64)));
    assert!(inner.1.peak >= 3 * MIB as u64 && inner.1.peak < 3 * MIB as u64 + 4 * KIB as u64, "{:?}", inner.1);
    assert!(outer.peak >= inner.1.peak && outer.bytes > inner.1.bytes && outer.allocations > 20, "{outer:?}");
    // The one that panicked has ended.
    assert_eq!(counted(|| blocks(0, 8, 1)), (0, 0, 0));
}

/// Has `looks` resize a block, and returns what it says, and whether the block stayed where it was.
fn resized<R>(from: usize, to: usize, looks: impl FnOnce(&mut dyn FnMut()) -> R) -> (R, bool) {
    let layout = Layout::from_size_align(from, 8).expect("valid");
    let block = take(from, 8);
    let mut now = block;
    // SAFETY: live, resized once, and freed with its new size.
    let said = looks(&mut || now = unsafe { common::GLOBAL.realloc(block, layout, to) });
    // SAFETY: as above.
    unsafe { give(now, to, 8) };
    (said, now == block)
}

/// In place, and moved: what is resized in place is no allocation, but counts for the peak.
#[test]
fn a_resize_counts_for_the_peak() {
    let resized = |from, to| resized(from, to, |run| counted(run));
    assert_eq!(resized(97, 112), ((0, 0, 0), true));
    assert_eq!(resized(100, 1000), ((1, 1024, 1024), false));
    let ((allocations, bytes, peak), in_place) = resized(MIB, 40 * MIB);
    let expected = if in_place || allocations == 0 { (0, 0, 39 * MIB) } else { (1, 40 * MIB, 40 * MIB) };
    assert_eq!((allocations, bytes as usize, peak as usize), expected);
    assert_eq!(resized(MIB, 512 * KIB), ((0, 0, 0), true));
}

/// Whether it is moved or not, what grows is told where nothing should be allocated; what shrinks, and what has room, is not.
#[test]
fn growth_is_no_luck() {
    let is_told = |run: &mut dyn FnMut()| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| millpond::assert_no_alloc(run))).is_err()
    };
    let resizing = |from, to| resized(from, to, |run| is_told(run));
    let mut seen = [false; 2];
    for (from, to) in [(MIB, 2 * MIB), (MIB, 40 * MIB), (40 * MIB, 80 * MIB), (100, 1000), (300 * KIB, 700 * KIB)] {
        for held in [false, true] {
            // Where it is held, so may be what lies behind the next.
            let behind = if held { (0..8).map(|_| vec![1u8; 300 * KIB]).collect() } else { Vec::new() };
            let (is_told, in_place) = resizing(from, to);
            assert!(is_told, "from {from} to {to}, in place: {in_place}");
            seen[usize::from(in_place)] = true;
            drop(behind);
        }
    }
    assert_eq!(seen, [true; 2], "moved, and in place");
    for (from, to) in [(97, 112), (2 * MIB, MIB), (80 * MIB, 50 * MIB), (MIB - 1, MIB)] {
        assert!(!resizing(from, to).0, "from {from} to {to}");
    }
}

/// Each thread its own, at the same time, also of what it frees for others.
#[test]
fn threads_measure_at_the_same_time() {
    const THREADS: usize = 4;
    let together = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let together = &together;
            scope.spawn(move || {
                let size = 100 << thread;
                let served = take_served(size);
                together.wait();
                for round in 1..100 {
                    let mut kept = Vec::with_capacity(round);
                    let figures = counted(|| kept.extend((0..round).map(|_| take(size, 8) as usize)));
                    assert_eq!(figures, (round as u64, round as u64 * served, round as u64 * served));
                    // SAFETY: allocated above, freed once, by another thread.
                    let free = move || kept.iter().for_each(|block| unsafe { give(*block as *mut u8, size, 8) });
                    let freed = std::thread::spawn(move || counted(free)).join().expect("no panic");
                    assert_eq!(freed, (0, 0, 0));
                }
            });
        }
    });
}

fn take_served(size: usize) -> u64 {
    let block = take(size, 8);
    let served = millpond::usable_size(block).expect("live");
    // SAFETY: allocated just now.
    unsafe { give(block, size, 8) };
    served as u64
}

fn in_a_mode(test: &'static str, mode: &'static str, guard: &'static str, expected: (u64, u64, u64)) {
    Scenario::new(test).variable("MILLPOND_MODE", mode).variable("MILLPOND_GUARD", guard).passes(|| {
        for _ in 0..3 {
            assert_eq!(counted(|| (0..5).for_each(|_| blocks_of_100(2))), expected);
        }
        let (_, measured) = measure(|| drop(vec![1u8; MIB]));
        assert_eq!((measured.allocations, measured.peak), (1, measured.bytes));
    });
}

/// Two at a time.
fn blocks_of_100(count: usize) {
    let mut live = [core::ptr::null_mut(); 2];
    live.iter_mut().take(count).for_each(|block| *block = take(100, 8));
    // SAFETY: allocated just now, freed once.
    live.into_iter().take(count).for_each(|block| unsafe { give(block, 100, 8) });
}

#[test]
fn where_records_are_kept() {
    in_a_mode("where_records_are_kept", "tracked", "0", (10, 1120, 224));
}

/// With what lies behind an allocation.
#[test]
fn where_it_is_hardened() {
    in_a_mode("where_it_is_hardened", "hardened", "0", (10, 1600, 320));
}

/// A page of 64 KiB each.
#[test]
fn where_all_are_guarded() {
    in_a_mode("where_all_are_guarded", "hardened", "1", (10, 640 * KIB as u64, 128 * KIB as u64));
}

/// What a thread does that was started meanwhile is its own.
#[test]
fn other_threads_are_not_counted() {
    Scenario::new("other_threads_are_not_counted").passes(|| {
        let (_, measured) = measure(|| std::thread::spawn(|| blocks(100, 1000, 7)).join().expect("no panic"));
        assert!(measured.peak < 100 * KIB as u64, "{measured:?}");
        common::law::holds();
    });
}
