//! Heaps in each mode, as a program that knows the documentation alone may use them: every alignment, sizes of zero, limits that
//! many threads meet, wishes that cannot be met.

mod common;

use common::child::Scenario;
use common::random::Random;
use common::{MIB, scaled};
use core::alloc::Layout;
use core::ptr::NonNull;
use millpond::{Freed, Heap, HeapBuilder, Mode, PoolTable, Thp};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

const MODES: [Mode; 3] = [Mode::Fast, Mode::Tracked, Mode::Hardened];

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("valid")
}

/// An allocation with a pattern in it.
struct Held<'a> {
    heap: &'a Heap,
    ptr: NonNull<u8>,
    layout: Layout,
    mark: u8,
}

impl<'a> Held<'a> {
    fn new(heap: &'a Heap, layout: Layout, zeroed: bool, mark: u8) -> Option<Self> {
        let ptr = if zeroed { heap.alloc_zeroed(layout) } else { heap.alloc(layout) }.ok()?;
        let held = Self { heap, ptr, layout, mark };
        assert_eq!(ptr.addr().get() % layout.align(), 0, "{layout:?}");
        assert!(!zeroed || held.bytes(layout.size()).iter().all(|byte| *byte == 0), "{layout:?}");
        held.fill();
        Some(held)
    }

    fn bytes(&self, len: usize) -> &[u8] {
        // SAFETY: the block's own bytes, which have been written.
        unsafe { core::slice::from_raw_parts(self.ptr.as_ptr(), len) }
    }

    fn fill(&self) {
        // SAFETY: the block's own bytes.
        unsafe { self.ptr.write_bytes(self.mark, self.layout.size()) };
    }

    fn check(&self, len: usize) {
        assert!(self.bytes(len).iter().all(|byte| *byte == self.mark), "{:?}", self.layout);
    }

    /// False: it stays as it is.
    fn resize(&mut self, size: usize) -> bool {
        // SAFETY: the block's own layout.
        let Ok(ptr) = (unsafe { self.heap.realloc(self.ptr, self.layout, size) }) else { return false };
        assert_eq!(ptr.addr().get() % self.layout.align(), 0, "{:?}", self.layout);
        let kept = size.min(self.layout.size());
        (self.ptr, self.layout) = (ptr, layout(size, self.layout.align()));
        self.check(kept);
        self.fill();
        true
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.check(self.layout.size());
        // SAFETY: the heap's, freed once.
        unsafe { self.heap.free(self.ptr, self.layout) };
    }
}

#[track_caller]
fn is_at_rest(heap: &Heap, what: &str) {
    heap.trim();
    let stats = heap.check().expect("sound");
    let expected = (0, 0, stats.committed, stats.allocations);
    assert_eq!((stats.live, stats.quarantine, stats.accounted(), stats.deallocations), expected, "{what}\n{stats}");
}

#[test]
fn every_alignment_serves_every_size_and_zero() {
    for (mode, guard) in [(MODES[0], 0), (MODES[1], 0), (MODES[2], 0), (MODES[2], 2)] {
        for table in [PoolTable::Default, PoolTable::Sizes(&[24, 72, 1000, 100_000])] {
            let heap = Heap::builder().mode(mode).guard(guard).pools(table).build().expect("memory");
            let mut blocks = Vec::new();
            for align in (0..=20).map(|log| 1 << log) {
                for size in [0, 1, 7, 100, 5000, 70_000, 300_000] {
                    blocks.push(Held::new(&heap, layout(size, align), size % 2 == 0, size as u8).expect("memory"));
                }
            }
            let mut places: BTreeSet<_> = blocks.iter().map(|block| block.ptr).collect();
            assert_eq!(places.len(), blocks.len(), "each has an address of its own");
            for mut block in blocks {
                let (size, align) = (block.layout.size(), block.layout.align());
                for new in [3 * size + 1, size / 7, 0, 1, 0] {
                    places.remove(&block.ptr);
                    assert!(block.resize(new), "{size} aligned to {align} to {new}");
                    assert!(places.insert(block.ptr), "{size} aligned to {align} to {new}: where another lives");
                }
                places.remove(&block.ptr);
            }
            is_at_rest(&heap, &format!("{mode:?} {guard} {table:?}"));
        }
    }
}

