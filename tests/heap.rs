//! Heaps as values: limits, pools, fallback, bits, threads, and what is left when they go.

mod common;

use common::child::Scenario;
use common::fork::{fork, join};
use common::random::Random;
use common::thread::together;
use common::{KIB, MIB, kernel, law, scaled};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use millpond::{AllocError, BuildError, Heap, Mode, PoolTable};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};

const PAGE: usize = 64 * KIB;

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("valid")
}

/// A block filled with its own pattern.
struct Held {
    ptr: NonNull<u8>,
    layout: Layout,
    mark: u8,
}

// SAFETY: whoever has the value has the block.
unsafe impl Send for Held {}

impl Held {
    fn new(heap: &Heap, layout: Layout, mark: u8) -> Result<Self, AllocError> {
        let ptr = heap.alloc(layout)?;
        assert_eq!(ptr.as_ptr() as usize % layout.align(), 0, "{layout:?}");
        assert!(heap.usable_size(ptr.as_ptr()).is_none_or(|usable| usable >= layout.size()));
        // SAFETY: ours.
        unsafe { ptr.write_bytes(mark, layout.size()) };
        Ok(Self { ptr, layout, mark })
    }

    fn check(&self) {
        // SAFETY: ours, and written.
        let bytes = unsafe { core::slice::from_raw_parts(self.ptr.as_ptr(), self.layout.size()) };
        assert!(bytes.iter().all(|byte| *byte == self.mark), "{:?} of {:?} has changed", self.ptr, self.layout);
    }

    fn free(self, heap: &Heap) {
        self.check();
        // SAFETY: allocated there, freed once.
        unsafe { heap.free(self.ptr, self.layout) };
    }
}

fn at_rest(heap: &Heap) -> millpond::Stats {
    let stats = heap.check().expect("sound");
    assert_eq!(stats.accounted(), stats.committed);
    stats
}

#[test]
fn what_was_wished_is_checked() {
    let refused = |builder: millpond::HeapBuilder| builder.build().expect_err("refused");
    assert_eq!(refused(Heap::builder().capacity(0)), BuildError::Capacity(0));
    assert_eq!(refused(Heap::builder().capacity(PAGE - 1)), BuildError::Capacity(PAGE - 1));
    assert_eq!(refused(Heap::builder().capacity(usize::MAX)), BuildError::Capacity(usize::MAX));
    for (sizes, at) in
        [(&[][..], 0), (&[0], 0), (&[64, 32], 1), (&[64, 64], 1), (&[100, 105, 200], 1), (&[64, 256 * KIB + 1], 1)]
    {
        assert_eq!(refused(Heap::builder().pools(PoolTable::Sizes(sizes))), BuildError::Pools(at), "{sizes:?}");
    }
    for soft in [0, MIB, 2 * MIB] {
        let builder = Heap::builder().capacity(MIB).soft_limit(soft, |_, _| {});
        assert_eq!(refused(builder), BuildError::SoftLimit(soft));
    }
    // Without a capacity none is too high, and the highest is never passed.
    let never = Heap::builder().soft_limit(usize::MAX, |_, bytes| panic!("{bytes}")).build().unwrap();
    assert_eq!(never.soft_limit(), Some(usize::MAX / PAGE * PAGE));
    [1, 40 * MIB].iter().for_each(|size| assert!(never.alloc(layout(*size, 1)).is_ok()));
    assert_eq!(refused(Heap::builder().bits(usize::MAX)), BuildError::Memory);
    assert_eq!(Heap::new().unwrap().capacity(), None);
    for (error, text) in [
        (BuildError::Capacity(1), "a capacity of 1 bytes is less than a page of 65536"),
        (BuildError::Capacity(1 << 47), "a capacity of 140737488355328 bytes is more than there are addresses"),
        (BuildError::SoftLimit(1), "a soft limit of 1 bytes is less than a page of 65536"),
        (
            BuildError::Pools(1),
            "the table of pools is empty, or its size at index 1 is zero, above 262144, or not above the class of the one before",
        ),
        (
            BuildError::SoftLimit(MIB),
            "a soft limit of 1048576 bytes, in whole pages of 65536, is not below the heap's capacity",
        ),
    ] {
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn a_heap_tells_its_wishes() {
    let heap = Heap::builder().mode(Mode::Tracked).capacity(3 * PAGE + 5).soft_limit(2 * PAGE - 1, |_, _| {});
    let heap = heap.build().unwrap();
    assert_eq!((heap.mode(), heap.capacity(), heap.soft_limit()), (Mode::Tracked, Some(3 * PAGE), Some(PAGE)));
    let text = format!("{heap:?}");
    assert!(
        text.starts_with("Heap { mode: Tracked, capacity: Some(196608), soft_limit: Some(65536), at: 0x"),
        "{text}"
    );
    let plain = Heap::new().unwrap();
    assert_eq!((plain.mode(), plain.capacity(), plain.soft_limit()), (Mode::Fast, None, None));
    // What users count on, checked by the compiler.
    fn is_shared<T: Send + Sync + std::panic::UnwindSafe + std::panic::RefUnwindSafe + std::fmt::Debug>(_: &T) {}
    fn is_copied<T: Copy + Eq + std::hash::Hash>(_: &T) {}
    is_shared(&plain);
    is_shared(&Heap::builder().on_misuse(|_| {}).clone());
    is_shared(&plain.live_since(plain.snapshot()));
    is_copied(&plain.snapshot());
}

#[test]
fn a_heap_serves_all_sizes_and_alignments() {
    let heap = Heap::new().unwrap();
    let mut held = Vec::new();
    for size in [0, 1, 7, 8, 9, 63, 100, 1000, 4097, 32 * KIB, 100 * KIB, 256 * KIB, 256 * KIB + 1, 5 * MIB, 40 * MIB] {
        for align in [1, 8, 16, 64, 4096, PAGE, 2 * PAGE] {
            held.push(Held::new(&heap, layout(size, align), held.len() as u8).expect("memory"));
        }
    }
    held.iter().for_each(Held::check);
    let mut addresses: Vec<usize> = held.iter().map(|block| block.ptr.as_ptr() as usize).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), held.len(), "empty blocks have addresses of their own");
    assert!(held.iter().all(|block| heap.owns(block.ptr.as_ptr()) && !millpond::owns(block.ptr.as_ptr())));
    held.drain(..).for_each(|block| block.free(&heap));
    assert_eq!(at_rest(&heap).live, 0);
}

