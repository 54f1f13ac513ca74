//! A machine of many processors, which need not be there: each thread says for itself on which one it runs. What they free goes
//! back as if there were one, wherever it was freed and whoever looks; and a thread that moves leaves nothing behind.

mod common;

use common::block::{Block, give, take};
use common::child::Scenario;
use common::random::Random;
use common::table::Table;
use common::thread::{idle_while, light_activity, together};
use common::{KIB, MIB, kernel, law, scaled};
use core::cell::Cell;
use std::sync::Barrier;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

thread_local! {
    static PROCESSOR: Cell<Option<u32>> = const { Cell::new(None) };
    static WAS_ASKED: Cell<bool> = const { Cell::new(false) };
}

/// In libc's place: the processor that the calling thread has chosen, or the first.
#[unsafe(no_mangle)]
extern "C" fn sched_getcpu() -> libc::c_int {
    WAS_ASKED.set(true);
    PROCESSOR.get().unwrap_or(0) as libc::c_int
}

/// Has the calling thread be on another processor from now on. It notices within some slow paths.
fn move_to(processor: u32) {
    PROCESSOR.set(Some(processor));
}

/// The same, and goes so many slow paths that it is noticed.
fn settle_on(processor: u32) {
    move_to(processor);
    WAS_ASKED.set(false);
    while !WAS_ASKED.get() {
        let chunks: [u64; 16] = core::array::from_fn(|_| take(16 * KIB, 8) as u64);
        free_all(&chunks, 16 * KIB);
    }
}

/// Pins the calling thread, in truth, to one of the processors that it may use.
fn pin_to(nth: usize) {
    move_to(common::thread::pin_to(nth) as u32);
}

/// Chunks of one size, each written to, in random order.
fn chunks(bytes: usize, size: usize, random: &mut Random) -> Table<u64> {
    let mut table = Table::new(bytes / size);
    for word in &mut *table {
        let chunk = take(size, 8);
        assert!(!chunk.is_null());
        // SAFETY: a fresh allocation of that size.
        unsafe { chunk.write_bytes(0xa5, size) };
        *word = chunk as u64;
    }
    random.shuffle(&mut table);
    table
}

fn free_all(chunks: &[u64], size: usize) {
    for chunk in chunks {
        // SAFETY: from `chunks`, of this size; freed once.
        unsafe { give(*chunk as *mut u8, size, 8) };
    }
}

/// So much of one size is freed in random order at the same time, by threads that then stay idle, each on a processor of its own;
/// and then `then` looks.
fn freed_on(processors: &[u32], bytes: usize, size: usize, arrive: fn(u32), then: impl FnOnce(usize)) {
    let table = chunks(bytes, size, &mut Random::new(42));
    let peak = kernel::resident() - Table::<u64>::bytes(table.len());
    let parts: Vec<_> = table.chunks(table.len().div_ceil(processors.len())).map(Table::copy).collect();
    drop(table);
    let begin = Barrier::new(processors.len());
    let body = |(part, processor): (Table<u64>, &u32)| {
        let (begin, processor) = (&begin, *processor);
        move || {
            arrive(processor);
            begin.wait();
            free_all(&part, size);
            drop(part);
        }
    };
    idle_while(parts.into_iter().zip(processors).map(body).collect(), || then(peak));
    law::holds();
}

fn within_a_tenth(peak: usize) {
    let (resident, stats) = (kernel::resident(), millpond::stats());
    println!("# {} MiB of {} MiB stay, {} KiB in pools", resident / MIB, peak / MIB, stats.pooled / KIB);
    assert!(resident * 10 <= peak, "{} MiB of {} MiB stay: {stats:?}", resident / MIB, peak / MIB);
}

/// What many processors free at once goes back like what one does.
#[test]
fn many_processors_free_and_light_activity_returns_it() {
    Scenario::new("many_processors_free_and_light_activity_returns_it").passes(|| {
        let processors: Vec<u32> = (0..16).collect();
        freed_on(&processors, 256 * MIB, 48, move_to, |peak| {
            light_activity(Duration::from_secs(2));
            within_a_tenth(peak);
        });
    });
}

/// Of one size no more stays in pools, whatever the number of processors that are known, than some 4 MiB for those that were in use,
/// and as much again for those that come.
#[test]
fn pools_are_bounded_whatever_the_number_of_processors() {
    Scenario::new("pools_are_bounded_whatever_the_number_of_processors").passes(|| {
        for count in [1, 3, 64, 256] {
            let processors: Vec<u32> = (0..count).collect();
            freed_on(&processors, 128 * MIB, 1024, settle_on, |_| {
                let pooled = millpond::stats().pooled;
                println!("# {} KiB in pools, of {count} processors", pooled / KIB);
                assert!(pooled <= 9 * MIB, "{} KiB in pools, of {count} processors", pooled / KIB);
            });
            millpond::trim();
        }
    });
}

/// Whoever trims reaches what was freed on every processor.
#[test]
fn a_trim_reaches_all_processors() {
    Scenario::new("a_trim_reaches_all_processors").passes(|| {
        freed_on(&[3, 15, 16, 17, 63, 255], 32 * MIB, 200, move_to, |_| {
            let before = law::holds();
            assert!(before.pooled > 0);
            millpond::trim();
            let after = law::holds();
            assert_eq!((after.pooled, after.dirty, after.live), (0, 0, before.live), "{after:?}");
            // The threads' own books: none of what they freed.
            assert!(after.live < MIB, "{after:?}");
        });
    });
}

