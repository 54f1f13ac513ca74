//! The figures add up, follow what the program does, and agree with the kernel.

mod common;

use common::block::{Block, give, take};
use common::chain::Chain;
use common::child::Scenario;
use common::random::Random;
use common::thread::{Gate, together};
use common::{GIB, KIB, LARGEST_CLASS, MIB, kernel, law, scaled};
use std::sync::Barrier;

fn blocks(count: usize, low: usize, high: usize, seed: u64) -> Vec<Block> {
    let mut random = Random::new(seed);
    (0..count)
        .map(|_| {
            let align = 1 << random.below(8);
            Block::new(random.size(low, high), align, random.word()).expect("memory")
        })
        .collect()
}

#[test]
fn the_law_holds_whatever_is_done() {
    Scenario::new("the_law_holds_whatever_is_done").passes(|| {
        let mut seed = 0;
        let mut held: Vec<Vec<Block>> = Vec::new();
        let mut random = Random::new(1);
        for _ in 0..scaled(600, 200) {
            seed += 1;
            match random.below(10) {
                0 | 1 => held.push(blocks(300, 1, 4 * KIB, seed)),
                2 => held.push(blocks(40, 4 * KIB, LARGEST_CLASS, seed)),
                3 => held.push(blocks(4, LARGEST_CLASS, 8 * MIB, seed)),
                4 => held.push(blocks(1, 32 * MIB, 40 * MIB, seed)),
                5 => {
                    millpond::trim();
                }
                6 => millpond::flush_thread(),
                7 => together((0..3).map(|id| {
                    move || {
                        let own = blocks(200, 1, 16 * KIB, seed * 8 + id);
                        own.into_iter().for_each(Block::free);
                    }
                })),
                8 => {
                    if let Some(blocks) = held.pop() {
                        let resized =
                            blocks.into_iter().map(|block| block.resize(random.size(1, MIB)).expect("memory"));
                        held.push(resized.collect());
                    }
                }
                _ => {}
            }
            while held.len() > 12 {
                let gone = held.swap_remove(random.below(held.len()));
                gone.into_iter().for_each(Block::free);
            }
            law::holds();
        }
        held.into_iter().flatten().for_each(Block::free);
        millpond::trim();
        let end = law::holds();
        assert_eq!(end.dirty, 0, "trim gives back all that is free: {end:?}");
        assert_eq!(end.pooled, 0, "{end:?}");
        assert_eq!(end.stranded, 0, "{end:?}");
    });
}

#[test]
fn the_law_holds_with_idle_threads() {
    Scenario::new("the_law_holds_with_idle_threads").passes(|| {
        let (ready, end) = (Barrier::new(7), Gate::new());
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6)
                .map(|id| {
                    let (ready, end) = (&ready, &end);
                    scope.spawn(move || {
                        let held = blocks(500, 1, 32 * KIB, id);
                        let gone = blocks(500, 1, 32 * KIB, id + 10);
                        gone.into_iter().for_each(Block::free);
                        ready.wait();
                        end.wait();
                        held.into_iter().for_each(Block::free);
                    })
                })
                .collect();
            ready.wait();
            let idle = law::holds();
            assert!(idle.thread_cached > 0, "{idle:?}");
            let trimmed = millpond::trim();
            let after = law::holds();
            assert_eq!(after.thread_cached, trimmed.loaded, "{after:?}");
            end.open();
            for thread in threads {
                thread.join().expect("its blocks");
            }
        });
        law::holds();
    });
}

