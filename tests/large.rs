//! Large and huge blocks: zeroed ones cost no pages, reused ones no faults, freed ones go back.

mod common;

use common::block::{Block, give, take};
use common::child::Scenario;
use common::random::Random;
use common::thread::together;
use common::{GIB, GLOBAL, KIB, MIB, kernel, law, scaled};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::null_mut;

fn zeroed(size: usize) -> *mut u8 {
    // SAFETY: not of size 0.
    let ptr = unsafe { GLOBAL.alloc_zeroed(Layout::from_size_align(size, 8).expect("valid")) };
    assert!(!ptr.is_null());
    ptr
}

/// What zeroed blocks that nobody touches add to the resident memory, in all.
fn cost_of_zeroed(size: usize, count: usize) -> usize {
    let before = kernel::resident();
    let blocks: Vec<*mut u8> = (0..count).map(|_| zeroed(size)).collect();
    let cost = kernel::resident().saturating_sub(before);
    for ptr in blocks {
        // SAFETY: allocated above.
        unsafe { give(ptr, size, 8) };
    }
    cost
}

/// Each in a process of its own: what was handed out once may have been written to, and is zeroed by hand.
fn fresh_zeroed(test: &'static str, size: usize, count: usize) {
    Scenario::new(test).variable("MILLPOND_THP", "never").passes(|| {
        let cost = cost_of_zeroed(size, count);
        assert!(cost < 2 * MIB, "{count} of {} MiB cost {} KiB", size / MIB, cost / KIB);
    });
}

#[test]
fn fresh_zeroed_blocks_of_1_mib_are_not_touched() {
    fresh_zeroed("fresh_zeroed_blocks_of_1_mib_are_not_touched", MIB, 200);
}

#[test]
fn fresh_zeroed_blocks_of_20_mib_are_not_touched() {
    fresh_zeroed("fresh_zeroed_blocks_of_20_mib_are_not_touched", 20 * MIB, 12);
}

#[test]
fn fresh_zeroed_blocks_of_100_mib_are_not_touched() {
    fresh_zeroed("fresh_zeroed_blocks_of_100_mib_are_not_touched", 100 * MIB, 4);
}

#[test]
fn a_fresh_zeroed_gibibyte_is_not_touched() {
    fresh_zeroed("a_fresh_zeroed_gibibyte_is_not_touched", GIB, 1);
}

#[test]
fn purged_memory_is_known_to_be_zero() {
    Scenario::new("purged_memory_is_known_to_be_zero").variable("MILLPOND_THP", "never").passes(|| {
        for size in [MIB, 10 * MIB] {
            let dirty: Vec<Block> = (0..8).map(|seed| Block::new(size, 8, seed).expect("memory")).collect();
            dirty.into_iter().for_each(Block::free);
            millpond::trim();
            let cost = cost_of_zeroed(size, 8);
            assert!(cost < 2 * size, "8 of {} MiB cost {} MiB", size / MIB, cost / MIB);
        }
    });
}

/// As many are held at a time, of sizes in a range, by this way.
fn taken_and_freed_all_the_time(
    test: &'static str,
    held: usize,
    (from, to): (usize, usize),
    make: fn(usize) -> *mut u8,
) {
    Scenario::new(test).variable("MILLPOND_THP", "never").passes(|| {
        let mut random = Random::new(11);
        let mut held: Vec<Option<(*mut u8, usize)>> = vec![None; held];
        let mut touched = 0;
        let mut turn = |touched: &mut usize| {
            let size = from + random.below(to - from);
            let ptr = make(size);
            assert!(!ptr.is_null());
            for at in (0..size).step_by(kernel::page_size()) {
                // SAFETY: within the block.
                unsafe { ptr.add(at).write_volatile(1) };
                *touched += 1;
            }
            let at = random.below(held.len());
            if let Some((ptr, size)) = held[at].replace((ptr, size)) {
                // SAFETY: taken by an earlier turn.
                unsafe { give(ptr, size, 8) };
            }
        };
        (0..100).for_each(|_| turn(&mut touched));
        let (faults, mut touched) = (kernel::minor_faults(), 0);
        (0..scaled(600, 200)).for_each(|_| turn(&mut touched));
        let faults = kernel::minor_faults() - faults;
        assert!(faults * 10 < touched, "{faults} faults for {touched} pages touched");
    });
}

#[test]
fn blocks_taken_and_freed_all_the_time_pay_no_faults() {
    let sizes = (5 * MIB, 25 * MIB);
    taken_and_freed_all_the_time("blocks_taken_and_freed_all_the_time_pay_no_faults", 4, sizes, |size| take(size, 8));
}