#[test]
fn reallocation_keeps_what_was_there() {
    let heap = Heap::new().unwrap();
    let mut random = Random::new(3);
    for _ in 0..scaled(400, 60) {
        let mut size = random.size(1, 600 * KIB);
        let mut block = Held::new(&heap, layout(size, 16), 9).expect("memory");
        for _ in 0..8 {
            let new = match random.below(3) {
                0 => random.size(1, 512),
                1 => random.size(1, 600 * KIB),
                _ => random.size(1, 50 * MIB),
            };
            // SAFETY: the block's own layout; the new size is small enough.
            let ptr = unsafe { heap.realloc(block.ptr, block.layout, new) }.expect("memory");
            let kept = Held { ptr, layout: layout(size.min(new), 16), mark: 9 };
            kept.check();
            size = new;
            block = Held { ptr, layout: layout(size, 16), mark: 9 };
            // SAFETY: ours.
            unsafe { ptr.write_bytes(9, size) };
        }
        block.free(&heap);
    }
    assert_eq!(at_rest(&heap).live, 0);
}

/// A collection that shrinks would end the program where that fails.
#[test]
fn what_shrinks_in_a_heap_that_is_full_stays() {
    for (capacity, size) in [(PAGE, 5000), (5 * PAGE, 5 * PAGE), (5 * PAGE, 200 * KIB), (600 * PAGE, 600 * PAGE)] {
        let heap = Heap::builder().capacity(capacity).build().unwrap();
        let mut block = Held::new(&heap, layout(size, 8), 3).expect("memory");
        let mut others: Vec<Held> = Vec::new();
        while let Ok(other) = Held::new(&heap, layout(4000, 8), 4).or_else(|_| Held::new(&heap, layout(size, 8), 4)) {
            others.push(other);
        }
        for smaller in [size / 2, 100, 1] {
            // SAFETY: the block's own layout.
            block.ptr = unsafe { heap.realloc(block.ptr, block.layout, smaller) }.expect("it is there already");
            block.layout = layout(smaller, 8);
            block.check();
        }
        block.free(&heap);
        others.into_iter().for_each(|other| other.free(&heap));
        assert_eq!(at_rest(&heap).live, 0);
    }
}

/// What grows in a limited heap gets the pages behind it, though they lie in pools and there is no room for a copy.
#[test]
fn what_grows_gets_what_is_cached_behind_it() {
    for mode in [Mode::Fast, Mode::Tracked] {
        let heap = Heap::builder().capacity(16 * MIB).mode(mode).build().unwrap();
        let mut block = Held::new(&heap, layout(9 * MIB, 8), 7).expect("memory");
        let small: Vec<_> = std::iter::from_fn(|| Held::new(&heap, layout(KIB, 8), 1).ok()).collect();
        small.into_iter().for_each(|block| block.free(&heap));
        // SAFETY: the block's own layout.
        block.ptr = unsafe { heap.realloc(block.ptr, block.layout, 15 * MIB) }.expect("room behind it");
        block.check();
        block.layout = layout(15 * MIB, 8);
        // SAFETY: ours.
        unsafe { block.ptr.write_bytes(7, 15 * MIB) };
        block.free(&heap);
        assert_eq!(at_rest(&heap).live, 0);
    }
}

#[test]
fn zeroed_memory_is_zero_even_if_it_was_used() {
    let heap = Heap::new().unwrap();
    for size in [1, 100, 5000, 300 * KIB, 6 * MIB] {
        Held::new(&heap, layout(size, 8), 0xff).unwrap().free(&heap);
        let ptr = heap.alloc_zeroed(layout(size, 8)).unwrap();
        Held { ptr, layout: layout(size, 8), mark: 0 }.free(&heap);
    }
}

