//! Leaks: what the program can get at no more is found, whatever it is, and nothing else; at its end and by a call.

mod common;

use common::block::take;
use common::child::{Ended, Scenario, say};
use common::thread::{elsewhere, pin_to};
use common::{GIB, KIB, MIB, ensure, scaled};
use core::alloc::Layout;
use millpond::{Heap, Mode};
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::thread;

/// What a program holds on to.
static HELD: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());

fn hold(ptr: *mut u8) {
    HELD.store(ptr, Ordering::Relaxed);
}

/// Takes blocks and forgets them.
fn lose(count: usize, size: usize) {
    for _ in 0..count {
        black_box(take(size, 8));
    }
}

/// Chunks of a size that nothing else here has, each with the address of the next but for the last; returns the first.
fn chain(count: usize, size: usize) -> *mut u8 {
    let mut next = core::ptr::null_mut();
    for _ in 0..count {
        let node = take(size, 8).cast::<*mut u8>();
        // SAFETY: a chunk of our own, of more than a word.
        unsafe { node.write(next) };
        next = node.cast();
    }
    next
}

/// How many lost allocations of this size are found, and how many of them no other holds.
fn lost(size: usize) -> (u64, u64) {
    let leaks = millpond::leaks().expect("the system tells");
    let group = leaks.groups().iter().find(|group| group.size == size);
    group.map_or((0, 0), |group| (group.count, group.direct))
}

/// Whether so many were found, of so many: a word somewhere may look like the address of one or two.
fn found(found: u64, of: u64) -> bool {
    (of - of.min(4)..=of).contains(&found)
}

#[test]
fn what_a_thread_has_lost_is_found_after_it() {
    Scenario::new("what_a_thread_has_lost_is_found_after_it").passes(|| {
        elsewhere(|| lose(100, 6 * KIB));
        let (count, direct) = lost(6 * KIB);
        assert!(found(count, 100) && direct == count, "{count}, {direct}");
        // Of what one holds another is told apart.
        elsewhere(|| {
            for _ in 0..10 {
                black_box(chain(10, 7 * KIB));
            }
        });
        let (count, direct) = lost(7 * KIB);
        assert!((60..=100).contains(&count) && found(direct, 10), "{count}, {direct}");
        assert!(found(lost(6 * KIB).0, 100));
    });
}

#[test]
fn what_holds_itself_is_lost() {
    Scenario::new("what_holds_itself_is_lost").passes(|| {
        elsewhere(|| {
            for size in [6 * KIB, 300 * KIB].repeat(10) {
                let (one, other) = (take(size, 8).cast::<*mut u8>(), take(size, 8).cast::<*mut u8>());
                // SAFETY: two chunks of our own.
                unsafe { (one.write(other.cast()), other.add(7).write(one.cast())) };
            }
        });
        for size in [6 * KIB, 320 * KIB] {
            let (count, direct) = lost(size);
            assert!((12..=20).contains(&count) && direct == 0, "{size}: {count}, {direct}");
        }
    });
}

#[test]
fn what_is_held_is_not_lost() {
    Scenario::new("what_is_held_is_not_lost").passes(|| {
        // By an address inside of it, in a chunk that is held so too.
        for size in [6 * KIB, 300 * KIB, 40 * MIB] {
            elsewhere(move || {
                let inner = take(size, 8);
                let outer = take(size, 8);
                // SAFETY: inside two blocks of our own.
                unsafe {
                    outer.add(size - 8).cast::<*mut u8>().write(inner.add(size - 1));
                    hold(outer.add(size / 2));
                }
            });
            assert_eq!(lost(size.next_multiple_of(if size > 256 * KIB { 64 * KIB } else { 1 })), (0, 0), "{size}");
        }
        // By a stack, of a thread that waits and of one that runs.
        let (ready, done) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            let (ready, done) = (&ready, &done);
            let threads = [false, true].map(|waits| {
                scope.spawn(move || {
                    let kept = black_box([take(7 * KIB, 8)]);
                    ready.fetch_add(1, Ordering::Release);
                    while !done.load(Ordering::Acquire) {
                        if waits {
                            thread::park();
                        }
                    }
                    black_box(kept);
                })
            });
            while ready.load(Ordering::Acquire) < 2 {
                thread::yield_now();
            }
            assert_eq!(lost(7 * KIB), (0, 0));
            done.store(true, Ordering::Release);
            threads.iter().for_each(|thread| thread.thread().unpark());
        });
    });
}

