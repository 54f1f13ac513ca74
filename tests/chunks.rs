//! Walks over all that is given out, with records or without: exact at rest, and of what lives throughout while others go on.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward)))]

mod common;

use common::child::Scenario;
use millpond::{Chunk, Heap, Mode};
use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

const MODES: [(Mode, u32); 4] = [(Mode::Fast, 0), (Mode::Tracked, 0), (Mode::Hardened, 0), (Mode::Hardened, 3)];

fn heap((mode, guard): (Mode, u32)) -> Heap {
    Heap::builder().mode(mode).guard(guard).build().expect("memory")
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("valid")
}

fn free(heap: &Heap, block: NonNull<u8>, size: usize) {
    // SAFETY: from this heap with this size, freed once by each caller.
    unsafe { heap.free(block, layout(size)) };
}

/// Of all classes, runs of pages and mappings of their own.
const SIZES: [usize; 8] = [0, 1, 24, 100, 5000, 200_000, 300_000, 40 << 20];

#[test]
fn at_rest_a_walk_tells_what_is_live() {
    for mode in MODES {
        let heap = heap(mode);
        let mut live = BTreeMap::new();
        for (at, size) in (0..40).flat_map(|round| SIZES.map(|size| (round, size))) {
            if size > 1 << 20 && at > 2 {
                continue;
            }
            let block = heap.alloc(layout(size)).expect("memory");
            if at % 3 == 0 {
                live.insert(block.addr().get(), size);
            } else {
                free(&heap, block, size);
            }
        }
        let mut found: Vec<Chunk> = Vec::new();
        let count = heap.walk_chunks(|chunk| found.push(chunk)).expect("memory");
        assert_eq!((count, found.len()), (live.len(), live.len()), "{mode:?}");
        for chunk in &found {
            let size = live.get(&chunk.address).unwrap_or_else(|| panic!("{chunk:?} is not live in {mode:?}"));
            assert!(!chunk.maybe && chunk.size >= *size, "{chunk:?}, {size} bytes");
            let recorded = chunk.record.map(|record| (record.address, record.size));
            assert_eq!(recorded, (mode.0 != Mode::Fast).then_some((chunk.address, *size)));
        }
        let stats = heap.check().expect("sound");
        assert_eq!(found.iter().map(|chunk| chunk.size).sum::<usize>(), stats.live, "{mode:?}");
        assert_eq!(found.len() as u64, stats.allocations - stats.deallocations, "{mode:?}");
    }
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Each of the long-lived is told once, and for sure, in each walk; what `visit` itself does changes nothing.
#[test]
fn what_lives_throughout_is_told_while_others_go_on() {
    for mode in MODES {
        let heap = heap(mode);
        let mut blocks: Vec<_> =
            (0..3000).map(|at| (heap.alloc(layout(at % 400)).expect("memory"), at % 400)).collect();
        // Every other one, so that the rest of each span comes and goes.
        let mut turn = 0;
        blocks.retain(|(block, size)| {
            turn += 1;
            if turn % 2 == 0 {
                free(&heap, *block, *size);
            }
            turn % 2 != 0
        });
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for seed in 0..3 {
                let (heap, stop) = (&heap, &stop);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    let mut live: Vec<(NonNull<u8>, usize)> = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let size = random.usize(..400);
                        live.push((heap.alloc(layout(size)).expect("memory"), size));
                        if live.len() > 500 {
                            for (block, size) in live.drain(random.usize(..400)..) {
                                free(heap, block, size);
                            }
                        }
                    }
                    live.into_iter().for_each(|(block, size)| free(heap, block, size));
                });
            }
            // Also if a check fails: the scope waits for them.
            let _ends = Ends(&stop);
            let mut walks = 0;
            while walks < 10 {
                let mut told = BTreeMap::new();
                let walked = heap.walk_chunks(|chunk| {
                    free(&heap, heap.alloc(layout(50)).expect("memory"), 50);
                    assert!(told.insert(chunk.address, chunk.maybe).is_none(), "{chunk:?} is told twice");
                });
                if walked.is_none() {
                    continue;
                }
                walks += 1;
                let missing = blocks.iter().filter(|(block, _)| told.get(&block.addr().get()) != Some(&false)).count();
                assert_eq!(missing, 0, "{mode:?}");
            }
        });
        blocks.into_iter().for_each(|(block, size)| free(&heap, block, size));
        assert_eq!(heap.walk_chunks(|chunk| panic!("{chunk:?} is not live")), Some(0));
    }
}

/// A chunk that comes and goes all the time is met, sooner or later, as it is freed between two looks: marked, as without records
/// nobody can tell.
#[test]
fn what_goes_meanwhile_is_marked() {
    let heap = heap((Mode::Fast, 0));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let block = heap.alloc(layout(100)).expect("memory");
                // As long as it is freed.
                (0..100).for_each(|_| std::hint::spin_loop());
                free(&heap, block, 100);
                (0..100).for_each(|_| std::hint::spin_loop());
            }
        });
        let _ends = Ends(&stop);
        let is_marked = || {
            let mut marked = false;
            heap.walk_chunks(|chunk| marked |= chunk.maybe).expect("memory");
            marked
        };
        assert!((0..1_000_000).any(|_| is_marked()), "none is marked");
    });
}

/// The program's own allocator, with what was allocated before there were records.
#[test]
fn the_global_heap_is_walked_in_each_mode() {
    walks_the_global_heap();
    let test = Scenario::new("the_global_heap_is_walked_in_each_mode").variable("MILLPOND_MODE", "tracked");
    test.passes(walks_the_global_heap);
}

fn walks_the_global_heap() {
    let kept = vec![7u8; 3000];
    let (mut found, mut with_record) = (0, 0);
    let count = millpond::walk_chunks(|chunk| {
        if chunk.address == kept.as_ptr().addr() {
            found += 1;
            assert!(!chunk.maybe && chunk.size >= 3000, "{chunk:?}");
            with_record += usize::from(chunk.record.is_some_and(|record| record.size == 3000));
        }
    });
    assert_eq!((found, with_record), (1, usize::from(millpond::mode() != Mode::Fast)));
    assert!(count.expect("memory") > 10);
}