#[test]
fn zeroed_blocks_taken_and_freed_all_the_time_pay_no_faults() {
    let sizes = (5 * MIB, 25 * MIB);
    taken_and_freed_all_the_time("zeroed_blocks_taken_and_freed_all_the_time_pay_no_faults", 4, sizes, zeroed);
}

#[test]
fn huge_blocks_taken_and_freed_all_the_time_pay_few_faults() {
    let sizes = (40 * MIB, 44 * MIB);
    taken_and_freed_all_the_time("huge_blocks_taken_and_freed_all_the_time_pay_few_faults", 1, sizes, |size| {
        take(size, 8)
    });
}

#[test]
fn freed_blocks_go_back_on_trim() {
    Scenario::new("freed_blocks_go_back_on_trim").passes(|| {
        for (size, count) in [(MIB, 300), (25 * MIB, 12), (100 * MIB, 3)] {
            let before = kernel::resident();
            let blocks: Vec<Block> = (0..count).map(|seed| Block::new(size, 8, seed).expect("memory")).collect();
            assert!(kernel::resident() - before > 250 * MIB);
            blocks.into_iter().for_each(Block::free);
            let trimmed = millpond::trim();
            let kept = kernel::resident().saturating_sub(before);
            assert!(kept < 25 * MIB, "{} MiB kept of 300", kept / MIB);
            let stats = law::holds();
            assert!(stats.dirty < MIB, "{trimmed:?}, then {stats:?}");
        }
    });
}

/// Runs claimed, given back, purged, resized and zeroed from eight threads at once.
fn large_churn(id: usize) {
    let mut random = Random::new(id as u64);
    let mut held: [Option<Block>; 6] = [const { None }; 6];
    for _ in 0..scaled(1_000, 300) {
        let slot = &mut held[random.below(6)];
        let (size, align) = (random.size(200 * KIB, 4 * MIB), 1 << random.below(19));
        *slot = match (slot.take(), random.below(4)) {
            (Some(block), 0) => Some(block.resize(size).expect("memory")),
            (block, way) => {
                if let Some(block) = block {
                    block.free();
                }
                let make = if way == 1 { Block::zeroed } else { Block::new };
                make(size, align, random.word())
            }
        };
        assert!(slot.is_some(), "null for {size}");
        if random.below(100) == 0 {
            millpond::trim();
        }
    }
    held.into_iter().flatten().for_each(Block::free);
}

#[test]
fn large_blocks_while_others_trim() {
    Scenario::new("large_blocks_while_others_trim").passes(|| {
        let before = law::holds();
        together((0..8).map(|id| move || large_churn(id)));
        let after = law::holds();
        assert_eq!(after.live, before.live);
        millpond::trim();
        assert_eq!(law::holds().dirty, 0);
    });
}

