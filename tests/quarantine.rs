//! What is kept back of freed memory, and what is written over it, as it was wished.

mod common;

use common::MIB;
use common::child::{Scenario, say};
use common::thread::together;
use core::alloc::Layout;
use core::ptr::NonNull;
use millpond::{Freed, Heap, Mode};
use std::os::unix::process::ExitStatusExt as _;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("valid")
}

/// Frees a block of ones and returns its address.
fn come_and_go(heap: &Heap, size: usize) -> NonNull<u8> {
    let block = heap.alloc(layout(size)).expect("memory");
    // SAFETY: allocated just now, freed once.
    unsafe {
        block.write_bytes(1, size);
        heap.free(block, layout(size));
    }
    block
}

#[test]
fn no_more_is_kept_back_than_was_wished() {
    for mode in [Mode::Tracked, Mode::Hardened] {
        for (bytes, size, kept) in
            [(0, 100, 0), (1000, 100, 10), (1000, 1001, 0), (1000, 1000, 1), (MIB, 300_000, 3), (usize::MAX, 8, 1024)]
        {
            let heap = Heap::builder().mode(mode).quarantine(bytes).build().expect("memory");
            for _ in 0..5000 {
                come_and_go(&heap, size);
            }
            let stats = heap.check().expect("sound");
            // What lies behind a block is checked where it is hardened.
            let behind = if mode == Mode::Hardened { 32 } else { 0 };
            let one = heap.alloc(layout(size)).expect("memory");
            let whole = Heap::new().expect("memory");
            let like = whole.alloc(layout(size + behind)).expect("memory");
            let chunk = whole.usable_size(like.as_ptr()).expect("live");
            assert_eq!(stats.quarantine, kept * chunk, "{mode:?}, {bytes} of {size}");
            assert_eq!((stats.live, stats.accounted()), (0, stats.committed), "{mode:?}, {bytes} of {size}");
            // SAFETY: allocated above, freed once.
            unsafe { heap.free(one, layout(size)) };
            heap.trim();
            assert_eq!(heap.check().expect("sound").quarantine, 0);
        }
    }
}

/// What is overwritten while it is kept back, and told to a witness that panics, leaves its room to what is freed later.
#[test]
fn a_witness_that_panics_takes_no_room() {
    let heap = Heap::builder().mode(Mode::Tracked).quarantine(1000).freed(Freed::Junk);
    let heap = heap.on_misuse(|what: &str| std::panic::resume_unwind(Box::new(what.len()))).build().expect("memory");
    let told = (0..100).filter(|at| {
        let freed = std::panic::catch_unwind(|| come_and_go(&heap, 100));
        if let (Ok(block), 0..20) = (&freed, at) {
            // SAFETY: none but that the chunk is still there: it has been freed.
            unsafe { block.write(7) };
        }
        freed.is_err()
    });
    assert!(told.count() >= 10);
    assert_eq!(heap.stats().quarantine, 10 * 112);
}

/// Of what is large the addresses alone are kept.
#[test]
fn large_ones_keep_no_memory() {
    Scenario::new("large_ones_keep_no_memory").passes(|| {
        let heap = Heap::builder().mode(Mode::Hardened).build().expect("memory");
        let before = common::kernel::resident();
        for _ in 0..40 {
            come_and_go(&heap, 4 * MIB);
        }
        let more = common::kernel::resident().saturating_sub(before);
        assert!(more < 40 * MIB, "{more} bytes of 160 MiB stay");
        assert!(heap.stats().quarantine >= 160 * MIB, "their addresses are kept");
    });
}

/// Nothing is written over what goes back to the system at once, or keeps its addresses alone: the system would have to find memory
/// for all that was never touched.
#[test]
fn huge_ones_are_not_touched_as_they_go() {
    Scenario::new("huge_ones_are_not_touched_as_they_go").passes(|| {
        for mode in [Mode::Tracked, Mode::Hardened] {
            let heap = Heap::builder().mode(mode).quarantine(MIB).freed(Freed::Junk).build().expect("memory");
            let before = common::kernel::peak_resident();
            let block = heap.alloc(layout(256 * MIB)).expect("memory");
            // SAFETY: allocated just now, freed once.
            unsafe { heap.free(block, layout(256 * MIB)) };
            let more = common::kernel::peak_resident() - before;
            assert!(more < 64 * MIB, "{mode:?}: {more} bytes of 256 MiB were resident");
        }
    });
}