#[test]
fn a_limit_that_many_threads_meet_is_never_passed() {
    const CAPACITY: usize = 4 << 20;
    for (mode, guard) in [(MODES[0], 0), (MODES[1], 0), (MODES[2], 0), (MODES[2], 3)] {
        let heap = Heap::builder().mode(mode).guard(guard).capacity(CAPACITY).build().expect("memory");
        let (used, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let holds = |more: usize| assert!(used.fetch_add(more, Ordering::Relaxed) + more <= CAPACITY);
        let lets_go = |less: usize| assert!(used.fetch_sub(less, Ordering::Relaxed) >= less);
        let work = |seed: u64| {
            let mut random = Random::new(seed);
            let mut blocks: Vec<Held<'_>> = Vec::new();
            for _ in 0..scaled(3000, 1000) {
                let size = match random.below(8) {
                    0 => random.below(400_000),
                    1 => random.below(20_000),
                    _ => random.below(300),
                };
                let align = 1 << random.below(8);
                match random.below(4) {
                    0 | 1 => match Held::new(&heap, layout(size, align), random.below(2) == 0, seed as u8) {
                        Some(block) => {
                            holds(size);
                            blocks.push(block);
                        }
                        None => {
                            refused.fetch_add(1, Ordering::Relaxed);
                            blocks.iter().for_each(|block| block.check(block.layout.size()));
                        }
                    },
                    choice if !blocks.is_empty() => {
                        let mut block = blocks.swap_remove(random.below(blocks.len()));
                        let old = block.layout.size();
                        lets_go(old);
                        if choice == 2 {
                            let kept = if block.resize(size) { size } else { old };
                            holds(kept);
                            blocks.push(block);
                        }
                    }
                    _ => {}
                }
            }
            blocks.iter().for_each(|block| lets_go(block.layout.size()));
        };
        std::thread::scope(|scope| (0..6).for_each(|seed| drop(scope.spawn(move || work(seed)))));
        assert!(refused.into_inner() > 0);
        is_at_rest(&heap, &format!("{mode:?} {guard}"));
    }
}

/// A request for pages fails only when all that is free has been given back: the caller's own cached chunks too, each of
/// which may be the only one in its span.
#[test]
fn a_large_request_gets_what_the_threads_cache_pins() {
    for mode in MODES {
        let heap = Heap::builder().mode(mode).capacity(2 << 20).build().expect("memory");
        for size in (3..18).map(|log| 1 << log) {
            drop(Held::new(&heap, layout(size, 8), false, 1).expect("memory"));
        }
        assert!(Held::new(&heap, layout(31 * (64 << 10), 8), false, 2).is_some(), "{mode:?}\n{}", heap.stats());
        is_at_rest(&heap, &format!("{mode:?}"));
    }
}

#[test]
fn what_cannot_be_is_refused_and_what_was_never_made_is_none() {
    for mode in MODES {
        let builder = Heap::builder().mode(mode).quarantine(usize::MAX).freed(Freed::Junk).backtrace(usize::MAX);
        let heap = builder.guard(u32::MAX).bits(65).build().expect("memory");
        for size in [1 << 45, 1 << 46, isize::MAX as usize / 2, isize::MAX as usize - 4096] {
            assert!(heap.alloc(layout(size, 1)).is_err() && heap.alloc_zeroed(layout(size, 1)).is_err(), "{size}");
        }
        assert!([47, 50, 62].iter().all(|log| heap.alloc(layout(1, 1 << log)).is_err()));
        for id in [0, 1, 64, 65, 1 << 62, u64::MAX / 4, u64::MAX] {
            assert_eq!((heap.record(id), heap.ptr_of(id), heap.callers(id, &mut [0; 40])), (None, None, 0), "{id}");
        }
        for address in [0, 1, 8, (1 << 47) - 8, 1 << 47, usize::MAX - 7, usize::MAX, (&raw const heap).addr()] {
            assert_eq!(heap.id_of(core::ptr::without_provenance(address)), None, "{address:#x}");
        }
        for index in [65, 127, 128, usize::MAX] {
            assert!(heap.set_bit(index, true).is_err() && heap.get_bit(index).is_err(), "{index}");
        }
        let block = Held::new(&heap, layout(100, 8), false, 1).expect("memory");
        let inside = |at: usize| block.ptr.as_ptr().wrapping_add(at);
        assert!((1..100).all(|at| heap.id_of(inside(at)).is_none()), "an ID is that of a beginning");
        assert_eq!(heap.id_of(inside(0)).is_some(), mode != Mode::Fast);
        drop(block);
        assert!([usize::MAX, usize::MAX / 8, 1 << 50].iter().all(|bits| Heap::builder().bits(*bits).build().is_err()));
        is_at_rest(&heap, &format!("{mode:?}"));
    }
}

/// Wishes do not undo each other: IDs are had in the mode that was wished for.
#[test]
fn a_hardened_heap_with_ids_is_hardened() {
    let told = |builder: HeapBuilder<'_>| format!("{builder:?}");
    let hardened = Heap::builder().mode(Mode::Hardened).guard(7);
    assert!(told(hardened.clone().ids(true)).contains("mode: Hardened") && told(hardened.clone()).contains("guard: 7"));
    assert!(told(hardened.ids(false)).contains("mode: Fast"));
    assert!(told(Heap::builder().ids(true)).contains("mode: Tracked"));
}

/// A panic that passes through leaves a heap as it was, and the thread's tag as it was outside.
#[test]
fn a_panic_ends_its_tags() {
    let heap = Heap::builder().ids(true).build().expect("memory");
    let tag = |heap: &Heap| {
        let block = Held::new(heap, layout(8, 8), false, 1).expect("memory");
        heap.record(heap.id_of(block.ptr.as_ptr()).expect("live")).expect("live").tag
    };
    let _outer = millpond::tag("outer");
    let panicked = std::panic::catch_unwind(|| {
        let _inner = millpond::tag("inner");
        assert_eq!(tag(&heap), "inner");
        std::panic::resume_unwind(Box::new(1));
    });
    assert!(panicked.is_err());
    assert_eq!(tag(&heap), "outer");
    std::thread::scope(|scope| drop(scope.spawn(|| assert_eq!(tag(&heap), "", "tags are a thread's"))));
    // What does not fit is cut where a letter ends.
    let long: &'static str = "ä".repeat(50_000).leak();
    let _long = millpond::tag(long);
    assert!(long.starts_with(tag(&heap)) && tag(&heap).len() > 65_000);
}

/// What a heap has is in the profile as long as it lives, in each mode and whatever becomes of it; what another has is not.
#[test]
fn a_heap_is_profiled_where_it_was_built_so() {
    Scenario::new("a_heap_is_profiled_where_it_was_built_so").passes(profiled);
}

fn profiled() {
    const BLOCKS: usize = 4000;
    let live = || {
        let mut sum = 0.0;
        millpond::profile::visit(|stack| sum += stack.live_bytes as f64);
        sum
    };
    // Some 1600 samples of 500 bytes: 10 % are four standard deviations. The seed makes them the same ones each time.
    let is_near = |bytes: usize| {
        let (found, truth) = (live(), bytes as f64);
        assert!((found - truth).abs() <= truth * 0.1, "{found} of {truth}");
    };
    let other = Heap::builder().mode(Mode::Tracked).build().expect("memory");
    // The test's own memory is there before it begins.
    let mut blocks: Vec<NonNull<u8>> = Vec::with_capacity(BLOCKS);
    let small = layout(500, 8);
    let fill = |heap: &Heap, blocks: &mut Vec<_>| blocks.extend((0..BLOCKS).filter_map(|_| heap.alloc(small).ok()));
    millpond::profile::start_seeded(1000, 7);
    fill(&other, &mut blocks);
    assert_eq!(live(), 0.0);
    for mode in MODES {
        let heap = Heap::builder().mode(mode).profiled(true).build().expect("memory");
        blocks.clear();
        fill(&heap, &mut blocks);
        is_near(BLOCKS * 500);
        // SAFETY: the heap's, each freed once.
        blocks.drain(BLOCKS / 2..).for_each(|block| unsafe { heap.free(block, small) });
        is_near(BLOCKS / 2 * 500);
        // In the same chunk, in another, and in pages of its own, which grow where they are or move.
        let mut block = Held { heap: &heap, ptr: blocks.pop().expect("there are some"), layout: small, mark: 1 };
        block.fill();
        for size in [505, 50_000, 10_000_000, 60_000_000, 100_000_000, 300] {
            assert!(block.resize(size));
            is_near(if size > 100_000 { size } else { 0 } + (BLOCKS / 2 - 1) * 500);
        }
        drop(block);
        is_near((BLOCKS / 2 - 1) * 500);
        drop(heap);
        assert_eq!(live(), 0.0, "{mode:?}");
    }
    millpond::profile::stop();
}

#[test]
fn who_panics_at_a_profile_leaves_no_file_open() {
    Scenario::new("who_panics_at_a_profile_leaves_no_file_open").passes(|| {
        let open = || std::fs::read_dir("/proc/self/fd").expect("readable").count();
        let before = open();
        // The first pieces are said before the mappings are looked at.
        for pieces in 0..40 {
            let mut left = pieces;
            let sink = |_: &[u8]| {
                if left == 0 {
                    std::panic::resume_unwind(Box::new(()));
                }
                left -= 1;
                Ok::<(), ()>(())
            };
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| millpond::profile::write_pprof(sink)));
        }
        assert_eq!(open(), before);
    });
}

