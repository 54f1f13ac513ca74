//! Where `realloc` stays, and what growing costs.

mod common;

use common::block::Block;
use common::child::Scenario;
use common::{KIB, LARGEST_CLASS, MIB, kernel, law};
use std::collections::BTreeSet;

#[test]
fn a_new_size_of_the_same_class_stays() {
    let mut size = 8;
    while size <= LARGEST_CLASS {
        let mut block = Block::new(size, 1, size as u64).expect("memory");
        let usable = millpond::usable_size(block.ptr).expect("a live chunk");
        let (start, lowest) = (block.ptr, size);
        for new in [usable, lowest, (lowest + usable) / 2, usable, lowest] {
            block = block.resize(new).expect("memory");
            assert_eq!(block.ptr, start, "{size} moved at {new}, class of {usable}");
        }
        block.free();
        // The smallest size of the next class.
        size = usable + 1;
    }
}

#[test]
fn a_new_class_moves_and_the_old_chunk_is_free() {
    // Sized frees rely on it: a chunk is of the class of its layout.
    for (small, big) in [(16, 200), (200, 16), (1000, 100 * KIB), (100 * KIB, 1000)] {
        let block = Block::new(small, 1, 4).expect("memory");
        let block = block.resize(big).expect("memory");
        let usable = millpond::usable_size(block.ptr).expect("a live chunk");
        let fresh = Block::new(big, 1, 5).expect("memory");
        assert_eq!(Some(usable), millpond::usable_size(fresh.ptr));
        block.free();
        fresh.free();
    }
}

#[test]
fn large_blocks_shrink_in_place() {
    for (from, to) in [(8 * MIB, 4 * MIB), (MIB, 300 * KIB), (20 * MIB, 19 * MIB + 1)] {
        let block = Block::new(from, 1, 6).expect("memory");
        let start = block.ptr;
        let block = block.resize(to).expect("memory");
        assert_eq!(block.ptr, start, "{from} -> {to} moved");
        block.free();
    }
}

#[test]
fn what_a_large_block_sheds_is_free_again() {
    Scenario::new("what_a_large_block_sheds_is_free_again").passes(|| {
        for (from, to) in [(16 * MIB, MIB), (100 * MIB, 40 * MIB), (100 * MIB, 1000)] {
            let before = law::holds();
            let block = Block::new(from, 1, 6).expect("memory");
            let full = law::holds();
            let block = block.resize(to).expect("memory");
            let shed = law::holds();
            assert!(full.live - before.live >= from, "{full:?}");
            assert!(shed.live - before.live <= to + to / 4 + 64 * KIB, "{from} -> {to}: {shed:?}");
            block.free();
            assert_eq!(law::holds().live, before.live);
        }
    });
}

#[test]
fn huge_blocks_grow_by_remapping() {
    Scenario::new("huge_blocks_grow_by_remapping").passes(|| {
        let mut block = Block::new(64 * MIB, 1, 8).expect("memory");
        while block.size < 512 * MIB {
            let size = block.size + 64 * MIB;
            block = block.resize(size).expect("memory");
        }
        // A copy would have held 448 MiB beside the 512.
        let peak = kernel::peak_resident();
        assert!(peak < 576 * MIB, "{} MiB at the peak", peak / MIB);
        block = block.resize(40 * MIB).expect("memory");
        let resident = kernel::resident();
        assert!(resident < 104 * MIB, "{} MiB kept", resident / MIB);
        block.free();
        law::holds();
    });
}

#[test]
fn buffers_that_grow_together_leave_little_in_each_class() {
    Scenario::new("buffers_that_grow_together_leave_little_in_each_class").variable("MILLPOND_THP", "never").passes(
        || {
            let most = 64 * KIB;
            let before = kernel::resident();
            for round in 0..8 {
                let mut buffers: Vec<Block> =
                    (0..100).map(|seed| Block::new(16, 8, round * 100 + seed).expect("memory")).collect();
                let mut size = 16;
                while size < most {
                    size = (size + size / 10).max(size + 16).min(most);
                    buffers = buffers.into_iter().map(|buffer| buffer.resize(size).expect("memory")).collect();
                }
                buffers.into_iter().for_each(Block::free);
            }
            let grown = kernel::peak_resident().saturating_sub(before);
            // 6 MiB are live at a time; as much as that in each class was what its pool had room for.
            assert!(grown < 24 * MIB, "{} MiB for {} MiB of buffers", grown / MIB, 100 * most / MIB);
            law::holds();
        },
    );
}

/// Has a block of whole pages no room to grow where it is.
fn hem_in(block: &Block) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: where something is mapped already, it stays.
    unsafe { libc::mmap(block.ptr.add(block.size).cast(), kernel::page_size(), libc::PROT_NONE, flags, -1, 0) };
}