#[test]
fn a_capacity_is_met_and_never_passed() {
    for (capacity, size) in [(MIB, 64), (MIB, 4 * KIB), (MIB, 16 * KIB), (MIB, 256 * KIB), (MIB, 300 * KIB), (PAGE, 8)]
    {
        let heap = Heap::builder().capacity(capacity).build().unwrap();
        let mut held = Vec::new();
        while let Ok(block) = Held::new(&heap, layout(size, 8), held.len() as u8) {
            held.push(block);
            assert!(held.len() * size <= capacity, "{} of {size} in {capacity}", held.len());
        }
        let whole = size.next_multiple_of(if size > 256 * KIB { PAGE } else { 8 });
        assert!(held.len() >= capacity / whole * 9 / 10, "only {} of {size} in {capacity}", held.len());
        assert_eq!(heap.alloc(layout(size, 8)), Err(AllocError));
        held.iter().for_each(Held::check);
        // What comes back can be had again, by any other size.
        held.drain(..).for_each(|block| block.free(&heap));
        let stats = at_rest(&heap);
        assert_eq!(stats.live, 0);
        Held::new(&heap, layout(capacity.min(200 * KIB) / 2, 8), 1).expect("all is free").free(&heap);
        assert_eq!(heap.alloc(layout(capacity + 1, 8)), Err(AllocError));
        assert_eq!(heap.alloc(layout(isize::MAX as usize - PAGE, 1)), Err(AllocError));
    }
}

/// Free pages are within the limit too, until they have gone back: whatever takes others has as many go.
#[test]
fn a_capacity_holds_for_what_is_free() {
    let capacity = 16 * MIB;
    for grown in [false, true] {
        let heap = Heap::builder().capacity(capacity).build().unwrap();
        let within = || {
            let stats = at_rest(&heap);
            assert!(stats.committed - stats.metadata <= capacity, "{stats}");
            stats
        };
        // Every other run of five pages is free: no other fits there.
        let fives: Vec<_> = std::iter::from_fn(|| Held::new(&heap, layout(5 * PAGE, 8), 1).ok()).collect();
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for (at, block) in fives.into_iter().enumerate() {
            if at % 2 == 0 { &mut gone } else { &mut kept }.push(block);
        }
        gone.drain(..).for_each(|block| block.free(&heap));
        let free = within().dirty;
        assert!(free > capacity / 4, "{free}");
        for _ in 0..free / (7 * PAGE) - 2 {
            let size = if grown { PAGE * 6 } else { PAGE * 7 };
            let mut block = Held::new(&heap, layout(size, 8), 2).expect("there is room");
            if grown {
                // SAFETY: the block's own layout.
                block.ptr = unsafe { heap.realloc(block.ptr, block.layout, 7 * PAGE) }.expect("there is room");
                block.layout = layout(7 * PAGE, 8);
                // SAFETY: ours.
                unsafe { block.ptr.write_bytes(2, 7 * PAGE) };
            }
            kept.push(block);
            within();
        }
        kept.drain(..).for_each(|block| block.free(&heap));
        within();
        Held::new(&heap, layout(capacity, 8), 3).expect("all of it").free(&heap);
        within();
    }
}

/// What is refused has refilled nothing, and leaves the share of what threads served by themselves as it was.
#[test]
fn what_is_refused_is_no_refill() {
    Scenario::new("what_is_refused_is_no_refill").passes(|| {
        for size in [1 << 10, 20 << 10] {
            let heap = Heap::builder().capacity(64 * PAGE).build().expect("valid");
            while heap.alloc(layout(size, 8)).is_ok() {}
            let full = heap.stats();
            assert!(full.pools.iter().any(|pool| pool.refills > 0), "{full}");
            for _ in 0..100 {
                heap.alloc(layout(size, 8)).expect_err("it is full");
            }
            let after = heap.stats();
            assert_eq!(after.hit_rate(), full.hit_rate(), "{size}");
            let refills = |stats: &millpond::Stats| stats.pools.iter().map(|pool| pool.refills).sum::<u64>();
            assert_eq!(refills(&after), refills(&full), "{size}");
            heap.check().expect("sound");
        }
    });
}

