//! What a heap calls of the program's: closures that capture, kept in the heap itself; each is dropped once, however it ends.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward)))]

mod common;

use common::MIB;
use common::child::Scenario;
use common::eights::{give, take};
use millpond::{BuildError, Freed, Heap, HeapBuilder, Mode};
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Barrier, OnceLock, Weak, mpsc};

const MODES: [Mode; 3] = [Mode::Fast, Mode::Tracked, Mode::Hardened];

/// Frees a block twice, which is no free but is heard of.
fn misuse(heap: &Heap) {
    let block = take(heap, 300_000);
    give(heap, block, 300_000);
    give(heap, block, 300_000);
}

/// How many there are of what a closure holds.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count.clone())
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A builder with two closures, each of which holds one.
fn counting(builder: HeapBuilder<'static>, count: &Arc<AtomicUsize>) -> HeapBuilder<'static> {
    let [soft, heard] = [Counted::new(count), Counted::new(count)];
    let builder = builder.soft_limit(MIB, move |_, _| _ = &soft);
    builder.on_misuse(move |_| _ = &heard)
}

#[test]
fn closures_hear_with_what_they_have_captured() {
    for mode in MODES {
        let (sender, passed) = mpsc::channel();
        let (told, name) = (Arc::new(AtomicUsize::new(0)), format!("{mode:?}"));
        let (count, heard) = (told.clone(), sender.clone());
        let heap = Heap::builder().mode(mode).soft_limit(MIB, move |heap, bytes| {
            assert!(heap.stats().live > 0 && count.fetch_add(1, Relaxed) == 0);
            sender.send(format!("{bytes} bytes in {name}")).expect("heard");
        });
        let heap = heap.on_misuse(move |what| heard.send(what.to_owned()).expect("heard")).build().expect("memory");
        let block = take(&heap, 2 * MIB);
        assert_eq!(passed.try_recv().expect("told").split(" bytes in ").nth(1), Some(&*format!("{mode:?}")));
        give(&heap, block, 2 * MIB);
        give(&heap, block, 2 * MIB);
        let said = passed.try_recv().expect("told");
        assert!(said.contains(&format!("{:#x}", block.addr())), "{said}");
        assert_eq!((passed.try_recv(), told.load(Relaxed)), (Err(mpsc::TryRecvError::Empty), 1));
        drop(heap);
        assert_eq!((passed.try_recv(), Arc::strong_count(&told)), (Err(mpsc::TryRecvError::Disconnected), 1));
    }
}

#[test]
fn functions_serve_as_before() {
    fn soft(_: &Heap, _: usize) {
        COUNT.fetch_add(1, Relaxed);
    }
    fn hear(_: &str) {
        COUNT.fetch_add(1, Relaxed);
    }
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let pointer: fn(&Heap, usize) = soft;
    let hearing: fn(&str) = hear;
    let builders = [
        Heap::builder().soft_limit(MIB, soft).on_misuse(hear),
        Heap::builder().soft_limit(MIB, pointer).on_misuse(hearing),
        Heap::builder().soft_limit(MIB, |_, _| _ = COUNT.fetch_add(1, Relaxed)).on_misuse(|_| hear("")),
    ];
    for builder in builders {
        let heap = builder.mode(Mode::Tracked).build().expect("memory");
        take(&heap, 2 * MIB);
        misuse(&heap);
    }
    assert_eq!(COUNT.load(Relaxed), 6);
}

#[test]
fn a_closure_is_dropped_once_however_it_ends() {
    let count = Arc::new(AtomicUsize::new(0));
    let left = |what: &str, left: usize| {
        assert_eq!((count.load(Relaxed), Arc::strong_count(&count)), (left, 1 + left), "{what}");
    };
    drop(counting(Heap::builder(), &count));
    left("a builder that builds nothing", 0);

    let builder = counting(counting(counting(Heap::builder(), &count), &count), &count);
    left("replaced twice", 2);
    let heap = builder.build().expect("memory");
    left("built", 2);
    drop(heap);
    left("the heap is gone", 0);

    let builder = counting(Heap::builder(), &count);
    let (first, second) = (builder.clone().build().expect("memory"), builder.clone());
    left("one built, and two more", 6);
    drop(first);
    left("one less", 4);
    drop((builder, second));
    left("none", 0);

    for (builder, error) in [
        (Heap::builder().capacity(1), BuildError::Capacity(1)),
        (Heap::builder().capacity(MIB), BuildError::SoftLimit(MIB)),
        (Heap::builder().pools(millpond::PoolTable::Sizes(&[])), BuildError::Pools(0)),
        (Heap::builder().bits(usize::MAX), BuildError::Memory),
    ] {
        assert_eq!(counting(builder, &count).build().expect_err("refused"), error);
        left("refused", 0);
    }

    // Where it is in use until a panic of its own.
    let (inside, held) = (Counted::new(&count), Counted::new(&count));
    let heap = Heap::builder().soft_limit(MIB, move |_, _| panic!("{}", inside.0.load(Relaxed)));
    let heap = heap.mode(Mode::Tracked).on_misuse(move |_| panic!("{}", held.0.load(Relaxed))).build().expect("memory");
    assert!(catch_unwind(|| take(&heap, 2 * MIB)).is_err());
    assert!(catch_unwind(|| misuse(&heap)).is_err());
    left("both have panicked", 2);
    assert_eq!(heap.check().expect("sound").live, 0);
    drop(heap);
    left("that heap is gone", 0);
}

/// Where the system gives no memory for a heap, its closures end with the builder.
#[test]
fn a_heap_without_memory_drops_its_closures() {
    Scenario::new("a_heap_without_memory_drops_its_closures").address_space(256 * MIB).passes(|| {
        let count = Arc::new(AtomicUsize::new(0));
        let builder = counting(Heap::builder(), &count);
        let mut heaps = Vec::with_capacity(1000);
        let error = loop {
            match builder.clone().build() {
                Ok(heap) => heaps.push(heap),
                Err(error) => break error,
            }
        };
        assert!(!heaps.is_empty() && error == BuildError::Memory, "{} heaps, then {error}", heaps.len());
        assert_eq!(count.load(Relaxed), 2 * (heaps.len() + 1));
        drop((heaps, builder));
        assert_eq!((count.load(Relaxed), Arc::strong_count(&count)), (0, 1));
    });
}

/// The one of the two closures that is dropped first panics: the other is dropped all the same, and the heap's memory is back.
#[test]
fn a_drop_that_panics_leaves_nothing() {
    #[derive(Clone)]
    struct Bomb(Counted);
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("dropped with {}", self.0.0.load(Relaxed));
            }
        }
    }
    let count = Arc::new(AtomicUsize::new(0));
    let [soft, heard] = [Bomb(Counted::new(&count)), Bomb(Counted::new(&count))];
    let builder = Heap::builder().soft_limit(MIB, move |_, _| _ = &soft).on_misuse(move |_| _ = &heard);
    let heap = builder.build().expect("memory");
    const MARK: [u8; 16] = *b"of a heap's own!";
    let block = take(&heap, 2 * MIB);
    // SAFETY: so many bytes are the block's.
    unsafe { block.cast().write(MARK) };
    let read = || {
        let (mut read, memory) = ([0; MARK.len()], std::fs::File::open("/proc/self/mem").expect("there"));
        memory.read_exact_at(&mut read, block.addr().get() as u64).map(|()| read).ok()
    };
    assert_eq!(read(), Some(MARK));
    assert!(catch_unwind(AssertUnwindSafe(|| drop(heap))).is_err());
    assert_eq!((count.load(Relaxed), Arc::strong_count(&count)), (0, 1));
    // Something else may be mapped there by now.
    assert_ne!(read(), Some(MARK));
}