/// Fills a frame with the addresses of blocks, and leaves it.
#[inline(never)]
fn leave_below(count: usize, size: usize) {
    let mut left = [core::ptr::null_mut(); 1000];
    left[..count].fill_with(|| take(size, 8));
    black_box(&left);
}

/// What lies below the end of a waiting thread's stack is no more the program's.
#[test]
fn what_a_waiting_thread_has_left_is_found() {
    Scenario::new("what_a_waiting_thread_has_left_is_found").passes(|| {
        let (number, done) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                leave_below(1000, 5 * KIB);
                // SAFETY: no preconditions.
                number.store(unsafe { libc::gettid() } as usize, Ordering::Release);
                while !done.load(Ordering::Acquire) {
                    thread::park();
                }
            });
            let waits = || {
                let number = number.load(Ordering::Acquire);
                let text = std::fs::read_to_string(format!("/proc/self/task/{number}/stat")).unwrap_or_default();
                text.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('S'))
            };
            while !waits() {
                thread::yield_now();
            }
            let (count, _) = lost(5 * KIB);
            done.store(true, Ordering::Release);
            waiting.thread().unpark();
            // What it did since has been written over a part of it.
            assert!((700..=1000).contains(&count), "{count}");
        });
    });
}

/// More than the list of what is to be looked at has room for, and deeper than any stack.
#[test]
fn many_are_followed() {
    Scenario::new("many_are_followed").passes(|| {
        let count = scaled(2_000_000, 1_200_000);
        elsewhere(move || {
            hold(chain(count, 24));
            // All of them in one, each with another that nothing else has: the list overflows, and what it has no room for
            // is looked into all the same.
            let all = take(8 * count, 8).cast::<*mut u8>();
            let mut at = HELD.load(Ordering::Relaxed);
            for place in 0..count {
                // SAFETY: inside blocks of our own; each node has the next one's address, and room for another.
                unsafe {
                    all.add(place).write(at);
                    let node = at.cast::<*mut u8>();
                    node.add(1).write(take(40, 8));
                    at = node.read();
                }
            }
            hold(all.cast());
        });
        assert_eq!((lost(24), lost(40)), ((0, 0), (0, 0)));
    });
}

#[test]
fn a_hundred_thousand_and_a_huge_one_are_found() {
    Scenario::new("a_hundred_thousand_and_a_huge_one_are_found").passes(|| {
        elsewhere(|| {
            lose(100_000, 40);
            lose(8, GIB);
        });
        let before = common::kernel::resident();
        let (small, huge) = (lost(40).0, lost(GIB).0);
        assert!(found(small, 100_000) && found(huge, 8), "{small}, {huge}");
        // The huge ones were never written, and the tables are gone.
        let more = common::kernel::resident().saturating_sub(before);
        assert!(more < 4 * MIB, "{more} bytes stay");
    });
}

#[test]
fn records_say_which() {
    Scenario::new("records_say_which").variable("MILLPOND_MODE", "tracked").passes(|| {
        elsewhere(|| lose(1, 100));
        let mark = millpond::snapshot();
        elsewhere(|| {
            let _tag = millpond::tag("in \"quotes\"");
            lose(20, 100);
        });
        let leaks = millpond::leaks_since(mark).expect("the system tells");
        let group = leaks.groups().iter().find(|group| group.size == 100).expect("lost");
        let count = leaks.count();
        assert!(found(count, 20) && group.tag == "in \"quotes\"", "{leaks}");
        assert_eq!((leaks.bytes(), group.count, group.bytes), (100 * count, count, 100 * count), "{leaks}");
        let record = millpond::record(group.id).expect("live");
        assert_eq!((record.address, record.thread, record.time_ms), (group.address(), group.thread, group.time_ms));
        let text = leaks.to_string();
        let part = format!(" of      100, first at {:#x}, id {}, by thread ", group.address(), group.id);
        assert!(
            text.starts_with(&format!("leaks of process {}: {count} allocations, ", std::process::id()))
                && text.contains(&part),
            "{text}"
        );
        assert!(text.ends_with(" s ago, for in \"quotes\""), "{text}");
        let json: serde_json::Value = serde_json::from_str(&leaks.json().to_string()).expect("JSON");
        assert_eq!((&json["process"], leaks.process()), (&std::process::id().into(), std::process::id()));
        assert_eq!((&json["count"], &json["others"]), (&count.into(), &0.into()));
        assert_eq!((&json["groups"][0]["id"], &json["groups"][0]["tag"]), (&group.id.into(), &group.tag.into()));
        // Kept back is not lost.
        assert_eq!(millpond::leaks_since(millpond::snapshot()).expect("the system tells").count(), 0);
    });
}