#[test]
fn many_threads_share_a_capacity() {
    let heap = Heap::builder().capacity(8 * MIB).build().unwrap();
    let used = AtomicUsize::new(0);
    together((0..8).map(|id| {
        let (heap, used) = (&heap, &used);
        move || {
            let mut random = Random::new(id);
            let mut held: Vec<Held> = Vec::new();
            for _ in 0..scaled(20_000, 3_000) {
                let size = random.size(1, 100 * KIB);
                match Held::new(heap, layout(size, 8), id as u8) {
                    Ok(block) => {
                        assert!(used.fetch_add(size, Ordering::Relaxed) + size <= 8 * MIB);
                        held.push(block);
                    }
                    Err(AllocError) => {
                        for block in held.drain(..) {
                            used.fetch_sub(block.layout.size(), Ordering::Relaxed);
                            block.free(heap);
                        }
                    }
                }
                if random.below(3) == 0 && !held.is_empty() {
                    let block = held.swap_remove(random.below(held.len()));
                    used.fetch_sub(block.layout.size(), Ordering::Relaxed);
                    block.free(heap);
                }
            }
            held.drain(..).for_each(|block| {
                used.fetch_sub(block.layout.size(), Ordering::Relaxed);
                block.free(heap);
            });
        }
    }));
    assert_eq!(at_rest(&heap).live, 0);
    heap.trim();
    assert_eq!(at_rest(&heap).thread_cached, 0, "caches of threads that have ended are reached");
    let all: Vec<Held> = (0..128).map_while(|_| Held::new(&heap, layout(PAGE, 8), 1).ok()).collect();
    assert_eq!(all.len(), 128, "nothing of the capacity is lost");
    all.into_iter().for_each(|block| block.free(&heap));
}

#[test]
fn the_classic_pools_are_the_seeds() {
    let heap = Heap::builder().pools(PoolTable::Classic).build().unwrap();
    let expect = [(1, 32), (32, 32), (33, 64), (65, 256), (1000, 1024), (1025, 4096), (4097, 16 * KIB)];
    for (size, chunk) in expect.into_iter().chain([(20 * KIB, 64 * KIB), (65 * KIB, 256 * KIB), (256 * KIB, 256 * KIB)])
    {
        for align in [1, 16, 32] {
            let block = Held::new(&heap, layout(size, align), 1).unwrap();
            let chunk = chunk.max(align);
            assert_eq!(heap.usable_size(block.ptr.as_ptr()), Some(chunk), "{size} {align}");
            block.free(&heap);
        }
    }
    let sizes: Vec<usize> = heap.stats().pools.used().map(|pool| pool.chunk_size).collect();
    assert_eq!(sizes, [32, 64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB]);
}

#[test]
fn a_table_of_ones_own_serves_what_it_can() {
    let heap = Heap::builder().pools(PoolTable::Sizes(&[48, 96, 1000])).build().unwrap();
    for (size, align, chunk) in [
        (1, 1, 48),
        (48, 16, 48),
        (48, 32, 96),
        (97, 8, 1024),
        (1000, 8, 1024),
        (1000, 1024, 1024),
        (2000, 8, PAGE),
        (1, 64, 1024),
    ] {
        let block = Held::new(&heap, layout(size, align), 1).unwrap();
        assert_eq!(heap.usable_size(block.ptr.as_ptr()), Some(chunk), "{size} {align}");
        block.free(&heap);
    }
}

/// An allocator that counts, in front of malloc.
struct Counting;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

// SAFETY: forwards.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { std::alloc::System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        TAKEN.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { std::alloc::System.dealloc(ptr, layout) }
    }
}

#[test]
fn an_exhausted_heap_falls_back_and_counts_it() {
    let heap = Heap::builder().capacity(MIB).fallback(&Counting).build().unwrap();
    let mut held: Vec<Held> =
        (0..2000).map(|at| Held::new(&heap, layout(KIB, 8), at as u8).expect("the fallback's")).collect();
    let stats = heap.stats();
    assert_eq!(stats.fallbacks as usize, TAKEN.load(Ordering::Relaxed));
    assert_eq!(stats.allocations + stats.fallbacks, 2000);
    assert!(stats.fallbacks >= 976 && stats.fallback_share() > 0.4, "{stats}");
    for block in held.iter_mut() {
        // SAFETY: its own layout.
        block.ptr = unsafe { heap.realloc(block.ptr, block.layout, 1100) }.expect("memory");
    }
    for mut block in held {
        block.check();
        block.layout = layout(1100, 8);
        // SAFETY: the heap's or the fallback's, freed once.
        unsafe { heap.free(block.ptr, block.layout) };
    }
    assert_eq!(TAKEN.load(Ordering::Relaxed), 0);
    assert_eq!(at_rest(&heap).live, 0);
}

#[test]
fn a_soft_limit_is_told_each_time_it_is_passed() {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    let tell = |heap: &Heap, used: usize| {
        assert!(used > 0 && heap.capacity() == Some(4 * MIB));
        TOLD.fetch_add(1, Ordering::Relaxed);
    };
    let heap = Heap::builder().capacity(4 * MIB).soft_limit(MIB, tell).build().unwrap();
    for round in 1..4 {
        let held: Vec<Held> = (0..30).map(|_| Held::new(&heap, layout(PAGE, 8), 1).unwrap()).collect();
        assert_eq!(TOLD.load(Ordering::Relaxed), round);
        held.into_iter().for_each(|block| block.free(&heap));
        heap.trim();
    }
}

/// Of classes whose chunks lie in spans of their own.
const SIZES: [usize; 6] = [64, 640, 96, 1500, 200, 900];