/// A closure may use the heap that calls it, and is called again from inside its call.
#[test]
fn a_closure_uses_its_heap() {
    for mode in MODES {
        let slot: Arc<OnceLock<Weak<Heap>>> = Arc::default();
        let depth = Arc::new(AtomicUsize::new(0));
        let (own, calls) = (slot.clone(), depth.clone());
        let soft = move |heap: &Heap, _: usize| {
            // Above the limit already: that is not told again.
            let block = take(heap, 3 * MIB);
            give(heap, block, 3 * MIB);
        };
        let hear = move |_: &str| {
            let heap = own.get().and_then(Weak::upgrade).expect("there");
            if calls.fetch_add(1, Relaxed) < 3 {
                misuse(&heap);
            }
        };
        let heap = Arc::new(Heap::builder().mode(mode).soft_limit(MIB, soft).on_misuse(hear).build().expect("memory"));
        slot.set(Arc::downgrade(&heap)).expect("once");
        let block = take(&heap, 2 * MIB);
        misuse(&heap);
        give(&heap, block, 2 * MIB);
        assert_eq!(depth.load(Relaxed), 4, "{mode:?}");
        assert_eq!(heap.check().expect("sound").live, 0, "{mode:?}");
    }
}

/// Many threads are in the same closure at once: each waits there for all.
#[test]
fn threads_are_in_a_closure_at_the_same_time() {
    const THREADS: usize = 4;
    let (all, count) = (Arc::new(Barrier::new(THREADS)), Arc::new(AtomicUsize::new(0)));
    let (inside, counted) = (all.clone(), count.clone());
    let hear = move |_: &str| {
        inside.wait();
        counted.fetch_add(1, Relaxed);
    };
    let heap = Heap::builder().mode(Mode::Tracked).on_misuse(hear).build().expect("memory");
    std::thread::scope(|scope| (0..THREADS).for_each(|_| _ = scope.spawn(|| misuse(&heap))));
    assert_eq!(count.load(Relaxed), THREADS);
    drop(heap);
    assert_eq!(Arc::strong_count(&all), 1);
}