#[test]
fn what_is_kept_back_is_not_lost() {
    Scenario::new("what_is_kept_back_is_not_lost").variable("MILLPOND_MODE", "hardened").passes(|| {
        let mark = millpond::snapshot();
        elsewhere(|| {
            for _ in 0..100 {
                let ptr = take(100, 8);
                // SAFETY: allocated just now.
                unsafe { common::block::give(black_box(ptr), 100, 8) };
            }
            lose(10, 100);
        });
        let leaks = millpond::leaks_since(mark).expect("the system tells");
        assert!(found(leaks.count(), 10), "{leaks}");
        // Nor can it be reached, though its addresses are known.
        let mut live = 0;
        millpond::walk(|_| live += 1);
        let leaks = millpond::leaks().expect("the system tells");
        assert_eq!(leaks.count() + leaks.reachable().0, live, "{leaks}");
    });
}

#[test]
fn what_is_kept_back_holds_nothing() {
    let scenario = Scenario::new("what_is_kept_back_holds_nothing").variable("MILLPOND_MODE", "tracked");
    scenario.variable("MILLPOND_QUARANTINE", "10M").variable("MILLPOND_FREED", "keep").passes(|| {
        elsewhere(|| {
            for _ in 0..20 {
                let holder = take(200 * KIB, 8);
                // SAFETY: inside a block of our own, which is freed once.
                unsafe {
                    holder.cast::<*mut u8>().add(5).write(take(6 * KIB, 8));
                    common::block::give(black_box(holder), 200 * KIB, 8);
                }
            }
        });
        assert!(found(lost(6 * KIB).0, 20));
    });
}

/// Nor does a mapping that has been freed, and stays for the next that is as long.
#[test]
fn a_freed_mapping_that_stays_holds_nothing() {
    Scenario::new("a_freed_mapping_that_stays_holds_nothing").passes(|| {
        const SIZE: usize = 64 * MIB;
        elsewhere(|| {
            let come_and_go = |lost: usize| {
                let holder = take(SIZE, 8);
                // SAFETY: inside a block of our own, which is freed once.
                unsafe {
                    (0..lost).for_each(|at| holder.cast::<*mut u8>().add(5 + at).write(take(6 * KIB, 8)));
                    common::block::give(black_box(holder), SIZE, 8);
                }
            };
            come_and_go(0);
            come_and_go(20);
        });
        assert!(millpond::stats().dirty >= SIZE, "it stays");
        assert!(found(lost(6 * KIB).0, 20));
    });
}

/// A profile has the addresses of what it samples, and does not hold it.
#[test]
fn what_is_sampled_is_lost_all_the_same() {
    Scenario::new("what_is_sampled_is_lost_all_the_same").passes(|| {
        millpond::profile::start(1);
        elsewhere(|| lose(100, 6 * KIB));
        assert!(found(lost(6 * KIB).0, 100));
        millpond::profile::stop();
        assert!(found(lost(6 * KIB).0, 100));
    });
}

/// Runs a body whose process then ends by itself.
fn ended(test: &'static str, leaks: &'static str, body: impl FnOnce()) -> Option<Ended> {
    Scenario::new(test).variable("MILLPOND_LEAKS", leaks).run(body)
}