/// Though what is freed in between lies in pools, in pages that are in use by them.
#[test]
fn a_soft_limit_is_told_again_without_a_trim() {
    for mode in [Mode::Fast, Mode::Tracked] {
        let (told, hears) = mpsc::channel();
        let heap = Heap::builder().mode(mode).soft_limit(MIB, move |_, _| told.send(()).unwrap()).build().unwrap();
        for size in SIZES {
            let held: Vec<Held> =
                (0..3 * MIB / 2 / size).map(|_| Held::new(&heap, layout(size, 8), 1).unwrap()).collect();
            held.into_iter().for_each(|block| block.free(&heap));
            // Or twice, where upkeep has given so much back that it was below before it was trimmed.
            assert!((1..=2).contains(&hears.try_iter().count()), "{mode:?}, blocks of {size}");
        }
    }
}

/// And what is freed by whoever is told goes back at once.
#[test]
fn who_is_told_of_a_soft_limit_can_make_room() {
    let held: Arc<Mutex<Vec<Held>>> = Arc::default();
    let mine = held.clone();
    let evict = move |heap: &Heap, _: usize| mine.lock().unwrap().drain(..).for_each(|block| block.free(heap));
    let heap = Heap::builder().soft_limit(MIB, evict).build().unwrap();
    let mut most = 0;
    for round in 0..scaled(60_000, 20_000) {
        let block = Held::new(&heap, layout(SIZES[round / 500 % SIZES.len()], 8), 1).unwrap();
        held.lock().unwrap().push(block);
        if round % 50 == 0 {
            let stats = heap.stats();
            most = most.max(stats.committed - stats.metadata);
        }
    }
    // A span of each class has room for some.
    assert!(most <= MIB + MIB / 4, "{most} B");
    held.lock().unwrap().drain(..).for_each(|block| block.free(&heap));
    assert_eq!(at_rest(&heap).live, 0);
}

/// Nor is it passed by what was tried, and cannot be.
#[test]
fn a_soft_limit_is_not_told_of_what_fails() {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    let tell = |_: &Heap, used: usize| TOLD.store(used, Ordering::Relaxed);
    // With one right behind the other, so that it cannot grow there; and there is no room for a copy. They lie so unless a huge page
    // was slow to come.
    let lies_so = |heap: &Heap| {
        let [block, behind] = [8 * MIB, 300 * KIB].map(|size| Held::new(heap, layout(size, 8), 1).unwrap());
        let so = block.ptr.addr().get() + 8 * MIB == behind.ptr.addr().get();
        [block, behind].into_iter().for_each(|block| block.free(heap));
        so
    };
    let build = || Heap::builder().capacity(10 * MIB).soft_limit(9 * MIB, tell).build().unwrap();
    let heap = (0..1000).map(|_| build()).find(lies_so).expect("huge pages that are not slow");
    let block = Held::new(&heap, layout(8 * MIB, 8), 1).unwrap();
    let behind = Held::new(&heap, layout(300 * KIB, 8), 2).unwrap();
    // SAFETY: the block's own layout.
    assert_eq!(unsafe { heap.realloc(block.ptr, block.layout, 9 * MIB + MIB / 2) }, Err(AllocError));
    assert_eq!(TOLD.load(Ordering::Relaxed), 0);
    [block, behind].into_iter().for_each(|block| block.free(&heap));
    heap.trim();
    // All that it may have is to be had still, and it is told of what passes it.
    Held::new(&heap, layout(9 * MIB, 8), 3).unwrap().free(&heap);
    assert_eq!(TOLD.load(Ordering::Relaxed), 0);
    Held::new(&heap, layout(10 * MIB, 8), 3).unwrap().free(&heap);
    assert_eq!(TOLD.load(Ordering::Relaxed), 10 * MIB);
}

/// Even one of no bytes.
#[test]
fn what_no_layout_of_one_byte_can_be_aligned_to_is_refused() {
    let heap = Heap::builder().fallback(&std::alloc::System).build().unwrap();
    for mode in [Mode::Fast, Mode::Tracked, Mode::Hardened] {
        let alone = Heap::builder().mode(mode).build().unwrap();
        for log in 62..64 {
            let layout = layout(0, 1 << log);
            assert_eq!([heap.alloc(layout), heap.alloc_zeroed(layout), alone.alloc(layout)], [Err(AllocError); 3]);
        }
    }
    assert_eq!(heap.stats().fallbacks, 0);
}

/// Also where an allocation grows, in place or to where it is mapped anew.
#[test]
fn a_soft_limit_is_told_of_what_grows() {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    for mode in [Mode::Fast, Mode::Tracked, Mode::Hardened] {
        for (from, to) in [(8 * MIB, 14 * MIB), (40 * MIB, 80 * MIB)] {
            let tell = |_: &Heap, used: usize| TOLD.store(used, Ordering::Relaxed);
            let heap = Heap::builder().mode(mode).soft_limit(from + from / 2, tell).build().unwrap();
            let block = Held::new(&heap, layout(from, 8), 1).unwrap();
            assert_eq!(TOLD.swap(0, Ordering::Relaxed), 0);
            // SAFETY: the block's own layout.
            let grown = unsafe { heap.realloc(block.ptr, block.layout, to) }.unwrap();
            assert!(TOLD.swap(0, Ordering::Relaxed) >= to, "{mode:?}, {from} to {to}");
            // SAFETY: resized just now.
            unsafe { heap.free(grown, layout(to, 8)) };
        }
    }
}