/// All 64 bytes, and an alignment of 16.
#[test]
fn a_closure_captures_eight_words() {
    let (words, told) = ([1u128, 2, 3], Arc::new(AtomicUsize::new(0)));
    let count = told.clone();
    let hear = move |_: &str| _ = count.fetch_add(words.iter().sum::<u128>() as usize, Relaxed);
    assert_eq!(size_of_val(&hear), 64);
    let heap = Heap::builder().mode(Mode::Tracked).on_misuse(hear).build().expect("memory");
    misuse(&heap);
    assert_eq!(told.load(Relaxed), 6);
}

/// Who shrinks an allocation has not passed a soft limit, though another has and has not said so yet: here by what grows meanwhile,
/// in the middle of which a witness hears of something.
#[test]
fn what_shrinks_is_not_told_of_a_limit_that_others_have_passed() {
    const PAGE: usize = 64 << 10;
    /// Bytes that take so many pages in the mode `hardened`.
    const fn pages(count: usize) -> usize {
        count * PAGE - 64
    }
    fn resize(heap: &Heap, block: std::ptr::NonNull<u8>, [from, to]: [usize; 2]) -> std::ptr::NonNull<u8> {
        // SAFETY: a block of that size.
        unsafe { heap.realloc(block, common::eights::layout(pages(from)), pages(to)) }.expect("memory")
    }
    static HEAP: OnceLock<Heap> = OnceLock::new();
    static BLOCK: OnceLock<usize> = OnceLock::new();
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    static SHRUNK: OnceLock<(bool, Option<usize>, usize)> = OnceLock::new();
    let builder = Heap::builder().mode(Mode::Hardened).capacity(100 * PAGE).soft_limit(56 * PAGE, |heap, _| {
        if TOLD.fetch_add(1, Relaxed) == 0 {
            // Now there is no way back for what has shrunk.
            while heap.alloc(common::eights::layout(pages(1))).is_ok() {}
            std::panic::resume_unwind(Box::new("told"));
        }
    });
    let builder = builder.on_misuse(|_| {
        let (heap, at) = (HEAP.get().expect("built"), *BLOCK.get().expect("allocated"));
        let block = std::ptr::NonNull::new(std::ptr::with_exposed_provenance_mut(at)).expect("not null");
        let shrunk = catch_unwind(|| resize(heap, block, [32, 8]));
        SHRUNK.get_or_init(|| (shrunk.is_ok(), heap.usable_size(block.as_ptr()), TOLD.load(Relaxed)));
    });
    let heap = HEAP.get_or_init(|| builder.build().expect("memory"));
    BLOCK.get_or_init(|| take(heap, pages(32)).as_ptr().expose_provenance());
    let grows = take(heap, pages(16));
    // SAFETY: none, but that its pages are longer.
    unsafe { grows.add(pages(16)).write(7) };
    let grown = catch_unwind(|| resize(heap, grows, [16, 40]));
    assert_eq!(SHRUNK.get(), Some(&(true, Some(pages(8)), 0)), "it has shrunk, and nothing was told");
    assert!(grown.is_err() && TOLD.load(Relaxed) > 0, "who has grown is told");
    assert_eq!(heap.usable_size(grows.as_ptr()), Some(pages(16)), "and has it as it was");
}

/// Past a soft limit the heap is trimmed, and what was kept back is looked at: should a witness panic there, all is as it was, too.
#[test]
fn a_witness_that_panics_in_the_trim_past_a_soft_limit_takes_nothing() {
    let heap = Heap::builder().mode(Mode::Tracked).quarantine(1000).freed(Freed::Junk).soft_limit(4 * MIB, |_, _| ());
    let heap = heap.on_misuse(|_| std::panic::resume_unwind(Box::new("heard"))).build().expect("memory");
    let overwrite = || {
        let block = take(&heap, 100);
        give(&heap, block, 100);
        // SAFETY: none but that the chunk is still there: it has been freed.
        unsafe { block.write(7) };
    };
    overwrite();
    let before = heap.stats();
    assert!(catch_unwind(|| take(&heap, 8 * MIB)).is_err());
    let after = heap.stats();
    assert_eq!((after.large_live, after.requested), (before.large_live, before.requested));
    let block = take(&heap, MIB);
    overwrite();
    // SAFETY: a block of that size.
    let grown = catch_unwind(|| unsafe { heap.realloc(block, common::eights::layout(MIB), 8 * MIB) });
    assert!(grown.is_err());
    assert_eq!(heap.record(heap.id_of(block.as_ptr()).expect("live")).map(|record| record.size), Some(MIB));
    give(&heap, block, MIB);
    assert_eq!(heap.stats().large_live, before.large_live);
}