#[test]
fn live_is_what_the_program_holds() {
    Scenario::new("live_is_what_the_program_holds").passes(|| {
        let mut held: [Option<Block>; 400] = [const { None }; 400];
        let cases = [(8, 256), (129, 4 * KIB), (4 * KIB, LARGEST_CLASS), (LARGEST_CLASS + 1, 4 * MIB)];
        for (low, high) in cases {
            let mut random = Random::new(low as u64);
            let before = millpond::stats().live;
            let (mut asked, mut usable) = (0, 0);
            for place in held.iter_mut().take(if high > MIB { 50 } else { 400 }) {
                let block = Block::new(random.size(low, high), 8, 1).expect("memory");
                asked += block.size;
                usable += millpond::usable_size(block.ptr).expect("a live block");
                *place = Some(block);
            }
            let live = law::holds().live - before;
            if high <= LARGEST_CLASS {
                assert_eq!(live, usable, "{low}..{high}");
            }
            if low > 128 {
                assert!((asked..=asked + asked / 4).contains(&live), "{live} for {asked} of {low}..{high}");
            }
            for place in &mut held {
                if let Some(block) = place.take() {
                    block.free();
                }
            }
            assert_eq!(law::holds().live, before);
        }
        // A huge one.
        let before = millpond::stats().live;
        let block = Block::new(100 * MIB + 1, 8, 1).expect("memory");
        let live = law::holds().live - before;
        assert!((block.size..block.size + MIB).contains(&live), "{live}");
        block.free();
        assert_eq!(law::holds().live, before);
    });
}

#[test]
fn committed_is_what_the_kernel_says() {
    Scenario::new("committed_is_what_the_kernel_says").variable("MILLPOND_THP", "never").passes(|| {
        let slack = 4 * MIB;
        let agree = |what: &str, before: (usize, usize)| {
            let committed = law::holds().committed as isize - before.0 as isize;
            let resident = kernel::resident_anonymous() as isize - before.1 as isize;
            assert!(committed >= resident - slack as isize, "{what}: {committed} committed, {resident} resident");
            assert!(
                committed <= resident + resident.abs() / 10 + slack as isize,
                "{what}: {committed} committed, {resident} resident"
            );
        };
        for size in [48, 1000, 10 * KIB, 200 * KIB, 2 * MIB, 50 * MIB] {
            let before = (law::holds().committed, kernel::resident_anonymous());
            let mut chain = Chain::new(size);
            for _ in 0..(200 * MIB).div_ceil(size) {
                assert!(chain.push());
                chain.dirty_last();
            }
            agree("held", before);
            chain.free_every_second();
            agree("half freed", before);
            millpond::trim();
            agree("half freed, trimmed", before);
            chain.free_all();
            agree("freed", before);
            millpond::trim();
            agree("trimmed", before);
        }
    });
}

#[test]
fn metadata_is_small() {
    Scenario::new("metadata_is_small").passes(|| {
        let mut chain = Chain::new(64);
        let count = scaled(GIB, GIB / 4) / 64;
        assert_eq!(chain.push_up_to(count).len, count);
        let stats = law::holds();
        println!("# metadata: {:.2} % of what is committed", stats.metadata as f64 * 100.0 / stats.committed as f64);
        assert!(stats.metadata * 50 <= stats.committed, "more than 2 %: {stats:?}");
        chain.free_all();
        law::holds();
    });
}

#[test]
fn a_failed_allocation_changes_nothing_that_is_live() {
    Scenario::new("a_failed_allocation_changes_nothing_that_is_live").passes(|| {
        let before = law::holds();
        for size in [1 << 50, 1 << 60, isize::MAX as usize - 7] {
            assert!(take(size, 8).is_null());
        }
        let after = law::holds();
        assert_eq!(after.live, before.live);
        assert_eq!(after.stranded, 0);
    });
}

#[test]
fn what_is_freed_in_one_class_serves_another() {
    Scenario::new("what_is_freed_in_one_class_serves_another").passes(|| {
        // 100 MiB at a time through all classes: without reuse it would be gigabytes.
        let mut most = 0;
        for shift in 5..=18 {
            for size in [1 << shift, 3 << (shift - 1)] {
                let size = size.min(LARGEST_CLASS);
                let mut chain = Chain::new(size);
                chain.push_up_to(100 * MIB / size);
                chain.free_all();
                most = most.max(law::holds().committed);
            }
        }
        assert!(most < 250 * MIB, "{} MiB committed", most / MIB);
    });
}