/// Where it would have been mapped anew, the caller has the old address still.
#[test]
fn who_panics_when_told_of_a_soft_limit_leaves_what_was_to_grow_as_it_was() {
    for mode in [Mode::Fast, Mode::Tracked, Mode::Hardened] {
        for (from, to) in [(8 * MIB, 14 * MIB), (40 * MIB, 80 * MIB)] {
            let tell = |_: &Heap, _: usize| std::panic::resume_unwind(Box::new(()));
            let heap = Heap::builder().mode(mode).profiled(true).soft_limit(from + from / 2, tell).build().unwrap();
            let block = Held::new(&heap, layout(from, 8), 1).unwrap();
            let before = heap.stats();
            // SAFETY: the block's own layout.
            let grow = || unsafe { heap.realloc(block.ptr, block.layout, to) };
            assert!(std::panic::catch_unwind(grow).is_err(), "{mode:?}, {from} to {to}: nobody was told");
            block.check();
            let after = heap.check().expect("sound");
            assert_eq!(after.live, before.live, "{mode:?}, {from} to {to}");
            block.free(&heap);
            assert_eq!(at_rest(&heap).live, 0);
        }
    }
}

#[test]
fn bits_are_set_by_many_threads_and_end_where_they_end() {
    let heap = Heap::builder().bits(1000).build().unwrap();
    together((0..8).map(|id| {
        let heap = &heap;
        move || (id..1000).step_by(8).for_each(|bit| assert_eq!(heap.set_bit(bit, bit % 3 == 0), Ok(false)))
    }));
    assert!((0..1000).all(|bit| heap.get_bit(bit) == Ok(bit % 3 == 0)));
    assert_eq!(heap.set_bit(3, false), Ok(true));
    assert_eq!(heap.get_bit(3), Ok(false));
    for beyond in [1000, 1023, usize::MAX] {
        let error = heap.set_bit(beyond, true).unwrap_err();
        assert_eq!((error.index, error.bits), (beyond, 1000));
        assert_eq!(heap.get_bit(beyond), Err(error));
    }
    assert!(Heap::new().unwrap().get_bit(0).is_err());
}

#[test]
fn a_heap_that_is_dropped_leaves_nothing() {
    Scenario::new("a_heap_that_is_dropped_leaves_nothing").passes(|| {
        let round = |seed: u64, threads: u8| {
            let heap = Heap::builder().bits(100_000).build().unwrap();
            let mut random = Random::new(seed);
            for _ in 0..300 {
                let size = if random.below(20) == 0 { random.size(MIB, 40 * MIB) } else { random.size(1, 300 * KIB) };
                // Live to the end: the drop takes it.
                let ptr = heap.alloc(layout(size, 8)).expect("memory");
                // SAFETY: ours.
                unsafe { ptr.write_bytes(1, size.min(KIB)) };
            }
            together((0..threads).map(|id| {
                let heap = &heap;
                move || (0..50).for_each(|at| drop(Held::new(heap, layout(1 + at * 700, 8), id)))
            }));
        };
        (0..3).for_each(|seed| round(seed, 4));
        let (resident, addresses) = (kernel::resident(), kernel::address_space());
        (3..scaled(100, 30) as u64).for_each(|seed| round(seed, 4));
        let grown = kernel::resident().saturating_sub(resident);
        assert!(grown <= 2 * MIB, "{} KiB more resident", grown / KIB);
        // libc reserves some for each thread; a heap that stayed would have 64 MiB.
        let grown = kernel::address_space().saturating_sub(addresses);
        assert!(grown <= 512 * MIB, "{} MiB more addresses", grown / MIB);
        // Without threads, not one table may stay.
        let addresses = kernel::address_space();
        (0..scaled(100, 30) as u64).for_each(|seed| round(seed, 0));
        let grown = kernel::address_space().saturating_sub(addresses);
        assert!(grown <= 256 * KIB, "{} KiB more addresses", grown / KIB);
        law::holds();
    });
}