/// Where there are records a freed mapping is nobody's at once; else the heap keeps one for a while where they come and go.
#[test]
fn huge_ones_go_at_once_where_there_are_records() {
    for (mode, kept) in [(Mode::Fast, 64 * MIB), (Mode::Tracked, 0), (Mode::Hardened, 0)] {
        let heap = Heap::builder().mode(mode).build().expect("memory");
        for dirty in [0, kept, kept] {
            let block = heap.alloc(layout(64 * MIB)).expect("memory");
            // SAFETY: allocated just now, freed once.
            unsafe { heap.free(block, layout(64 * MIB)) };
            assert_eq!(heap.stats().dirty, dirty, "{mode:?}");
        }
    }
}

/// The oldest goes first: what was freed last is not handed out again.
#[test]
fn the_oldest_goes_first() {
    let heap = Heap::builder().mode(Mode::Tracked).quarantine(6400).build().expect("memory");
    let mut last: Vec<NonNull<u8>> = Vec::new();
    for _ in 0..10_000 {
        let block = come_and_go(&heap, 64);
        assert!(!last.contains(&block));
        last.push(block);
        if last.len() == 100 {
            last.remove(0);
        }
    }
}

#[test]
fn threads_share_the_bound() {
    let heap = Heap::builder().mode(Mode::Hardened).quarantine(50_000).build().expect("memory");
    together((0..8).map(|thread| {
        let heap = &heap;
        move || {
            for round in 0..5000 {
                come_and_go(heap, 1 + (thread * 977 + round * 31) % 3000);
            }
        }
    }));
    let stats = heap.check().expect("sound");
    assert!(stats.quarantine > 0 && stats.quarantine < 2 * 50_000, "{}", stats.quarantine);
    heap.trim();
    let stats = heap.check().expect("sound");
    assert_eq!((stats.quarantine, stats.live), (0, 0));
}

#[test]
fn freed_memory_is_overwritten_as_was_wished() {
    for mode in [Mode::Tracked, Mode::Hardened] {
        for (freed, byte) in [(Freed::Junk, 0xdf), (Freed::Zero, 0), (Freed::Keep, 1)] {
            let heap = Heap::builder().mode(mode).quarantine(MIB).freed(freed).build().expect("memory");
            let block = come_and_go(&heap, 1000);
            // SAFETY: kept back, so it is there, and nobody else's.
            let there = unsafe { core::slice::from_raw_parts(block.as_ptr(), 1000) };
            assert!(there.iter().all(|there| *there == byte), "{mode:?}, {freed:?}: {there:?}");
            if freed == Freed::Keep {
                // SAFETY: as above; nobody looks.
                unsafe { block.write(7) };
            }
            heap.trim();
        }
    }
}

/// What no heap could serve is refused without giving up what is kept back; what one could have, only after that.
#[test]
fn what_nothing_can_serve_frees_nothing() {
    for mode in [Mode::Tracked, Mode::Hardened] {
        let heap = Heap::builder().mode(mode).quarantine(64 * MIB).capacity(64 * MIB).build().expect("memory");
        for size in [64, 1000, 300_000, 40 * MIB] {
            come_and_go(&heap, size);
        }
        let kept = heap.stats().quarantine;
        assert!(kept > 300_000, "{mode:?}: {kept}");
        let largest = isize::MAX as usize - 7;
        for (size, align) in [(65 * MIB, 8), (1 << 45, 8), (1 << 50, 64), (largest, 8), (largest, 4096), (8, 1 << 62)] {
            let layout = Layout::from_size_align(size.min(largest + 1 - align.max(8)), align).expect("valid");
            assert!(heap.alloc(layout).is_err(), "{mode:?}: {layout:?}");
        }
        assert_eq!(heap.stats().quarantine, kept, "{mode:?}");
        let block = heap.alloc(layout(50 * MIB)).expect("memory, once what is kept back is given up");
        // SAFETY: allocated just now, freed once.
        unsafe { heap.free(block, layout(50 * MIB)) };
        heap.check().expect("sound");
    }
}