#[test]
fn at_the_end_they_are_reported_and_fail() {
    let test = "at_the_end_they_are_reported_and_fail";
    let Some(ended) = ended(test, "fail=7", || elsewhere(|| lose(10, 6 * KIB))) else {
        return;
    };
    assert_eq!(ended.status.code(), Some(7), "{}", ended.stderr);
    assert!(ended.stdout.contains("test result: ok"), "streams are written: {}", ended.stdout);
    assert!(ended.stderr.starts_with("millpond: leaks of process "), "{}", ended.stderr);
    assert!(ended.stderr.contains(" of     6144, first at 0x"), "{}", ended.stderr);
}

#[test]
fn at_the_end_nothing_is_said_without_them() {
    let test = "at_the_end_nothing_is_said_without_them";
    let Some(ended) = ended(test, "fail", || say(format_args!("all is held\n"))) else { return };
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""));
}

#[test]
fn at_the_end_others_go_on() {
    let test = "at_the_end_others_go_on";
    let Some(ended) = ended(test, "json,fail", || {
        elsewhere(|| lose(100, 200 * KIB));
        for thread in 0..4_u64 {
            thread::spawn(move || {
                let mut map = std::collections::HashMap::new();
                for round in thread.. {
                    map.insert(round % 997, vec![round as u8; round as usize % 3000]);
                    map.remove(&(round * 7 % 997));
                    if round % 64 == 0 {
                        black_box(vec![1u8; 40 * MIB]);
                    }
                    if round % 10_000 == 0 {
                        map.clear();
                    }
                }
            });
        }
    }) else {
        return;
    };
    assert_eq!(ended.status.code(), Some(23), "{} {}", ended.how(), ended.stderr);
    let json: serde_json::Value = serde_json::from_str(&ended.stderr).expect("JSON");
    let groups = json["groups"].as_array().expect("groups");
    let group = groups.iter().find(|group| group["size"] == 224 * KIB).expect("lost");
    // The stack of the thread that has lost them is another's now: what that has not written over holds some.
    assert!((90..=100).contains(&group["count"].as_u64().expect("a number")), "{group}");
}

/// A heap of one's own knows what it has lost, and does not hold what another has.
#[test]
fn a_heap_knows_its_own() {
    Scenario::new("a_heap_knows_its_own").passes(|| {
        let heap: &'static millpond::Heap = Box::leak(Box::new(millpond::Heap::new().expect("memory")));
        let layout = core::alloc::Layout::from_size_align(3000, 8).expect("valid");
        elsewhere(move || {
            let kept = heap.alloc(layout).expect("memory");
            // SAFETY: ours, and more than a word.
            unsafe { kept.cast().write(take(5 * KIB, 8)) };
            hold(kept.as_ptr());
            for _ in 0..10 {
                black_box(heap.alloc(layout).expect("memory"));
            }
        });
        let leaks = heap.leaks().expect("the system tells");
        assert!(found(leaks.count(), 10) && leaks.reachable().0 == 11 - leaks.count(), "{leaks}");
        assert_eq!(lost(5 * KIB), (0, 0));

        let heap: &'static millpond::Heap =
            Box::leak(Box::new(millpond::Heap::builder().ids(true).build().expect("memory")));
        let lose = |count: usize, tag: &'static str| {
            elsewhere(move || {
                let _tag = heap.tag(tag);
                (0..count).for_each(|_| _ = black_box(heap.alloc(layout).expect("memory")));
            });
        };
        lose(10, "before");
        let mark = heap.snapshot();
        lose(20, "after");
        let leaks = heap.leaks_since(mark).expect("the system tells");
        assert!(found(leaks.count(), 20) && leaks.groups().iter().all(|group| group.tag == "after"), "{leaks}");
        assert!(found(heap.leaks().expect("the system tells").count(), 30));
    });
}