/// Uses up the mappings that the process may have: protects every second page of a mapping otherwise.
fn use_up_mappings() {
    let (page, most) = (kernel::page_size(), 200_000);
    // SAFETY: a fresh mapping touches nothing that exists.
    let start =
        unsafe { libc::mmap(null_mut(), most * page, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    assert_ne!(start, libc::MAP_FAILED);
    let refused = (0..most).step_by(2).any(|at| {
        // SAFETY: a page of the mapping made above, in which there is nothing.
        unsafe { libc::mprotect(start.byte_add(at * page), page, libc::PROT_READ) != 0 }
    });
    assert!(refused, "the limit on mappings is above {most}");
}

#[test]
fn huge_blocks_go_back_where_mappings_are_used_up() {
    Scenario::new("huge_blocks_go_back_where_mappings_are_used_up").passes(|| {
        let before = kernel::resident();
        let blocks: Vec<Block> = (0..8).map(|seed| Block::new(40 * MIB, 8, seed).expect("memory")).collect();
        assert!(kernel::resident() - before > 300 * MIB);
        use_up_mappings();
        blocks.into_iter().for_each(Block::free);
        let kept = kernel::resident().saturating_sub(before);
        assert!(kept < 40 * MIB, "{} MiB kept of 320", kept / MIB);
        law::holds();
    });
}

/// Runs `run` while the process may have so many further mappings and no more.
fn with_mappings_left(left: usize, run: impl FnOnce()) {
    let (page, most) = (kernel::page_size(), 200_000);
    let mut mapped = Vec::with_capacity(most);
    loop {
        // One that has other rights than its neighbour is a mapping of its own.
        let rights = if mapped.len() % 2 == 0 { libc::PROT_READ } else { libc::PROT_NONE };
        // SAFETY: a fresh mapping touches nothing that exists.
        let at = unsafe { libc::mmap(null_mut(), page, rights, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        if at == libc::MAP_FAILED {
            break;
        }
        mapped.push(at);
        assert!(mapped.len() < most, "the limit on mappings is above {most}");
    }
    // SAFETY: mapped above, and not used; the last ones split none.
    let unmap = |at: *mut libc::c_void| assert_eq!(unsafe { libc::munmap(at, page) }, 0);
    mapped.drain(mapped.len() - left..).rev().for_each(unmap);
    run();
    mapped.into_iter().rev().for_each(unmap);
}

/// Where neither a mapping can be made nor a part of one be given back, a heap keeps the addresses that it has: a request that is refused
/// left it with none.
#[test]
fn a_refused_request_costs_no_heap_its_addresses_where_mappings_are_used_up() {
    Scenario::new("a_refused_request_costs_no_heap_its_addresses_where_mappings_are_used_up").passes(|| {
        let heap = millpond::Heap::builder().build().expect("memory");
        let small = Layout::new::<[u64; 8]>();
        // SAFETY: freed once, with its layout.
        let pass = || heap.alloc(small).map(|block| unsafe { heap.free(block, small) });
        pass().expect("memory");
        let (mut start, mut end) = (usize::MAX, 0);
        heap.map().visit(|region| {
            start = start.min(region.address);
            end = end.max(region.address + region.bytes);
        });
        // What is there before and behind is one mapping with it, by whoever it was made.
        let (page, rights) = (kernel::page_size(), libc::PROT_READ | libc::PROT_WRITE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        for at in [start - page, end] {
            let at = core::ptr::without_provenance_mut(at);
            // SAFETY: where something is mapped already, it stays. Small pages are had there, as in a small heap.
            unsafe {
                libc::mmap(at, page, rights, flags, -1, 0);
                libc::madvise(at, page, libc::MADV_NOHUGEPAGE);
            }
        }
        with_mappings_left(0, || {
            let large = Layout::from_size_align(4 * (end - start), 8).expect("valid");
            assert!(heap.alloc(large).is_err());
            pass().expect("what is free is to be had");
        });
        heap.check().expect("sound");
    });
}

/// A hardened heap takes away access to what is freed. Where that fails half-way, what serves next can be used nevertheless.
#[test]
fn what_is_freed_serves_again_where_mappings_are_used_up() {
    Scenario::new("what_is_freed_serves_again_where_mappings_are_used_up").passes(|| {
        for left in 0..6 {
            let heap = millpond::Heap::builder().mode(millpond::Mode::Hardened).build().expect("memory");
            let layout = |bytes| Layout::from_size_align(bytes, 8).expect("valid");
            let _first = heap.alloc(layout(700 * KIB)).expect("memory");
            // From where small pages are to where huge ones are asked for: in two mappings.
            let block = heap.alloc(layout(3 * MIB)).expect("memory");
            with_mappings_left(left, || {
                // SAFETY: allocated above; and so many bytes of its own.
                unsafe {
                    heap.free(block, layout(3 * MIB));
                    heap.alloc(layout(3 * MIB)).expect("memory").write_bytes(1, 3 * MIB);
                }
            });
        }
    });
}

#[test]
fn a_request_beyond_all_memory_costs_nobody_their_chunks() {
    Scenario::new("a_request_beyond_all_memory_costs_nobody_their_chunks").passes(|| {
        let blocks: Vec<Block> = (0..2_000).map(|seed| Block::new(KIB, 8, seed).expect("memory")).collect();
        blocks.into_iter().for_each(Block::free);
        let before = law::holds();
        assert!(before.thread_cached + before.pooled > MIB, "{before:?}");
        for size in [1 << 42, 1 << 45, 1 << 46, isize::MAX as usize - 7] {
            assert!(take(size, 8).is_null(), "{size:#x} bytes");
        }
        let after = law::holds();
        assert_eq!(after.thread_cached + after.pooled, before.thread_cached + before.pooled);
    });
}

#[test]
fn no_alignment_leaves_address_space_reserved() {
    Scenario::new("no_alignment_leaves_address_space_reserved").passes(|| {
        Block::new(MIB, 8, 1).expect("memory").free();
        let before = law::holds();
        for align in (17..=46).map(|log| 1usize << log) {
            for size in [8, 300 * KIB] {
                // `None` is as good: the system may not have that much in one piece.
                if let Some(block) = Block::new(size, align, size as u64) {
                    block.free();
                }
            }
        }
        let after = law::holds();
        let grown = after.reserved.saturating_sub(before.reserved);
        assert!(grown <= 256 * MIB, "{} MiB more reserved", grown / MIB);
        assert_eq!(after.live, before.live);
    });
}