#[test]
fn many_heaps_at_a_time_and_in_turn() {
    Scenario::new("many_heaps_at_a_time_and_in_turn").passes(|| {
        let heaps: Vec<Heap> = (0..200).map(|_| Heap::builder().capacity(MIB).build().unwrap()).collect();
        together((0..8).map(|id| {
            let heaps = &heaps;
            move || {
                let mut random = Random::new(id);
                let mut held: Vec<(usize, Held)> = Vec::new();
                for _ in 0..scaled(20_000, 4_000) {
                    let at = random.below(heaps.len());
                    if let Ok(block) = Held::new(&heaps[at], layout(random.size(1, 2 * KIB), 8), id as u8) {
                        held.push((at, block));
                    }
                    if held.len() > 100 {
                        let (at, block) = held.swap_remove(random.below(held.len()));
                        block.free(&heaps[at]);
                    }
                }
                held.into_iter().for_each(|(at, block)| block.free(&heaps[at]));
            }
        }));
        heaps.iter().for_each(|heap| assert_eq!(at_rest(heap).live, 0));
        drop(heaps);
        for at in 0..500 {
            let heap = Heap::new().unwrap();
            Held::new(&heap, layout(100, 8), at as u8).unwrap().free(&heap);
        }
        law::holds();
    });
}

#[test]
fn chunks_are_freed_by_threads_that_come_and_go() {
    let heap = Heap::new().unwrap();
    for round in 0..scaled(200, 40) {
        let held: Vec<Held> =
            (0..100).map(|at| Held::new(&heap, layout(1 + at * 37, 8), round as u8).unwrap()).collect();
        let (sender, receiver) = std::sync::mpsc::channel();
        together((0..2).map(|id| {
            let (heap, sender) = (&heap, sender.clone());
            move || {
                for at in 0..100 {
                    sender.send(Held::new(heap, layout(1 + at * 53, 8), id)).unwrap();
                }
            }
        }));
        drop(sender);
        let heap = &heap;
        std::thread::scope(|scope| {
            let one = scope.spawn(move || held.into_iter().for_each(|block| block.free(heap)));
            let other = scope.spawn(move || receiver.into_iter().for_each(|block| block.unwrap().free(heap)));
            // A scope does not wait for the very end of its threads.
            one.join().and(other.join()).expect("no panic");
        });
    }
    let stats = at_rest(&heap);
    assert_eq!((stats.live, stats.stranded), (0, 0));
    assert!(stats.committed < 32 * MIB, "{stats}");
    heap.trim();
    let stats = at_rest(&heap);
    assert!(stats.thread_cached == 0 && stats.committed - stats.metadata == 0, "{stats}");
}

/// A misuse ends the process, and the last words say this.
fn ends_with(test: &'static str, told: &str, misuse: impl FnOnce()) {
    let Some(ended) = Scenario::new(test).run(misuse) else { return };
    assert!(ended.stderr.ends_with(&format!("which is not an allocation of {told}\n")), "{}", ended.stderr);
}

#[test]
fn a_foreign_pointer_ends_the_process() {
    ends_with("a_foreign_pointer_ends_the_process", "this heap's: in memory of another heap", || {
        let (one, other) = (Heap::new().unwrap(), Heap::new().unwrap());
        let block = other.alloc(layout(100, 8)).unwrap();
        // SAFETY: none: this is the misuse under test.
        unsafe { one.free(block, layout(100, 8)) };
    });
}

/// What a heap is given to free may be the program's heap's.
#[test]
fn memory_of_the_programs_heap_is_none_of_a_heaps() {
    let told = "this heap's: in memory of the program's heap";
    ends_with("memory_of_the_programs_heap_is_none_of_a_heaps", told, || {
        let heap = Heap::builder().mode(millpond::Mode::Tracked).build().unwrap();
        // SAFETY: none: this is the misuse under test.
        unsafe { heap.free(std::ptr::NonNull::from(Box::leak(Box::new([1u8; 100]))).cast(), layout(100, 1)) };
    });
}

/// What the program's heap is given to free may be another's.
#[test]
fn memory_of_a_heap_is_none_of_the_programs_heap() {
    let told = "the program's heap's: in memory of another heap";
    ends_with("memory_of_a_heap_is_none_of_the_programs_heap", told, || {
        let heap = Heap::new().unwrap();
        let large = layout(MIB, 8);
        let block = heap.alloc(large).unwrap();
        // SAFETY: none: this is the misuse under test.
        unsafe { std::alloc::dealloc(block.as_ptr(), large) };
    });
}

#[test]
fn a_child_goes_on_with_the_heap() {
    Scenario::new("a_child_goes_on_with_the_heap").passes(|| {
        let heap = Heap::new().unwrap();
        let stop = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for id in 0..4 {
                let (heap, stop) = (&heap, &stop);
                scope.spawn(move || {
                    let mut random = Random::new(id);
                    while stop.load(Ordering::Relaxed) == 0 {
                        let block = Held::new(heap, layout(random.size(1, 4 * KIB), 8), id as u8).unwrap();
                        block.free(heap);
                    }
                });
            }
            for _ in 0..scaled(100, 20) {
                // SAFETY: the child only uses the heaps, and ends without running anything of the parent's.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    let mut held = Vec::with_capacity(100);
                    for at in 0..100 {
                        held.push(Held::new(&heap, layout(1 + at * 41, 8), at as u8).unwrap());
                    }
                    held.into_iter().for_each(|block| block.free(&heap));
                    heap.trim();
                    // SAFETY: ends the child.
                    unsafe { libc::_exit(0) };
                }
                let mut status = 1;
                // SAFETY: waits for our own child.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert_eq!(status, 0);
            }
            stop.store(1, Ordering::Relaxed);
        });
        assert_eq!(at_rest(&heap).live, 0);
    });
}