/// A heap's tables had the addresses of its chunks. Once it is dropped, another may lie where it did, and have lost these.
#[test]
fn what_a_dropped_heap_had_holds_nothing() {
    Scenario::new("what_a_dropped_heap_had_holds_nothing").passes(|| {
        let layout = core::alloc::Layout::from_size_align(24, 8).expect("valid");
        let mut was = Vec::new();
        for _ in 0..4 {
            let heap: &'static millpond::Heap = Box::leak(Box::new(millpond::Heap::new().expect("memory")));
            let (tell, told) = std::sync::mpsc::channel();
            // Each bit the other way round: not for the search.
            elsewhere(move || {
                (0..100).for_each(|_| tell.send(!heap.alloc(layout).expect("memory").addr().get()).expect("heard"));
            });
            let is: Vec<usize> = told.iter().collect();
            if is.iter().filter(|address| was.contains(*address)).count() >= 90 {
                let leaks = heap.leaks().expect("the system tells");
                assert!(found(leaks.count(), 100), "{leaks}");
                return;
            }
            for address in is.iter().map(|address| core::ptr::with_exposed_provenance_mut(!address)) {
                // SAFETY: allocated above, with this layout.
                unsafe { heap.free(core::ptr::NonNull::new(address).expect("not null"), layout) };
            }
            was = is;
            // SAFETY: leaked above, and used no more.
            drop(unsafe { Box::from_raw(core::ptr::from_ref(heap).cast_mut()) });
        }
        panic!("no heap lies where another did");
    });
}

/// What only a closure in a heap has captured is held as long as the heap is.
#[test]
fn what_closures_of_a_heap_hold_is_not_lost() {
    Scenario::new("what_closures_of_a_heap_hold_is_not_lost").passes(|| {
        let make = || {
            let [soft, heard] = [vec![1u8; 5 * KIB], vec![1u8; 5 * KIB]];
            let builder = millpond::Heap::builder().soft_limit(MIB, move |_, _| _ = &soft);
            let heap = builder.on_misuse(move |_| _ = &heard).build().expect("memory");
            std::mem::forget(black_box(heap));
        };
        elsewhere(make);
        assert_eq!(lost(5 * KIB), (0, 0));
    });
}

/// Has threads allocate and free all the time, and hold what they have on their stacks alone.
fn churn(seed: u32, stop: &AtomicBool) {
    let mut held: [Option<Box<[u8]>>; 64] = std::array::from_fn(|_| None);
    let mut random = seed;
    while !stop.load(Ordering::Relaxed) {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (place, size) = ((random >> 8) as usize % held.len(), (random >> 14) as usize % 2000);
        held[place] = Some(vec![1; size].into_boxed_slice());
    }
}

/// What others hold is not lost however busy they are, and what is lost is told all the same.
fn busy_threads() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let threads: Vec<_> = (1..5).map(|seed| std::thread::spawn(move || churn(seed, &STOP))).collect();
    for _ in 0..40 {
        let leaks = millpond::leaks().expect("it can be told");
        ensure!(leaks.count() == 0, "{leaks}");
    }
    elsewhere(|| lose(10, 5000));
    let leaks = millpond::leaks().expect("it can be told");
    STOP.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    // Conservative: some of them may seem to be held.
    ensure!((8..=10).contains(&leaks.count()) && leaks.groups()[0].size >= 5000, "{leaks}");
}

#[test]
fn what_busy_threads_hold_is_not_lost() {
    Scenario::new("what_busy_threads_hold_is_not_lost").passes(busy_threads);
}

#[test]
fn what_busy_threads_hold_is_not_lost_in_tracked() {
    let test = Scenario::new("what_busy_threads_hold_is_not_lost_in_tracked").variable("MILLPOND_MODE", "tracked");
    test.passes(busy_threads);
}

#[test]
fn what_busy_threads_hold_is_not_lost_in_hardened() {
    let test = Scenario::new("what_busy_threads_hold_is_not_lost_in_hardened").variable("MILLPOND_MODE", "hardened");
    test.passes(busy_threads);
}