#[test]
fn reading_the_figures_disturbs_nobody() {
    Scenario::new("reading_the_figures_disturbs_nobody").passes(|| {
        let end = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|id| {
                    let end = &end;
                    scope.spawn(move || {
                        let mut seed = id;
                        while !end.load(std::sync::atomic::Ordering::Relaxed) {
                            seed += 3;
                            blocks(300, 1, 64 * KIB, seed).into_iter().for_each(Block::free);
                        }
                    })
                })
                .collect();
            let (mut random, mut found) = (Random::new(5), 0);
            for turn in 0..scaled(12_000, 2_000) {
                let stats = millpond::stats();
                // Torn between threads, but never absurd.
                assert!(stats.live < GIB && stats.committed < GIB, "{stats:?}");
                let text = format!("{stats}");
                assert!(!text.is_empty());
                let chunk = take(64, 8);
                assert!(millpond::usable_size(chunk) >= Some(64));
                // Whatever is at these addresses just now, or no longer: the answer is of that moment.
                for _ in 0..if turn % 16 == 0 { 20 } else { 0 } {
                    let near = chunk.wrapping_add(random.below(16 * MIB)).wrapping_sub(8 * MIB);
                    if millpond::usable_size(near).is_some() {
                        found += 1;
                    }
                    millpond::owns(near);
                }
                // SAFETY: taken above.
                unsafe { give(chunk, 64, 8) };
            }
            println!("{found} chunks met");
            end.store(true, std::sync::atomic::Ordering::Relaxed);
            for thread in threads {
                thread.join().expect("its work");
            }
        });
        law::holds();
    });
}

/// The pool of chunks of 1792 B, which nothing but the tests below uses.
fn quiet_pool() -> millpond::PoolStats {
    *millpond::stats().pools.iter().find(|pool| pool.chunk_size == 1792).expect("a pool")
}

#[test]
fn each_allocation_is_counted_once() {
    Scenario::new("each_allocation_is_counted_once").passes(|| {
        const EACH: usize = 5000;
        let before = quiet_pool();
        together((0..8).map(|id| {
            move || {
                let mut random = Random::new(id);
                let mut held: Vec<*mut u8> = Vec::new();
                for _ in 0..EACH {
                    held.push(take(1700, 8));
                    if random.below(3) > 0 {
                        let ptr = held.swap_remove(random.below(held.len()));
                        // SAFETY: allocated above, freed once.
                        unsafe { give(ptr, 1700, 8) };
                    }
                }
                // SAFETY: as above.
                held.drain(1..).for_each(|ptr| unsafe { give(ptr, 1700, 8) });
            }
        }));
        let after = quiet_pool();
        assert_eq!(after.allocations - before.allocations, 8 * EACH as u64);
        assert_eq!(after.live - before.live, 8);
        assert_eq!(after.deallocations() - before.deallocations(), 8 * (EACH as u64 - 1));
        assert_eq!(after.live + after.thread_cached + after.pooled + after.span_free, after.chunks, "{after:?}");
        assert!(after.refills > 0 && after.hit_rate() > 0.5 && after.hit_rate() < 1.0, "{after:?}");
    });
}

#[test]
fn large_allocations_are_counted_once() {
    Scenario::new("large_allocations_are_counted_once").passes(|| {
        let before = millpond::stats();
        let held: [*mut u8; 9] = core::array::from_fn(|at| take((300 << at) * KIB, 8));
        let live = millpond::stats();
        held.into_iter().enumerate().for_each(|(at, ptr)| {
            // SAFETY: allocated above.
            unsafe { give(ptr, (300 << at) * KIB, 8) };
        });
        let after = millpond::stats();
        assert_eq!(live.large_allocations - before.large_allocations, 9);
        assert_eq!(live.large_live - before.large_live, 9);
        assert_eq!(after.large_live, before.large_live);
        assert_eq!(live.allocations - live.deallocations, before.allocations - before.deallocations + 9);
        assert_eq!(after.allocations - after.deallocations, before.allocations - before.deallocations);
        assert!(live.allocated_bytes - before.allocated_bytes >= ((300 << 9) - 300) * KIB as u64);
    });
}

#[test]
fn a_threads_own_allocations_are_measured_whatever_others_do() {
    Scenario::new("a_threads_own_allocations_are_measured_whatever_others_do").passes(|| {
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        drop(std::hint::black_box(vec![1u8; 1000]));
                    }
                });
            }
            for count in 0..200 {
                let mut held = Chain::new(1000);
                let (_, measured) = millpond::measure(|| (0..count).for_each(|_| assert!(held.push())));
                assert_eq!((measured.allocations, measured.bytes), (count, count * 1024));
                held.free_all();
                let (large, measured) = millpond::measure(|| take(MIB, 8));
                assert_eq!((measured.allocations, measured.bytes), (1, MIB as u64));
                // SAFETY: allocated above.
                millpond::assert_no_alloc(|| unsafe { give(large, MIB, 8) });
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    });
}