/// What lay in the caches of threads that are not in a child is had there by its first call that has need of it, though the
/// child has called nothing else.
#[test]
fn a_child_has_what_others_had_cached() {
    Scenario::new("a_child_has_what_others_had_cached").passes(|| {
        for mode in [Mode::Fast, Mode::Tracked] {
            let heap = Heap::builder().mode(mode).capacity(4 * MIB).build().unwrap();
            let block = Held::new(&heap, layout(KIB, 8), 1).unwrap();
            let (cached, done) = (Barrier::new(2), Barrier::new(2));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let held: Vec<Held> = (0..400).map(|_| Held::new(&heap, layout(KIB, 8), 2).unwrap()).collect();
                    held.into_iter().for_each(|block| block.free(&heap));
                    cached.wait();
                    done.wait();
                });
                cached.wait();
                assert!(heap.stats().thread_cached > 0);
                join(fork(60, || {
                    heap.trim();
                    assert_eq!(heap.stats().thread_cached, 0);
                }));
                join(fork(60, || {
                    // The block has a page, and each other one.
                    assert!(heap.alloc(layout(4 * MIB - PAGE, 8)).is_ok());
                }));
                done.wait();
            });
            block.free(&heap);
        }
    });
}

/// A fallback that gives one block, where it is told to.
struct Squatter(AtomicUsize);

// SAFETY: gives memory that it has mapped, once.
unsafe impl GlobalAlloc for Squatter {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        self.0.swap(0, Ordering::Relaxed) as *mut u8
    }

    unsafe fn dealloc(&self, ptr: *mut u8, _: Layout) {
        self.0.store(ptr as usize, Ordering::Relaxed);
    }
}

/// The fallback's memory lies where the heap had an allocation: freeing it is no double free.
#[test]
fn what_a_fallback_gives_is_not_taken_for_what_was_there() {
    // Alone: nobody else maps anything there.
    Scenario::new("what_a_fallback_gives_is_not_taken_for_what_was_there").passes(a_fallback_gives_what_was_there);
}

fn a_fallback_gives_what_was_there() {
    static SQUATTER: Squatter = Squatter(AtomicUsize::new(0));
    let layout = Layout::from_size_align(40 << 20, 8).unwrap();
    for mode in [Mode::Fast, Mode::Tracked, Mode::Hardened] {
        let heap = Heap::builder().capacity(48 << 20).mode(mode).fallback(&SQUATTER).build().unwrap();
        let first = heap.alloc(layout).unwrap();
        // SAFETY: allocated above, freed once; and a mapping where there is none.
        unsafe {
            heap.free(first, layout);
            heap.trim();
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let there = libc::mmap(first.as_ptr().cast(), layout.size(), prot, flags, -1, 0);
            assert_eq!(there, first.as_ptr().cast(), "it has not gone back");
        }
        SQUATTER.0.store(first.addr().get(), Ordering::Relaxed);
        let second = heap.alloc(layout).unwrap();
        let third = heap.alloc(layout).unwrap();
        assert_eq!((third, heap.stats().fallbacks), (first, 1));
        // SAFETY: allocated above, freed once; what the fallback has back is unmapped.
        unsafe {
            heap.free(third, layout);
            heap.free(second, layout);
            assert_eq!(SQUATTER.0.swap(0, Ordering::Relaxed), first.addr().get(), "the fallback has it back");
            libc::munmap(first.as_ptr().cast(), layout.size());
        }
    }
}

#[test]
fn a_bitset_is_among_the_tables() {
    let [without, with] = [0, 8 * MIB].map(|bits| Heap::builder().bits(bits).build().unwrap().stats());
    for (part, other) in
        [(with.metadata, without.metadata), (with.committed, without.committed), (with.reserved, without.reserved)]
    {
        assert_eq!(part - other, MIB, "{with}");
    }
    assert_eq!(with.accounted(), with.committed);
}

/// What a huge one shed stayed charged where there was no room for a copy of what was left.
#[test]
fn what_a_huge_one_sheds_is_to_be_had_where_there_is_no_room_for_a_copy() {
    let heap = Heap::builder().capacity(48 * MIB).build().expect("memory");
    let [huge, small, rest] = [layout(40 * MIB, 16), layout(10 * MIB, 16), layout(20 * MIB, 16)];
    let held = Held::new(&heap, huge, 1).expect("room");
    // SAFETY: a live block of that layout.
    let ptr = unsafe { heap.realloc(held.ptr, huge, small.size()) }.expect("it has room where it is");
    let held = Held { ptr, layout: small, mark: 1 };
    held.check();
    let other = Held::new(&heap, rest, 2).expect("30 MiB are free");
    [held, other].into_iter().for_each(|held| held.free(&heap));
    assert_eq!(at_rest(&heap).live, 0);
}