#[test]
fn a_profile_has_what_cannot_grow_and_a_fallback_once() {
    Scenario::new("a_profile_has_what_cannot_grow_and_a_fallback_once").passes(|| {
        // Each allocation is sampled: objects, and bytes in whole MiB.
        let totals = || {
            let mut sum = [0; 4];
            millpond::profile::visit(|stack| {
                let live = [stack.live_objects, stack.live_bytes];
                let all = [stack.allocated_objects, stack.allocated_bytes];
                if stack.allocated_bytes >= MIB as u64 {
                    live.into_iter().chain(all).zip(&mut sum).for_each(|(one, sum)| *sum += one);
                }
            });
            sum
        };
        let mib = |mib: u64| mib << 20;
        for mode in MODES {
            let heap = Heap::builder().mode(mode).capacity(8 * MIB).profiled(true).build().expect("memory");
            millpond::profile::start(1);
            let block = heap.alloc(layout(MIB, 8)).expect("memory");
            // SAFETY: the block's own layout; and it is freed once.
            unsafe {
                assert!(heap.realloc(block, layout(MIB, 8), 64 * MIB).is_err());
                assert_eq!(totals(), [1, mib(1), 1, mib(1)], "{mode:?}: it lives");
                heap.free(block, layout(MIB, 8));
            }
            assert_eq!(totals(), [0, 0, 1, mib(1)], "{mode:?}");
            millpond::profile::stop();

            let heap = Heap::builder().mode(mode).capacity(MIB).fallback(&millpond::Millpond).profiled(true);
            let heap = heap.build().expect("memory");
            millpond::profile::start(1);
            let block = heap.alloc(layout(3 * MIB, 8)).expect("memory");
            assert_eq!(totals(), [1, mib(3), 1, mib(3)], "{mode:?}: the fallback's is the global heap's");
            // SAFETY: as above.
            unsafe {
                let block = heap.realloc(block, layout(3 * MIB, 8), 5 * MIB).expect("memory");
                assert_eq!(totals(), [1, mib(5), 2, mib(8)], "{mode:?}");
                heap.free(block, layout(5 * MIB, 8));
            }
            assert_eq!(totals(), [0, 0, 2, mib(8)], "{mode:?}");
            millpond::profile::stop();

            // One that was to move, but for a panic.
            let tell = |_: &Heap, _: usize| std::panic::resume_unwind(Box::new(()));
            let heap = Heap::builder().mode(mode).soft_limit(64 * MIB, tell).profiled(true).build().expect("memory");
            millpond::profile::start(1);
            let block = heap.alloc(layout(40 * MIB, 8)).expect("memory");
            // SAFETY: as above.
            unsafe {
                let grow = || heap.realloc(block, layout(40 * MIB, 8), 80 * MIB);
                assert!(std::panic::catch_unwind(grow).is_err());
                assert_eq!(totals(), [1, mib(40), 1, mib(40)], "{mode:?}: it lives");
                heap.free(block, layout(40 * MIB, 8));
            }
            assert_eq!(totals(), [0, 0, 1, mib(40)], "{mode:?}");
            millpond::profile::stop();
        }
    });
}