fn names_a_late_write(test: &'static str, heap: impl FnOnce() -> Heap) {
    let Some(ended) = Scenario::new(test).run(|| {
        let heap = heap();
        let block = come_and_go(&heap, 100);
        // SAFETY: none: the misuse under test.
        unsafe { block.add(5).write(1) };
        heap.trim();
        say(format_args!("survived\n"));
    }) else {
        return;
    };
    assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{}", ended.stdout);
    assert!(ended.stderr.contains("after it was freed, 5 bytes into it"), "{}", ended.stderr);
}

#[test]
fn a_late_write_is_named_among_zeros() {
    names_a_late_write("a_late_write_is_named_among_zeros", || {
        Heap::builder().mode(Mode::Hardened).freed(Freed::Zero).build().expect("memory")
    });
}

#[test]
fn a_late_write_is_named_where_records_are_kept() {
    names_a_late_write("a_late_write_is_named_where_records_are_kept", || {
        Heap::builder().mode(Mode::Tracked).quarantine(1000).freed(Freed::Junk).build().expect("memory")
    });
}

/// The same for the program's own allocator.
#[test]
fn the_environment_says_how_much() {
    let test = Scenario::new("the_environment_says_how_much").variable("MILLPOND_MODE", "hardened");
    test.variable("MILLPOND_QUARANTINE", "64K").variable("MILLPOND_FREED", "zero").passes(|| {
        for _ in 0..1000 {
            let block = common::block::take(10_000, 8);
            // SAFETY: allocated just now, freed once; kept back after that, so it is there.
            unsafe {
                block.write_bytes(1, 10_000);
                common::block::give(block, 10_000, 8);
                assert!((0..10_000).all(|at| block.add(at).read() == 0));
            }
        }
        let kept = millpond::stats().quarantine;
        assert!(kept > 40_000 && kept < 100_000, "{kept}");
        common::law::holds();
    });
}

/// Neither as allocated, where nobody had it, nor as live once it has been freed; guarded ones too.
#[test]
fn what_is_kept_back_is_not_counted_as_the_programs() {
    for guard in [0, 1] {
        let heap = Heap::builder().mode(Mode::Hardened).guard(guard).build().expect("memory");
        let block = heap.alloc(layout(100)).expect("memory");
        let stats = heap.stats();
        assert_eq!((stats.allocations, stats.allocated_bytes), (1, stats.live as u64), "guard {guard}");
        // SAFETY: allocated above, freed once.
        unsafe { heap.free(block, layout(100)) };
        come_and_go(&heap, 300_000);
        let stats = heap.stats();
        let all = (stats.allocations, stats.deallocations, stats.large_live, stats.live);
        assert_eq!(all, (2, 2, 0, 0), "guard {guard}");
        assert!(stats.quarantine > 300_000 && stats.accounted() == stats.committed);
    }
}

/// What one thread has had kept back leaves room under the limit for what others free.
#[test]
fn who_frees_first_does_not_have_the_whole_limit() {
    for size in [400, 4000] {
        let heap = Heap::builder().mode(Mode::Hardened).quarantine(50_000).on_misuse(|_| ()).build().expect("memory");
        (0..1000).for_each(|_| _ = come_and_go(&heap, size));
        let full = heap.stats().quarantine;
        // Of eight threads some have another queue than this one.
        for _ in 0..8 {
            let block = std::thread::scope(|scope| {
                scope.spawn(|| come_and_go(&heap, size).expose_provenance()).join().expect("no panic")
            });
            // SAFETY: none: written to after its free, while nobody else has it if it is kept back.
            unsafe { core::ptr::with_exposed_provenance_mut::<u8>(block.get()).write(1) };
        }
        assert_eq!(heap.check_memory(), 8, "{size}");
        assert_eq!(heap.stats().quarantine, full, "{size}");
    }
}