/// Eight threads on the processors that there are, in truth; the one with little to do stays on one of them.
#[test]
fn eight_pinned_threads_free_and_light_activity_returns_it() {
    Scenario::new("eight_pinned_threads_free_and_light_activity_returns_it").passes(|| {
        let arrive = |nth: u32| pin_to(nth as usize);
        freed_on(&[0, 1, 2, 3, 4, 5, 6, 7], scaled(512, 128) * MIB, 48, arrive, |peak| {
            pin_to(0);
            light_activity(Duration::from_secs(2));
            within_a_tenth(peak);
        });
    });
}

/// A program that has run on one processor, so long that its pools are deep, and then has little to do on another.
#[test]
fn a_program_that_moves_leaves_nothing_behind() {
    Scenario::new("a_program_that_moves_leaves_nothing_behind").passes(|| {
        for (from, to) in [(0, 1), (1, 0), (5, 21)] {
            move_to(from);
            let mut random = Random::new(1);
            // A tick that falls into one of the frees takes it for a burst.
            let mut rounds = 0;
            while rounds < 20 || millpond::stats().pooled <= 3 * MIB {
                let table = chunks(16 * MIB, 100, &mut random);
                free_all(&table, 100);
                rounds += 1;
            }
            let before = law::holds().pooled;
            move_to(to);
            light_activity(Duration::from_secs(2));
            let after = law::holds().pooled;
            println!("# {} KiB in pools, {} KiB two seconds after", before / KIB, after / KIB);
            // What the light activity itself needs comes and goes.
            assert!(after <= MIB, "{} KiB of {} KiB stay", after / KIB, before / KIB);
        }
    });
}

/// One thread that is on another processor all the time: what it allocates is its own and intact, nothing is lost, and its pools hold
/// no more than those of one that stays.
#[test]
fn a_thread_that_moves_all_the_time_keeps_its_memory() {
    Scenario::new("a_thread_that_moves_all_the_time_keeps_its_memory").passes(|| {
        let mut random = Random::new(3);
        let mut most = [0; 2];
        for (moves, most) in [false, true].into_iter().zip(&mut most) {
            let work = |random: &mut Random, most: &mut usize| {
                let mut live: Vec<Block> = Vec::with_capacity(20_000);
                for step in 0..scaled(1_000_000, 200_000) {
                    if moves && step % 100 == 0 {
                        move_to(random.below(256) as u32);
                    }
                    // In waves, so that pools are filled and emptied.
                    if live.len() < 20_000 && (step / 20_000) % 2 == 0 {
                        live.push(Block::new(random.size(1, 2 * KIB), 8, random.word()).expect("memory"));
                    } else if !live.is_empty() {
                        live.swap_remove(random.below(live.len())).free();
                    }
                    if step % 5000 == 0 {
                        *most = millpond::stats().pooled.max(*most);
                    }
                }
                live.into_iter().for_each(Block::free);
            };
            work(&mut random, most);
            let before = law::holds();
            work(&mut random, most);
            let after = law::holds();
            assert_eq!((after.live, after.stranded), (before.live, 0), "{before:?}, then {after:?}");
        }
        println!("# at most {} KiB in pools, {} KiB where it moves", most[0] / KIB, most[1] / KIB);
        assert!(most[1] <= 2 * most[0] + 4 * MIB, "at most {} KiB in pools, {} where it moves", most[0], most[1]);
    });
}

/// Threads on processors of their own pass blocks around, and some move meanwhile: each block arrives as it was sent, and in the end
/// all is where it was.
#[test]
fn blocks_pass_between_processors() {
    Scenario::new("blocks_pass_between_processors").passes(|| {
        const THREADS: u32 = 6;
        let scenario = || {
            let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| sync_channel::<Vec<Block>>(4)).unzip();
            let mut senders = senders;
            senders.rotate_left(1);
            let ring = senders.into_iter().zip(receivers).zip(0..);
            together(ring.map(|((next, inbox), id)| {
                move || {
                    let mut random = Random::new(u64::from(id));
                    if id % 2 == 0 {
                        pin_to(id as usize)
                    } else {
                        move_to(7 * id)
                    }
                    for _ in 0..scaled(100, 20) {
                        let block = |random: &mut Random| {
                            let size = random.size(1, 40 * KIB);
                            Block::new(size, 8, random.word()).expect("memory")
                        };
                        let batch = (0..200).map(|_| block(&mut random)).collect();
                        next.send(batch).expect("a reader");
                        inbox.recv().expect("a writer").into_iter().for_each(Block::free);
                        if id == 5 {
                            move_to(random.below(64) as u32);
                        }
                    }
                }
            }));
        };
        // Once for what the standard library keeps for good.
        scenario();
        let before = law::holds();
        scenario();
        let after = law::holds();
        assert_eq!((after.live, after.stranded), (before.live, 0), "{before:?}, then {after:?}");
        light_activity(Duration::from_secs(2));
        let pooled = law::holds().pooled;
        assert!(pooled <= MIB, "{} KiB in pools, {} KiB at first", pooled / KIB, after.pooled / KIB);
    });
}