/// A soft limit's function that panics loses nothing: what was to be handed out, or to grow, is as it was.
#[test]
fn a_panic_at_the_soft_limit_loses_nothing() {
    for (mode, size) in MODES.into_iter().flat_map(|mode| [8, 100, 5000, 300_000].map(|size| (mode, size))) {
        let heap = Heap::builder().mode(mode).soft_limit(64 << 10, |_, _| panic!("the limit is passed")).build();
        let heap = heap.expect("memory");
        let once = || heap.alloc(layout(size, 8)).expect("memory");
        let mut panics = 0;
        let blocks: Vec<_> = (0..(MIB / 2 / size).max(100))
            .filter_map(|_| {
                let got = std::panic::catch_unwind(once);
                panics += usize::from(got.is_err());
                got.ok()
            })
            .collect();
        assert!(panics > 0, "{mode:?}, {size}");
        for block in blocks {
            // SAFETY: the heap's, of that layout, each once.
            unsafe { heap.free(block, layout(size, 8)) };
        }
        let stats = heap.check().expect("sound");
        assert_eq!(stats.live, 0, "{mode:?}, {size}, after {panics} panics");
    }
}

/// The same where it grows in place: it has its old size, and is freed with that.
#[test]
fn a_panic_at_the_soft_limit_leaves_what_grows() {
    for mode in MODES {
        let passed = |_: &Heap, bytes: usize| assert!(bytes < MIB, "the limit is passed");
        let heap = Heap::builder().mode(mode).soft_limit(MIB, passed).build().expect("memory");
        let block = heap.alloc(layout(MIB / 2, 8)).expect("memory");
        // SAFETY: the block's own layout.
        let grown = std::panic::catch_unwind(|| unsafe { heap.realloc(block, layout(MIB / 2, 8), 4 * MIB) });
        assert!(grown.is_err(), "{mode:?}");
        // SAFETY: it is as it was.
        unsafe { heap.free(block, layout(MIB / 2, 8)) };
        assert_eq!(heap.check().expect("sound").live, 0, "{mode:?}");
    }
}

/// What the system has done for the calling thread: first touches of pages.
fn faults() -> i64 {
    let mut usage = core::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: fills in what it is given; zeros are such numbers too.
    let usage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()), 0);
        usage.assume_init()
    };
    usage.ru_minflt
}

/// A page that is read before it is written to costs two faults, and interrupts all processors.
#[test]
fn fresh_pages_are_not_read_first() {
    millpond::set_thp(Thp::Never);
    for mode in MODES {
        let heap = Heap::builder().mode(mode).build().expect("built");
        // Some four in a page, and some sixty records.
        let (count, size) = (4000, 990usize);
        let before = faults();
        for _ in 0..count {
            let ptr = heap.alloc(layout(size, 8)).expect("memory");
            // SAFETY: the allocation's first byte.
            unsafe { ptr.write(1) };
        }
        let faults = faults() - before;
        let pages = count * 1024 / 4096;
        assert!(faults > 0 && faults < pages * 3 / 2, "{mode:?}: {faults} faults for {pages} pages");
    }
}