/// Kernels from 6.17 on refuse to move some mappings before they look at where these are to be: the addresses there were lost.
#[test]
fn what_cannot_be_remapped_leaves_no_address_space_reserved() {
    Scenario::new("what_cannot_be_remapped_leaves_no_address_space_reserved").passes(|| {
        let before = kernel::address_space();
        for seed in 0..8 {
            let block = Block::new(64 * MIB, 1, seed).expect("memory");
            // So that it lies in three mappings.
            // SAFETY: an OS page of the block's own; advice changes no contents.
            let advised =
                unsafe { libc::madvise(block.ptr.add(32 * MIB).cast(), kernel::page_size(), libc::MADV_DONTDUMP) };
            assert_eq!(advised, 0);
            block.resize(80 * MIB).expect("memory").free();
        }
        let kept = kernel::address_space().saturating_sub(before);
        assert!(kept < 160 * MIB, "{} MiB of addresses kept", kept / MIB);
        law::holds();
    });
}

/// Where it moves, the system wants addresses for both, and for what it grows by: a copy takes less.
#[test]
fn a_huge_block_is_copied_where_addresses_do_not_suffice_to_remap_it() {
    Scenario::new("a_huge_block_is_copied_where_addresses_do_not_suffice_to_remap_it").passes(|| {
        let block = Block::new(64 * MIB, 1, 9).expect("memory");
        hem_in(&block);
        // Tables for what is looked at here, too.
        law::holds();
        let limit = (kernel::address_space() + 116 * MIB) as u64;
        let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        // SAFETY: changes no memory.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
        let block = block.resize(96 * MIB).expect("there is room for a copy");
        block.free();
        law::holds();
    });
}

/// What it keeps of its own pages is all that it needs.
#[test]
fn a_huge_block_shrinks_where_there_is_no_room_for_a_copy() {
    Scenario::new("a_huge_block_shrinks_where_there_is_no_room_for_a_copy").passes(|| {
        let block = Block::new(64 * MIB, 1, 10).expect("memory");
        let start = block.ptr;
        law::holds();
        let limit = kernel::address_space() as u64;
        let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        // SAFETY: changes no memory.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
        // Whatever is free in arenas is not: what is left does not suffice.
        let mut held: Vec<Block> = Vec::with_capacity(1000);
        held.extend(core::iter::from_fn(|| Block::new(8 * MIB, 1, 11)).take(1000));
        let block = block.resize(10 * MIB).expect("what is there suffices");
        assert_eq!(block.ptr, start);
        let freed = Block::new(34 * MIB, 1, 12).expect("what it has shed is to be had");
        freed.free();
        let block = block.resize(12 * MIB).expect("room for a copy");
        held.into_iter().chain([block]).for_each(Block::free);
        law::holds();
    });
}

/// Both do not fit; but what was cached behind it is free by then.
#[test]
fn a_large_block_grows_into_what_was_cached_behind_it_where_there_is_no_room_for_a_copy() {
    Scenario::new("a_large_block_grows_into_what_was_cached_behind_it_where_there_is_no_room_for_a_copy").passes(
        || {
            let (page, some) = (64 * KIB, 8 * KIB);
            let mut held: Vec<Block> = Vec::with_capacity(10_000);
            let mut chunks: Vec<Block> = Vec::with_capacity(2_000);
            let mut blocks: Vec<Block> = Vec::with_capacity(100);
            for seed in 0..100 {
                blocks.push(Block::new(5 * page, 1, seed).expect("memory"));
                chunks.extend((0..8).map(|at| Block::new(some, 1, 8 * seed + at).expect("memory")));
            }
            // A span that lies right behind one, with all that is in it.
            let starts: BTreeSet<usize> = chunks.iter().map(|chunk| chunk.ptr.addr()).collect();
            let end = |block: &Block| block.ptr.addr() + block.size;
            let is_behind = |block: &&Block| (0..8).all(|at| starts.contains(&(end(block) + at * some)));
            let at = blocks.iter().position(|block| is_behind(&block)).expect("pages that follow each other");
            let block = blocks.swap_remove(at);
            let is_behind = |chunk: &Block| (end(&block)..end(&block) + page).contains(&chunk.ptr.addr());
            let (behind, others) = chunks.into_iter().partition::<Vec<_>, _>(is_behind);
            law::holds();
            let limit = kernel::address_space() as u64;
            let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
            // SAFETY: changes no memory.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
            for size in [8 * MIB, MIB, 5 * page, some] {
                held.extend(core::iter::from_fn(|| Block::new(size, 1, 11)).take(2_000));
            }
            behind.into_iter().for_each(Block::free);
            let start = block.ptr;
            let block = block.resize(6 * page).expect("there is room behind it");
            assert_eq!(block.ptr, start);
            held.into_iter().chain(others).chain(blocks).chain([block]).for_each(Block::free);
            law::holds();
        },
    );
}
