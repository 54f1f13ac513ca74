//! What an idle thread may keep: at most 512 KiB of chunks over all classes, and after two seconds in which others
//! are active no more than its loaded magazines.

mod common;

use common::block::{give, take};
use common::child::Scenario;
use common::thread::{idle_while, light_activity};
use common::{KIB, LARGEST_CLASS, MIB, law};
use std::sync::Barrier;
use std::time::Duration;

const BOUND: usize = 512 * KIB;

/// Takes and frees three magazines' worth and more of each class, in bursts and in turns.
fn touch_all_classes() {
    let mut chunks = [core::ptr::null_mut(); 200];
    let sizes = (3..18).flat_map(|shift| [4, 5, 6, 7].map(|quarter| (quarter << shift) / 4));
    for size in sizes.chain([LARGEST_CLASS]) {
        let count = (16 * MIB / size).min(200);
        for _ in 0..2 {
            for chunk in &mut chunks[..count] {
                *chunk = take(size, 1);
                assert!(!chunk.is_null());
            }
            for chunk in &chunks[..count] {
                // SAFETY: taken above with this size.
                unsafe { give(*chunk, size, 1) };
            }
        }
    }
}

/// Leaves nothing cached but magazines of one small class, loaded and spare.
fn leave_spares() {
    millpond::flush_thread();
    let mut chunks = [core::ptr::null_mut(); 500];
    for chunk in &mut chunks {
        *chunk = take(64, 1);
        assert!(!chunk.is_null());
    }
    for chunk in chunks {
        // SAFETY: taken above with this size.
        unsafe { give(chunk, 64, 1) };
    }
}

/// What all threads but this one have cached.
fn cached_by_others() -> usize {
    millpond::flush_thread();
    law::holds().thread_cached
}

/// `count` threads touch all classes, then do `last`, and then stay idle while `look` looks.
fn with_idle(count: usize, last: fn(), look: impl FnOnce(usize)) {
    let before = cached_by_others();
    let touched = Barrier::new(count);
    let body = || {
        touch_all_classes();
        touched.wait();
        last();
    };
    idle_while(vec![body; count], || look(before));
}

#[test]
fn an_idle_thread_is_bounded() {
    Scenario::new("an_idle_thread_is_bounded").passes(|| {
        for count in [1, 2, 16] {
            with_idle(
                count,
                || {},
                |before| {
                    let cached = cached_by_others() - before;
                    println!("{} KiB in {count} idle threads", cached / KIB);
                    assert!(cached > 0);
                    assert!(cached <= count * BOUND, "{} KiB in {count} idle threads", cached / KIB);
                },
            );
            // Its exit gives everything back.
            assert!(cached_by_others() <= BOUND, "{:?}", law::holds());
        }
    });
}

/// The thread's bound is not for idle ones alone: it is what a cache may ever hold.
#[test]
fn a_busy_thread_is_bounded_after_each_burst() {
    Scenario::new("a_busy_thread_is_bounded_after_each_burst").passes(|| {
        for size in [16, 500, 4 * KIB, 50 * KIB, LARGEST_CLASS] {
            millpond::flush_thread();
            let before = law::holds().thread_cached;
            let mut chunks = [core::ptr::null_mut(); 5000];
            let count = (64 * MIB / size).min(5000);
            for chunk in &mut chunks[..count] {
                *chunk = take(size, 1);
            }
            for chunk in &chunks[..count] {
                // SAFETY: taken above with this size.
                unsafe { give(*chunk, size, 1) };
            }
            let cached = law::holds().thread_cached - before;
            assert!(cached <= BOUND, "{} KiB of {size}", cached / KIB);
        }
    });
}

#[test]
fn flushing_a_thread_empties_its_cache() {
    Scenario::new("flushing_a_thread_empties_its_cache").passes(|| {
        millpond::flush_thread();
        let before = law::holds();
        touch_all_classes();
        let full = law::holds();
        assert!(full.thread_cached > before.thread_cached);
        millpond::flush_thread();
        let after = law::holds();
        assert_eq!(after.thread_cached, before.thread_cached, "{after:?}");
        assert_eq!(after.live, before.live);
    });
}

#[test]
fn after_two_seconds_only_loaded_magazines_stay() {
    Scenario::new("after_two_seconds_only_loaded_magazines_stay").passes(|| {
        with_idle(8, leave_spares, |_| {
            let at_first = cached_by_others();
            light_activity(Duration::from_secs(2));
            let cached = cached_by_others();
            // What a trim then finds out of its reach are the loaded ones: nothing else may have been left.
            let trimmed = millpond::trim();
            println!("{at_first} at first, {cached} after, {trimmed:?}");
            assert!(at_first > trimmed.loaded, "no spares at first");
            assert!(cached <= trimmed.loaded, "{cached} cached, {trimmed:?}");
            assert_eq!(law::holds().thread_cached, trimmed.loaded);
        });
    });
}

#[test]
fn a_trim_reaches_the_spares_of_others() {
    Scenario::new("a_trim_reaches_the_spares_of_others").passes(|| {
        with_idle(8, leave_spares, |_| {
            let before = cached_by_others();
            let trimmed = millpond::trim();
            let after = law::holds();
            assert_eq!(after.thread_cached, trimmed.loaded, "{trimmed:?}");
            assert!(after.thread_cached < before, "no spares before: {trimmed:?}");
            assert_eq!(after.pooled, 0, "{after:?}");
            assert_eq!(after.dirty, 0, "{after:?}");
        });
    });
}
