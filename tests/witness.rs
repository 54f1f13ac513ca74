//! Misuse that is heard of by a function of the test's own, in the process that does it: each kind is named, and none takes effect.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward)))]

mod common;

use common::child::Scenario;
use common::eights::{give, layout, take};
use common::words::{into_freed, past_end};
use millpond::{Heap, Mode};
use std::alloc::Layout;
use std::cell::RefCell;
use std::ptr::NonNull;

thread_local! {
    static HEARD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn hear(what: &str) {
    HEARD.with_borrow_mut(|heard| heard.push(what.to_owned()));
}

/// What was heard since the last call.
fn heard() -> Vec<String> {
    HEARD.take()
}

fn heap(mode: Mode, guard: u32) -> Heap {
    Heap::builder().mode(mode).guard(guard).on_misuse(hear).build().expect("memory")
}

/// One line was heard that has all of this in it.
#[track_caller]
fn one(parts: &[&str]) {
    let heard = heard();
    assert!(heard.len() == 1 && parts.iter().all(|part| heard[0].contains(part)), "{parts:?}: {heard:?}");
}

fn address(at: usize) -> NonNull<u8> {
    NonNull::new(std::ptr::with_exposed_provenance_mut(at)).expect("not null")
}

const SIZES: [usize; 4] = [24, 1000, 100_000, 300_000];

#[test]
fn a_wrong_free_is_heard_of_and_changes_nothing() {
    for (mode, guard) in [(Mode::Tracked, 0), (Mode::Hardened, 0), (Mode::Hardened, 1)] {
        let heap = heap(mode, guard);
        for size in SIZES {
            let [live, freed] = [take(&heap, size), take(&heap, size)];
            // SAFETY: live, and of that size.
            unsafe { live.write_bytes(7, size) };
            let id = heap.id_of(live.as_ptr()).expect("live");
            give(&heap, freed, size);
            let bytes = format!(": {size} bytes, id ");
            give(&heap, freed, size);
            one(&["double free of 0x", &bytes, ", freed by thread "]);
            give(&heap, live, size + 8);
            one(&["with a size that is not its own", &bytes]);
            for (wrong, what) in [(16, "not its own, 16 instead of 8"), (4, "not its own, 4 instead of 8")] {
                let layout = Layout::from_size_align(size, wrong).expect("valid");
                // SAFETY: none: the misuse under test.
                unsafe { heap.free(live, layout) };
                one(&["free of 0x", "with an alignment that is", what, &bytes]);
            }
            // Nothing is copied from where more is said to be than there is.
            for wrong in [size - 8, size + 8, 1 << 30] {
                // SAFETY: none: the misuse under test.
                assert!(unsafe { heap.realloc(live, layout(wrong), 2 << 30) }.is_err());
                one(&["realloc of 0x", "with a size that is not its own", &bytes]);
            }
            // SAFETY: inside of it.
            give(&heap, unsafe { live.add(8) }, size);
            one(&["free of 0x", ", 8 bytes into the allocation 0x", &bytes]);
            // SAFETY: none: the misuse under test, of what is freed, inside of what is live, and of no memory at all.
            unsafe {
                assert!(heap.realloc(freed, layout(size), 2 * size).is_err());
                one(&["realloc of 0x", "which has been freed", &bytes]);
                assert!(heap.realloc(live.add(8), layout(size), 2 * size).is_err());
                one(&["realloc of 0x", ", 8 bytes into the allocation 0x", &bytes]);
            }
            for (at, what) in [
                (8, "too small to be an address"),
                (0x1234_5678_9000, "which is not an allocation of this heap's"),
                (0xdead_beef_dead_beef, "not canonical: no address at all"),
                ((&raw const size).addr(), "an address of the stack of this thread"),
                ((heard as *const ()).addr(), "which is not an allocation of this heap's"),
                ((&raw const SIZE).addr(), "which is not an allocation of this heap's"),
            ] {
                give(&heap, address(at), size);
                one(&["free of 0x", what]);
                // SAFETY: as above.
                assert!(unsafe { heap.realloc(address(at), layout(size), size + 1) }.is_err());
                one(&["realloc of 0x", what]);
                assert_eq!(heap.usable_size(address(at).as_ptr()), None);
                assert_eq!(heap.id_of(address(at).as_ptr()), None);
            }
            assert_eq!(heap.id_of(live.as_ptr()), Some(id));
            // SAFETY: live still.
            assert!((0..size).all(|at| unsafe { live.add(at).read() } == 7));
            give(&heap, live, size);
            assert_eq!(heard(), [""; 0]);
        }
        heap.trim();
        let stats = heap.check().expect("sound");
        assert_eq!((stats.live, stats.quarantine, stats.allocations), (0, 0, stats.deallocations), "{mode:?}\n{stats}");
        assert_eq!(heard(), [""; 0]);
    }
}

/// Without records: what no cache has any more, and what was never the heap's.
#[test]
fn a_heap_without_records_is_heard_of_as_far_as_it_sees() {
    let heap = heap(Mode::Fast, 0);
    for size in SIZES {
        let [live, freed] = [take(&heap, size), take(&heap, size)];
        // SAFETY: live, and of that size.
        unsafe { live.write_bytes(7, size) };
        give(&heap, freed, size);
        heap.flush_thread();
        assert_eq!(heard(), [""; 0]);
        let kept = heap.stats().allocations;
        let wild = [8, 0x1234_5678_9000, (&raw const size).addr(), (&raw const SIZE).addr()].map(address);
        // SAFETY: inside of it.
        let inside = unsafe { live.add(8) };
        for at in wild.into_iter().chain([freed, inside]) {
            give(&heap, at, size);
            one(&["free of 0x", if wild.contains(&at) { "is not an allocation of this heap's" } else { "of 0x" }]);
            // SAFETY: none: the misuse under test.
            assert!(unsafe { heap.realloc(at, layout(size), size + 1) }.is_err());
            one(&["realloc of 0x"]);
        }
        assert_eq!(heap.stats().allocations, kept);
        // SAFETY: live still.
        assert!((0..size).all(|at| unsafe { live.add(at).read() } == 7));
        give(&heap, live, size);
        assert_eq!(heard(), [""; 0]);
    }
    heap.trim();
    let stats = heap.check().expect("sound");
    assert_eq!((stats.live, stats.allocations), (0, stats.deallocations));
}

static SIZE: usize = 1;

#[test]
fn what_was_written_where_nobody_may_is_heard_of_and_freed() {
    let heap = heap(Mode::Hardened, 0);
    for size in SIZES {
        for past in [0, 1, 31] {
            let block = take(&heap, size);
            // SAFETY: none: the misuse under test; what lies there is the heap's, and written by nobody else.
            unsafe { block.add(size + past).write(block.add(size + past).read() ^ 0x55) };
            assert_eq!(heap.check_memory(), 1);
            one(&[&past_end(past), &format!(": {size} bytes, id ")]);
            give(&heap, block, size);
            one(&[&past_end(past)]);
        }
    }
    for size in [24, 1000, 16 << 10] {
        let block = take(&heap, size);
        give(&heap, block, size);
        // SAFETY: none: as above.
        unsafe { block.add(size - 1).write(1) };
        heap.trim();
        one(&["write to 0x", &into_freed(size - 1)]);
    }
    heap.trim();
    let stats = heap.check().expect("sound");
    assert_eq!((stats.live, stats.quarantine), (0, 0));
}

/// Also where the chunk behind is looked at afterwards, which has the same bytes before it.
#[test]
fn what_was_written_between_two_is_heard_of_once() {
    const SIZE: usize = 1024 - 32;
    for frees_first in [true, false] {
        let heap = heap(Mode::Hardened, 0);
        let mut blocks: Vec<NonNull<u8>> = (0..8).map(|_| take(&heap, SIZE)).collect();
        blocks.sort_unstable();
        let pair = blocks.windows(2).find(|pair| pair[1].addr().get() - pair[0].addr().get() == 1024);
        let [first, second] = pair.and_then(|pair| pair.try_into().ok()).expect("neighbours");
        // SAFETY: none: the misuse under test.
        unsafe { first.add(SIZE + 3).write(1) };
        if frees_first {
            give(&heap, first, SIZE);
            one(&["write 3 bytes past the end of 0x"]);
        }
        give(&heap, second, SIZE);
        if !frees_first {
            one(&["write 29 bytes before the beginning of 0x", "; or past the end of 0x"]);
            give(&heap, first, SIZE);
            one(&["write 3 bytes past the end of 0x"]);
        }
        blocks.retain(|block| ![first, second].contains(block));
        blocks.into_iter().for_each(|block| give(&heap, block, SIZE));
        // Handed out again, all of them.
        heap.trim();
        let again: Vec<NonNull<u8>> = (0..64).map(|_| take(&heap, SIZE)).collect();
        again.into_iter().for_each(|block| give(&heap, block, SIZE));
        assert_eq!((heard(), heap.check_memory()), (vec![], 0));
    }
}

/// A panic may leave the heap by a free, as tests want it to; the heap goes on.
#[test]
fn a_witness_may_panic() {
    let heap = Heap::builder().mode(Mode::Hardened).on_misuse(|what| panic!("{what}")).build().expect("memory");
    let block = take(&heap, 100);
    give(&heap, block, 100);
    let panicked = std::panic::catch_unwind(|| give(&heap, block, 100)).expect_err("misuse");
    assert!(panicked.downcast_ref::<String>().is_some_and(|what| what.starts_with("double free of 0x")));
    let other = take(&heap, 100);
    give(&heap, other, 100);
    heap.trim();
    assert_eq!(heap.check().expect("sound").live, 0);
}

/// And by a resize: the allocation is as it was.
#[test]
fn a_witness_may_panic_in_a_resize() {
    const SIZE: usize = 600 << 10;
    let heap = Heap::builder().mode(Mode::Hardened).on_misuse(|what| panic!("{what}")).build().expect("memory");
    let block = take(&heap, SIZE);
    let id = heap.id_of(block.as_ptr());
    // SAFETY: none: the misuse under test, right behind the block; and its end, by what lay there.
    let behind = |byte: u8| unsafe { block.add(SIZE).write(block.add(SIZE).read() ^ byte) };
    behind(0x55);
    for _ in 0..2 {
        // SAFETY: the block's own layout.
        let resize = || unsafe { heap.realloc(block, layout(SIZE), SIZE + 100) };
        let panicked = std::panic::catch_unwind(resize).expect_err("misuse");
        assert!(
            panicked.downcast_ref::<String>().is_some_and(|what| what.starts_with("write right past the end of 0x"))
        );
    }
    behind(0x55);
    // SAFETY: as above.
    let resized = unsafe { heap.realloc(block, layout(SIZE), SIZE + 100) }.expect("room");
    assert_eq!((resized, heap.id_of(block.as_ptr())), (block, id));
    give(&heap, block, SIZE + 100);
    heap.trim();
    assert_eq!(heap.check().expect("sound").live, 0);
}

/// Questions about addresses that are none are answered, and nothing is read there: of heaps in each mode, and of the program's
/// own.
#[test]
fn questions_about_wild_addresses_are_answered() {
    let on_the_stack = 1u64;
    let wild = [
        1,
        8,
        4095,
        0x1234_5678_9000,
        0x7fff_ffff_f000,
        0x8000_0000_0000,
        0xdead_beef_dead_beef,
        usize::MAX,
        (&raw const on_the_stack).addr(),
        (&raw const SIZE).addr(),
        (heard as *const ()).addr(),
    ];
    for mode in [Mode::Fast, Mode::Tracked, Mode::Hardened] {
        let heap = Heap::builder().mode(mode).build().expect("memory");
        let block = take(&heap, 100);
        for at in wild {
            let ptr = std::ptr::with_exposed_provenance::<u8>(at);
            assert_eq!((heap.usable_size(ptr), heap.owns(ptr), heap.id_of(ptr)), (None, false, None), "{at:#x}");
            assert_eq!((millpond::usable_size(ptr), millpond::owns(ptr), millpond::id_of(ptr)), (None, false, None));
        }
        for id in [0, 2, 63, 64, 65, 1 << 62, u64::MAX] {
            assert_eq!((heap.ptr_of(id), heap.record(id), heap.callers(id, &mut [0])), (None, None, 0), "ID {id}");
        }
        give(&heap, block, 100);
    }
}

/// A size that is rounded up to the alignment is another.
#[test]
fn a_rounded_size_is_heard_of() {
    for mode in [Mode::Tracked, Mode::Hardened] {
        let heap = heap(mode, 0);
        for (size, align) in [(31_usize, 16), (1000, 64), (70_000, 4096), (300_001, 16)] {
            let [own, rounded] =
                [size, size.next_multiple_of(align)].map(|size| Layout::from_size_align(size, align).expect("valid"));
            let block = heap.alloc(own).expect("memory");
            // SAFETY: none: the misuse under test, which is no free; and then the right one.
            unsafe {
                heap.free(block, rounded);
                one(&["free of 0x", "with a size that is not its own", &format!("{size} bytes, id ")]);
                assert!(heap.realloc(block, rounded, 10).is_err());
                one(&["realloc of 0x", "with a size that is not its own", &format!("{size} bytes, id ")]);
                heap.free(block, own);
            }
            nothing_left(&heap);
        }
    }
}

/// Nothing was heard, and nothing is live.
#[track_caller]
fn nothing_left(heap: &Heap) {
    assert_eq!((heard(), heap.check().expect("sound").live), (Vec::new(), 0));
}

/// A second free aims at what has the memory by now, which is told too.
#[test]
fn a_double_free_inside_another_allocation_names_both() {
    // In a process of its own: an arena that is given up for want of room is had again where it was, unless threads of other tests
    // have taken its addresses.
    Scenario::new("a_double_free_inside_another_allocation_names_both").passes(|| {
        let heap = Heap::builder().mode(Mode::Tracked).capacity(64 << 10).on_misuse(hear).build().expect("memory");
        let small: Vec<_> = (0..1000).map(|_| take(&heap, 40)).collect();
        small.iter().for_each(|block| give(&heap, *block, 40));
        let whole = take(&heap, 60_000);
        let inside = small[500];
        assert!((whole.as_ptr() as usize + 1..whole.as_ptr() as usize + 60_000).contains(&(inside.as_ptr() as usize)));
        give(&heap, inside, 40);
        let into = inside.as_ptr() as usize - whole.as_ptr() as usize;
        one(&[
            "double free of 0x",
            ": 40 bytes, id ",
            &format!("; by now it lies {into} bytes into the allocation 0x"),
            ": 60000 bytes, id ",
        ]);
        give(&heap, whole, 60_000);
        nothing_left(&heap);
    });
}