#[test]
#[should_panic = "1 allocations of 16 bytes where there should be none"]
fn an_allocation_where_there_should_be_none_is_told() {
    millpond::assert_no_alloc(|| drop(std::hint::black_box(vec![1u8; 10])));
}

/// Times are told only where they are asked for, and each percentile lies between its neighbours.
/// What a chunk has more than was asked for is known where there are records; what lies outside of chunks always is.
#[test]
fn fragmentation_is_told_inside_chunks_and_outside() {
    let layout = std::alloc::Layout::from_size_align(33, 1).expect("valid");
    for (ids, inside) in [(true, Some(0.175)), (false, None)] {
        let heap = millpond::Heap::builder().ids(ids).build().expect("memory");
        let blocks: Vec<_> = (0..100).map(|_| heap.alloc(layout).expect("memory")).collect();
        let stats = heap.stats();
        assert_eq!((stats.live, stats.requested), (4000, ids.then_some(3300)));
        assert_eq!(stats.fragmentation_inside(), inside);
        assert_eq!(stats.fragmentation_outside(), (stats.committed - 4000) as f64 / stats.committed as f64);
        let text = stats.to_string();
        assert_eq!((text.contains("unused outside"), text.contains("unused inside       ")), (true, ids), "{text}");
        // SAFETY: allocated above, each freed once.
        blocks.into_iter().for_each(|block| unsafe { heap.free(block, layout) });
    }
}

#[test]
fn calls_are_timed_where_that_is_asked_for() {
    Scenario::new("calls_are_timed_where_that_is_asked_for").variable("MILLPOND_TIMING", "1").passes(|| {
        together((0..4).map(|id| move || blocks(20_000, 1, 4 * KIB, id).into_iter().for_each(Block::free)));
        blocks(50, LARGEST_CLASS + 1, MIB, 1).into_iter().for_each(Block::free);
        let stats = law::holds();
        sound(stats.timing.expect("calls are timed"), 80_000);
        assert!(stats.to_string().contains("\ntime, ns "), "{stats}");
    });
}

#[test]
fn a_heap_times_its_calls() {
    for mode in [millpond::Mode::Fast, millpond::Mode::Tracked] {
        let heap = millpond::Heap::builder().mode(mode).timing(true).build().expect("memory");
        let layout = core::alloc::Layout::new::<[u8; 100]>();
        for _ in 0..20_000 {
            let [one, other] = [heap.alloc(layout), heap.alloc_zeroed(layout)].map(|block| block.expect("memory"));
            // SAFETY: allocated just now.
            unsafe { (heap.free(one, layout), heap.free(other, layout)) };
        }
        sound(heap.check().expect("sound").timing.expect("calls are timed"), 40_000);
    }
    assert_eq!(millpond::Heap::new().expect("memory").stats().timing, None);
    let untimed = millpond::stats();
    assert!(untimed.timing.is_none() && !untimed.to_string().contains("time, ns"), "{untimed}");
}

/// One call in 32 is timed; a sixth more or less is beyond what chance does.
fn sound(timing: millpond::Timing, calls: u64) {
    for latency in [timing.alloc, timing.free] {
        assert!(latency.timed.abs_diff(calls / 32) < calls / 32 / 6, "{calls} calls: {timing:?}");
        assert!(latency.p50_ns <= latency.p99_ns && latency.p99_ns <= latency.max_ns, "{timing:?}");
        assert!(latency.mean_ns > 0 && latency.mean_ns <= latency.max_ns, "{timing:?}");
    }
}

#[test]
fn tags_are_among_the_tables() {
    Scenario::new("tags_are_among_the_tables").passes(|| {
        let before = millpond::stats();
        let _tag = millpond::tag("parser");
        let after = millpond::stats();
        assert!(after.metadata > before.metadata && after.accounted() == after.committed, "{after}");
    });
}