/// Has an address on the stack alone, once it is counted among those `ready`, and for a fiftieth of the time in a register alone.
fn in_hand(inverted: usize, ready: &AtomicUsize, stop: &AtomicBool) {
    let mut place = [0usize];
    // SAFETY: writes to the place alone.
    unsafe {
        core::arch::asm!(
            "mov [{place}], {address}",
            address = inout(reg) !inverted => _,
            place = in(reg) place.as_mut_ptr(),
        );
    }
    ready.fetch_add(1, Ordering::Release);
    while !stop.load(Ordering::Relaxed) {
        // SAFETY: the same.
        unsafe {
            core::arch::asm!(
                "mov {address}, [{place}]",
                "mov qword ptr [{place}], 0",
                "2: dec {few}",
                "jnz 2b",
                "mov [{place}], {address}",
                "xor {address:e}, {address:e}",
                "3: dec {many}",
                "jnz 3b",
                address = out(reg) _,
                place = in(reg) place.as_mut_ptr(),
                few = inout(reg) 20_000u64 => _,
                many = inout(reg) 1_000_000u64 => _,
            );
        }
    }
}

/// A thread that has to wait for its processor while it has an address in hand gets its turn before that is told as lost.
#[test]
fn what_a_thread_without_a_processor_has_in_hand_is_not_lost() {
    Scenario::new("what_a_thread_without_a_processor_has_in_hand_is_not_lost").passes(|| {
        static STOP: AtomicBool = AtomicBool::new(false);
        static INVERTED: AtomicUsize = AtomicUsize::new(0);
        static READY: AtomicUsize = AtomicUsize::new(0);
        pin_to(0);
        let hold = || {
            elsewhere(|| INVERTED.store(!take(7 * KIB, 8).addr(), Ordering::Relaxed));
            let inverted = INVERTED.load(Ordering::Relaxed);
            thread::spawn(move || {
                // SAFETY: touches no memory; the calling thread gets less than others.
                unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
                in_hand(inverted, &READY, &STOP)
            })
        };
        let threads: Vec<_> = (0..8).map(|_| hold()).collect();
        // Before that nobody has it.
        while READY.load(Ordering::Acquire) < threads.len() {
            thread::yield_now();
        }
        let found = [(); 200].map(|()| lost(7 * KIB));
        STOP.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert_eq!(found, [(0, 0); 200]);
    });
}

/// What one search for leaks has read of a heap is no more the program's than what another knows of it.
#[test]
fn searches_at_the_same_time_do_not_find_each_others_tables() {
    Scenario::new("searches_at_the_same_time_do_not_find_each_others_tables").passes(|| {
        let all = Barrier::new(2);
        let look = || {
            let heap = Heap::builder().mode(Mode::Tracked).build().expect("memory");
            let layout = Layout::from_size_align(64, 8).expect("valid");
            thread::scope(|scope| {
                let lose = || (0..500).for_each(|_| _ = black_box(heap.alloc(layout).expect("memory")));
                scope.spawn(lose).join().expect("no panic");
            });
            all.wait();
            for _ in 0..scaled(30, 10) {
                let leaks = heap.leaks().expect("the system tells");
                assert!(found(leaks.count(), 500), "{leaks}");
            }
            // The other's goes on beside this one's to the end.
            all.wait();
        };
        thread::scope(|scope| [(); 2].map(|()| scope.spawn(look)).map(|thread| thread.join().expect("no panic")));
    });
}

/// Where a thread ends while the system lists threads, it ends the list: what came after is not told, perhaps not who asks.
#[test]
fn threads_that_end_meanwhile_do_not_keep_a_search_from_knowing() {
    Scenario::new("threads_that_end_meanwhile_do_not_keep_a_search_from_knowing").passes(|| {
        let heap = Heap::builder().mode(Mode::Tracked).build().expect("memory");
        for round in 0..scaled(400, 200) {
            let begun = &AtomicBool::new(false);
            thread::scope(|scope| {
                let end = |turns: usize| {
                    while !begun.load(Ordering::Relaxed) {
                        thread::yield_now();
                    }
                    (0..turns).for_each(|_| thread::yield_now());
                };
                (0..64).for_each(|turns| _ = scope.spawn(move || end(turns)));
                // Behind them in the list.
                let look = scope.spawn(|| {
                    begun.store(true, Ordering::Relaxed);
                    heap.leaks().map(|leaks| leaks.count())
                });
                assert_eq!(look.join().expect("no panic"), Ok(0), "round {round}");
            });
        }
    });
}
